"""Wrap text to the width of the terminal: continuation lines are indented like the text.

Lines for files and pipes are not wrapped, so that programs such as `grep` can read them.
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
    """Columns of the terminal, or the variable COLUMNS if set; None for a file or a pipe.

    Parameters
    ----------
    err : bool, default False
        Whether to use stderr instead of stdout.
    """
    columns_variable, stream = os.environ.get("COLUMNS", ""), sys.stderr if err else sys.stdout
    if columns_variable.isdecimal() and int(columns_variable):
        return max(_MIN_WIDTH, int(columns_variable))
    if not stream.isatty():
        return None
    with suppress(OSError, ValueError):  # a terminal without a size, such as that of a notebook
        return max(_MIN_WIDTH, os.get_terminal_size(stream.fileno()).columns or _DEFAULT_WIDTH)
    return _DEFAULT_WIDTH


def safe(text: str) -> str:
    """Escape control characters, so that a terminal shows them instead of executing them.

    Class names, ids and reasons come from untrusted files. Control characters except line feed and tab, and characters
    that change the direction of writing, are written as Python escapes: `\\x1b`.

    Parameters
    ----------
    text : str
        One or more lines.

    Returns
    -------
    str
    """
    return _UNSAFE.sub(lambda match: repr(match.group())[1:-1], text)


def wrap(text: str, width: int | None = None, err: bool = False) -> str:
    """Make a text `safe`, and break lines longer than `width` at spaces; lines for a file or a pipe are not broken.

    Continuation lines are indented to the column where the text of the line starts (after a label that ends in two or
    more spaces), or else by two. Words, and commands in backquotes that fit, are not broken, so that they can be
    copied. Rows of Markdown tables are not changed.

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
    """Words with the spaces before them; a command in backquotes is one word if it fits."""
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
