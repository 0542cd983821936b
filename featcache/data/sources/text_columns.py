"""`choose_text_columns`: which columns of a table of texts are read."""

from __future__ import annotations

from collections.abc import Sequence

from featcache._utils.formatting import brief, split_names
from featcache.data.label_columns import choose_label, find_column, label_note
from featcache.data.sources.table_columns import (
    NO_LABEL,
    NO_LABELS_HINT,
    PATH_NAMES,
    Columns,
    MissingColumnsError,
    TableKind,
    refuse_repeated_columns,
)
from featcache.errors import DataLayoutError

TEXT_NAME = "text"
EXPECTED_TEXT_COLUMNS = "the columns text,label[,split][,group]"
TEXTS_IN_ROWS = TableKind(EXPECTED_TEXT_COLUMNS, "surrogateescape", is_texts=True)
"""Bytes that are not UTF-8 are found in the single text, see `check_text`."""


def find_text_columns(name: str, header: Sequence[str], text_column: str | None) -> tuple[str, ...]:
    """The columns of the texts: those that the user names, else `text`; empty if there is none.

    Parameters
    ----------
    name : str
        What messages call the table.
    header : sequence of str
        The names of all columns.
    text_column : str or None
        A name, or several with commas between them.

    Raises
    ------
    DataLayoutError
        There is no such column.
    """
    if text_column is None:
        column = find_column(header, (TEXT_NAME,))
        return (column,) if column is not None else ()
    columns = (text_column,) if text_column in header else split_names(text_column)
    for column in columns:
        if column not in header:
            raise DataLayoutError(f"{name} has no column {column!r}; it has {brief(list(header))}.")
    return columns


def holds_texts(header: Sequence[str]) -> bool:
    """Whether a table is one of texts, by the names of its columns: `text`, and none of paths."""
    return find_column(header, (TEXT_NAME,)) is not None and find_column(header, PATH_NAMES) is None


def text_note(columns: Sequence[str]) -> list[str]:
    """A line with the chosen columns, if they are not only `text`."""
    if tuple(columns) == (TEXT_NAME,):
        return []
    several = "s, with the separator of the encoder between them" if len(columns) > 1 else ""
    return [f"text column{several}: {', '.join(columns)}"]


def choose_text_columns(
    where: str, name: str, header: Sequence[str], label_column: str | None, text_column: str | None
) -> Columns:
    """The columns of a table of texts that are read, by the names in its header.

    Parameters
    ----------
    where, name, header, label_column
        As of `choose_columns`.
    text_column : str or None
        See `find_text_columns`.

    Raises
    ------
    MissingColumnsError
        There is no column of texts, or none of labels.
    DataLayoutError
        Two columns that are read have the same name, or a named column is missing.
    """
    texts = find_text_columns(name, header, text_column)
    others = [column for column in header if column not in texts]
    label: str | None = texts[0] if texts else None
    notes: list[str] = []
    if texts and label_column != NO_LABEL:
        label = choose_label(name, others, label_column)
        notes = [label_note(label, others)] if label else []
    if label is None:
        names = f"{','.join(header[:8])}{',...' if len(header) > 8 else ''}"
        hint = NO_LABELS_HINT if texts else ""
        raise MissingColumnsError(f"{where} {EXPECTED_TEXT_COLUMNS}; found {names}{hint}")
    optional = () if label_column == NO_LABEL else ("split", "group")  # they mean nothing without labels
    split, group = (find_column(others, (column,)) if column in optional else None for column in ("split", "group"))
    columns = Columns("", label, split, None, group, [*notes, *text_note(texts)], texts)
    refuse_repeated_columns(name, header, columns)
    return columns
