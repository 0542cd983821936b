"""Markdown of names and figures: escaped text, tables, lists."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from featcache._utils.formatting import printable

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#|~$&@]|:(?=//))")
_RULES = {"<": "---", ">": "---:"}


def escape(text: str) -> str:
    """Text that Markdown and HTML show as it is, in one line: class names, names of files.

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    str

    Examples
    --------
    >>> print(escape("<b>a|b</b>"))
    \\<b\\>a\\|b\\</b\\>
    """
    return _SPECIAL.sub(r"\\\1", printable(text))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], align: str = "<") -> str:
    """A table.

    Parameters
    ----------
    header : sequence of str
        The names of the columns.
    rows : iterable of sequence of str
        Cells as Markdown, see `escape`.
    align : str
        "<" or ">" for each column; the last one holds for all further columns. Default: "<".

    Returns
    -------
    str
    """
    rules = [_RULES[side] for side in align.ljust(len(header), align[-1])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rules, *rows])


def bullets(texts: Iterable[str]) -> str:
    """A list, an item each."""
    return "\n".join(f"- {text}" for text in texts)
