"""Text for the width of the terminal: long lines are continued below, indented as their text is.

Files and pipes get each line whole, as `grep` and programs want it.
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from contextlib import suppress

_UNSAFE = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\udc80-\\udc9f]"
)
_WIDEST_LABEL = 32
_MIN_WIDTH, _DEFAULT_WIDTH = 40, 80  # columns
_TOKENS = re.compile(r"`[^`\n]*`[^\s`]*|\S+")
_LABEL = re.compile(r"\s*(?:\S+(?: \S+)*\s{2,})*")


def terminal_width(err: bool = False) -> int | None:
    """Columns of the terminal, or of COLUMNS, where a user sets it; None where a file or a pipe takes the text.

    Parameters
    ----------
    err : bool, default False
        Of stderr instead of stdout.
    """
    columns_variable, stream = os.environ.get("COLUMNS", ""), sys.stderr if err else sys.stdout
    if columns_variable.isdecimal() and int(columns_variable):
        return max(_MIN_WIDTH, int(columns_variable))
    if not stream.isatty():
        return None
    with suppress(OSError, ValueError):  # a terminal of its own, such as that of a notebook, that has no size
        return max(_MIN_WIDTH, os.get_terminal_size(stream.fileno()).columns or _DEFAULT_WIDTH)
    return _DEFAULT_WIDTH


def safe(text: str) -> str:
    """A text that a terminal shows and does not obey.

    Class names, ids and reasons come from the files of others. Control characters, but for the line feed and the tab,
    and those that turn the direction of writing around, are escaped as Python writes them: `\\x1b`.

    Parameters
    ----------
    text : str
        Lines for people.

    Returns
    -------
    str
    """
    return _UNSAFE.sub(lambda match: repr(match.group())[1:-1], text)


def wrap(text: str, width: int | None = None, err: bool = False) -> str:
    """Make a text `safe`, and break lines that are longer than `width` at spaces; none for a file or a pipe.

    What follows is indented to the column where the line's own text begins, after labels that two or more spaces end;
    else by two. Commands in backquotes stay in one piece where they fit, and so do words: paths can be copied. Rows of
    Markdown tables are left as they are.

    Parameters
    ----------
    width : columns; None takes `terminal_width(err)`.
    err : whether the text goes to stderr.
    """
    width = width or terminal_width(err)
    return "\n".join(_wrap_line(line, width) for line in safe(text).split("\n")) if width else safe(text)


def _wrap_line(line: str, width: int) -> str:
    if columns(line) <= width or line.startswith("|"):
        return line
    label = _LABEL.match(line)
    prefix = label.group() if label else ""
    if not prefix.strip() or columns(prefix) > min(_WIDEST_LABEL, width // 2):
        prefix = line[: len(line) - len(line.lstrip())]
    indent = " " * (columns(prefix) if prefix.strip() else columns(prefix) + 2)
    lines, current, used = [], prefix, columns(prefix)
    for token in _tokens(line[len(prefix) :], width - len(indent)):
        needed = columns(token)
        if used + needed > width and current.strip() and current != prefix:
            lines.append(current.rstrip())
            current, used = indent, len(indent)
            token = token.lstrip(" ")
            needed = columns(token)
        current += token
        used += needed
    return "\n".join([*lines, current.rstrip()])


def _tokens(text: str, width: int) -> list[str]:
    """Words with the spaces before them; a command in backquotes is one word where it fits."""
    tokens, end = [], 0
    for match in _TOKENS.finditer(text):
        word, spaces = match.group(), text[end : match.start()]
        if " " in word and columns(word) > width:
            first, *others = word.split(" ")
            tokens += [spaces + first, *(f" {other}" for other in others)]
        else:
            tokens.append(spaces + word)
        end = match.end()
    return tokens


def columns(text: str) -> int:
    """How many columns a terminal needs for a text: two for an East Asian wide letter, none for a combining one."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text
    )
