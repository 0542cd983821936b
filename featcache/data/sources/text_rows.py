"""`read_text_rows`: the texts of a table, with their labels and splits."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import NamedTuple

from featcache._utils.formatting import UNIT_SEPARATOR
from featcache.data.sources.base import SampleListing
from featcache.data.sources.table import has_several, row_record
from featcache.data.sources.table_columns import NO_LABEL, Columns
from featcache.data.sources.table_formats import open_table
from featcache.data.sources.text_columns import TEXTS_IN_ROWS, choose_text_columns
from featcache.data.sources.text_ids import content_id, number_copies
from featcache.data.text_content import encode_text
from featcache.errors import DataLayoutError

_LIMIT = Lock()


class TextRows(NamedTuple):
    """The texts of a table.

    Parameters
    ----------
    listing : SampleListing
        The samples; their ids come from their content, see `text_ids`.
    contents : dict of str to bytes
        The bytes of each different text, by the id of its first copy.
    places : dict of str to str
        Where each sample stands in the table, by id: "line 7".
    columns : tuple of str
        The names of the columns of the texts.
    """

    listing: SampleListing
    contents: dict[str, bytes]
    places: dict[str, str]
    columns: tuple[str, ...]


def read_text_rows(
    name: str, content: bytes, *, label_column: str | None = None, text_column: str | None = None
) -> TextRows:
    """The texts that a table holds.

    Parameters
    ----------
    name : str
        What messages call the table; its end is the format, see `open_table`.
    content : bytes
        Of the file.
    label_column : str or None
        The column of the labels; None chooses one, see `choose_label`; `NO_LABEL` reads none.
    text_column : str or None
        See `find_text_columns`.

    Raises
    ------
    DataLayoutError, MissingExtraError
    """
    choose = partial(choose_text_columns, label_column=label_column, text_column=text_column)
    with long_cells():
        table = open_table(name, content, choose, TEXTS_IN_ROWS)
        rows = list(table.rows)
    columns = table.columns
    is_labelled = label_column != NO_LABEL
    several = is_labelled and has_several(table, rows)
    records, contents, places = [], dict[str, bytes](), []
    for number, row in rows:
        text = encode_text(join_texts([row[column] for column in columns.texts]))
        sample_id = content_id(text)
        contents[sample_id] = text
        places.append(f"{table.unit} {number}")
        if not is_labelled:
            row = {**row, columns.label: None}
        where = f"{name}, {places[-1]}"
        _refuse_undecodable(where, row, columns)
        records.append(replace(row_record(where, row, columns, several), id=sample_id))
    entries = number_copies(records)
    listing = SampleListing(entries, several, tuple(columns.notes), columns.label if is_labelled else None)
    places_of = {entry.id: place for entry, place in zip(entries, places, strict=True)}
    return TextRows(listing, contents, places_of, columns.texts)


def join_texts(parts: list[str | None]) -> str:
    """One text of the cells of a row: those that are not empty, with unit separators (U+001F) between them.

    A unit separator within a cell becomes a space. A text of one column is the cell as it is.
    """
    if len(parts) == 1:
        return parts[0] or ""
    return UNIT_SEPARATOR.join(part.replace(UNIT_SEPARATOR, " ") for part in parts if part and part.strip())


def _refuse_undecodable(where: str, row: dict[str, str | None], columns: Columns) -> None:
    """Raise DataLayoutError for a label, split or group that is not UTF-8. A text that is not is skipped later."""
    for column in columns.used:
        if column not in columns.texts and any("\ud800" <= character <= "\udfff" for character in row[column] or ""):
            raise DataLayoutError(
                f"{where}: {column} is {row[column]!a}, which is not UTF-8. A spreadsheet saves UTF-8 as 'CSV UTF-8'."
            )


@contextmanager
def long_cells() -> Iterator[None]:
    """Let `csv` read cells of any length; by default they have at most 131,072 characters."""
    with _LIMIT:
        before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        try:
            yield
        finally:
            csv.field_size_limit(before)
