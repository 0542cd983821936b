"""Results as HTML for notebooks. It has no colours: it takes those of the notebook, light or dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_MAX_ROWS = 50


def text_block(text: str) -> str:
    """Text with its line breaks and columns."""
    return f"<pre>{escape(text)}</pre>"


def paragraph(text: str) -> str:
    """One paragraph of text."""
    return f"<p>{escape(text)}</p>"


def folded(title: str, content: str) -> str:
    """HTML that the reader unfolds by a click on its title."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of text, at most 50 rows of it; columns without a text in any row are left out.

    Parameters
    ----------
    header : sequence of str
        The names of the columns.
    rows : iterable of sequence of str
        The cells, as many in each row as there are columns.

    Returns
    -------
    str
    """
    rows = list(rows)
    columns = [column for column in range(len(header)) if any(row[column] for row in rows)]
    shown = [_row("td", [row[column] for column in columns]) for row in rows[:_MAX_ROWS]]
    more = paragraph(f"and {len(rows) - _MAX_ROWS:,} more") if len(rows) > _MAX_ROWS else ""
    names = _row("th", [header[column] for column in columns])
    return f"<table><thead>{names}</thead><tbody>{''.join(shown)}</tbody></table>{more}"


def _row(tag: str, cells: Sequence[str]) -> str:
    # Jupyter aligns the cells of tables to the right, by a rule for each cell
    written = "".join(f'<{tag} style="text-align: left">{escape(cell)}</{tag}>' for cell in cells)
    return f"<tr>{written}</tr>"
