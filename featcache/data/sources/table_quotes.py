"""Quotes in tables of texts: `quotes_are_text` for tabs between columns, and `refuse_swallowed_rows`."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from featcache.core.samples import SEPARATOR
from featcache.data.sources.table_columns import Columns, Row
from featcache.errors import DataLayoutError

QUOTES_NOTE = 'quotes (") are part of the texts: they do not pair as in CSV'
_LOOK = (
    'Look for a quote (") that opens or closes a text by mistake; a quote within a text is written twice, and quotes '
    "stand around the text."
)


def quotes_are_text(text: str) -> bool:
    """Whether the quotes of a table with tabs between its columns are characters of the texts.

    They are if they do not pair as in CSV: the last one is not closed, or a cell in quotes holds line breaks and as
    many tabs as a row. A file with quotes in its first line, or with doubled quotes that pair, is read as CSV.

    Parameters
    ----------
    text : str
        The table.
    """
    header = text.partition("\n")[0]
    if '"' in header or '"' not in text:
        return False
    tabs = header.count("\t")
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True)
        return any(_has_breaks(cell) and cell.count("\t") >= tabs for cells in rows for cell in cells)
    except csv.Error:
        return '""' not in text or not all(line.count('"') % 2 == 0 for line in text.split("\n"))


def refuse_swallowed_rows(name: str, header: Sequence[str], columns: Columns, delimiter: str, rows: list[Row]) -> None:
    """Raise DataLayoutError for a text that begins with a quote by mistake, so that it holds the rows below it.

    A line of a text is taken for a row if it has as many delimiters as the header, and a label of the table where the
    label stands. In other texts of several lines, delimiters are only punctuation.

    Parameters
    ----------
    name : str
        The table, for messages.
    header : sequence of str
        The names of all columns.
    columns : Columns
        Those that are read; without a label nothing is refused.
    delimiter : str
        Between the columns.
    rows : list of Row
        All rows.
    """
    if columns.label in columns.texts:
        return
    place = header.index(columns.label)
    labels = {part.strip() for _, row in rows for part in (row[columns.label] or "").split(SEPARATOR)} - {""}
    for number, row in rows:
        for text in (row[column] or "" for column in columns.texts):
            for line in text.splitlines() if _has_breaks(text) else ():
                cells = line.split(delimiter)
                if len(cells) == len(header) and labels.issuperset(map(str.strip, cells[place].split(SEPARATOR))):
                    raise DataLayoutError(
                        f"{name}, line {number}: this text holds line breaks, and a line in it looks like a row: "
                        f"{line[:80]!r}. {_LOOK}"
                    )


def _has_breaks(cell: str) -> bool:
    return "\n" in cell or "\r" in cell
