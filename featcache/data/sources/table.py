"""`read_table`: the samples that a CSV, JSON lines or Parquet table lists, with their labels and splits."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from featcache._utils.formatting import brief
from featcache.core.samples import SEPARATOR, UNLABELED
from featcache.data.sources.base import SPLIT_NAMES, SampleListing, SampleRecord
from featcache.data.sources.table_columns import (
    NO_LABEL,
    Choose,
    Columns,
    MissingColumnsError,
    Row,
    Table,
    choose_columns,
)
from featcache.data.sources.table_formats import open_table
from featcache.errors import DataLayoutError

_ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")

Resolve = Callable[[str], tuple[str, bool]]
"""From a path in the table to an id, and whether its file exists."""


def is_table(name: str) -> bool:
    """Whether a name is that of a table."""
    return name.lower().endswith(_ENDINGS)


def has_labels(name: str, content: bytes, label_column: str | None = None) -> bool:
    """Whether a table lists samples and their labels; it may also hold captions, boxes or something else.

    It is True, too, if reading fails for another reason, such as two columns that may be the label: `read_table` raises
    the error.
    """
    try:
        return bool(open_table(name, content, _choose(label_column)))
    except MissingColumnsError:
        return False
    except DataLayoutError:
        return True


def read_table(
    name: str,
    content: bytes,
    resolve: Resolve,
    *,
    label_column: str | None = None,
    skip_missing: bool = False,
) -> SampleListing:
    """The samples that a table lists.

    Parameters
    ----------
    name : str
        What messages call the table; its end is the format: .parquet, .jsonl, any other is CSV.
    content : bytes
        Of the file.
    resolve : callable
        See `Resolve`.
    label_column : str or None
        The column of the labels; None chooses one, see `choose_label`.
    skip_missing : bool
        List samples whose files are missing, too.

    Raises
    ------
    DataLayoutError, MissingExtraError
    """
    table = open_table(name, content, _choose(label_column))
    columns, rows = table.columns, list(table.rows)
    several = has_several(table, rows)
    entries: dict[str, SampleRecord] = {}
    lines: dict[str, int] = {}
    missing: list[str] = []
    repeated, with_backslashes = 0, 0
    for number, row in rows:
        where = f"{name}, {table.unit} {number}"
        entry, exists = _entry(where, row, columns, several, resolve)
        if entry.id in entries:
            if replace(entries[entry.id], sha256=None) != replace(entry, sha256=None):
                raise DataLayoutError(f"{where}: {entry.id} is already in {table.unit} {lines[entry.id]}")
            repeated += 1
            continue
        entries[entry.id], lines[entry.id] = entry, number
        missing += [] if exists else [f"{row[columns.path]} ({table.unit} {number})"]
        with_backslashes += "\\" in (row[columns.path] or "") and "\\" not in entry.id
    if missing and not skip_missing:
        raise DataLayoutError(
            f"{name}: {len(missing)} of {len(entries)} files are missing: {brief(missing, 3)}. Paths are relative to "
            f"{os.path.dirname(name) or 'its folder'}. Correct them, or leave these images out with --skip-missing."
        )
    notes = list(columns.notes)
    notes += [f"missing files, skipped: {len(missing)} of {len(entries)}"] if missing else []
    notes += [f"rows that repeat an earlier row, counted once: {repeated}"] if repeated else []
    notes += [f"paths with backslashes, read with slashes: {with_backslashes}"] if with_backslashes else []
    return SampleListing(list(entries.values()), several, tuple(notes), columns.label)


def read_paths(name: str, content: bytes, resolve: Resolve) -> list[str]:
    """The ids of the samples that a table lists, each once. It needs no labels. Parameters as of `read_table`."""
    table = open_table(name, content, _choose(NO_LABEL))
    paths = (row[table.columns.path] for _, row in table.rows)
    return list(dict.fromkeys(resolve(path)[0] for path in paths if path))


def has_several(table: Table, rows: Sequence[Row]) -> bool:
    """Whether a sample can have several labels: a cell holds a list, or names with "|" between them."""
    return table.several or any(SEPARATOR in (row[table.columns.label] or "") for _, row in rows)


def _choose(label_column: str | None) -> Choose:
    """See `choose_columns`."""
    return partial(choose_columns, label_column=label_column)


def _entry(
    where: str, row: dict[str, str | None], columns: Columns, several: bool, resolve: Resolve
) -> tuple[SampleRecord, bool]:
    """The sample of a row, and whether its file exists. where : the row, for messages."""
    name = row[columns.path]
    if not name:
        raise DataLayoutError(f"{where}: {columns.path} must not be empty")
    record = row_record(where, row, columns, several)
    name, exists = resolve(name)
    return replace(record, id=name), exists


def row_record(where: str, row: dict[str, str | None], columns: Columns, several: bool) -> SampleRecord:
    """Label, split, hash and group of a row, with an empty id.

    A null label (JSON lines, Parquet) is not known. An empty one is not known either, or, if a sample can have several
    labels, it means none of them.

    Parameters
    ----------
    where : str
        The row, for messages.
    row : dict
        Its cells by column.
    columns : Columns
        Those that are read.
    several : bool
        Whether a sample can have several labels.

    Raises
    ------
    DataLayoutError
    """
    split = (row.get(columns.split) if columns.split else None) or None
    sha256 = (row.get(columns.sha256) if columns.sha256 else None) or None
    group = ((row.get(columns.group) if columns.group else None) or "").strip()
    if split is not None and split not in SPLIT_NAMES:
        raise DataLayoutError(f"{where}: split is {split!r}; it must be train, val, test or unlabeled")
    try:
        content = bytes.fromhex(sha256) if sha256 else None
        if content and len(content) != 32:
            raise ValueError
    except ValueError:
        raise DataLayoutError(f"{where}: sha256 is {sha256!r}; it must be 64 hexadecimal digits") from None
    is_null = row[columns.label] is None
    label = (row[columns.label] or "").strip()
    classes = tuple(part.strip() for part in label.split(SEPARATOR)) if label else ()
    if "" in classes:
        raise DataLayoutError(f"{where}: the label {label!r} has an empty part")
    split = SPLIT_NAMES[split] if split else None
    if not classes and (is_null or not several):
        return SampleRecord("", (), UNLABELED, content, group)
    return SampleRecord("", classes, split, content, group)
