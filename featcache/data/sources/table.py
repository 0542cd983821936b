"""Manifests: tables of images, their labels and splits, in CSV, JSON lines or Parquet."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from featcache._utils.formatting import brief, plain_cell
from featcache._utils.regular_files import parse_json
from featcache.core.samples import SEPARATOR, UNLABELLED
from featcache.data.label_columns import choose_label, find_column, label_note
from featcache.data.sources.base import SPLIT_NAMES, SampleListing, SampleRecord
from featcache.errors import DataLayoutError, MissingExtraError, first_line

PATH_NAMES = ("path", "file_name", "filename", "filepath", "image_path", "image")
_EXPECTED = "the columns path,label[,split][,sha256]"
_ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")

_MOST_DECODED, _MOST_TIMES = 2**29, 1000
"""A Parquet table takes so many bytes of memory at most, or so many times the bytes of its file if those are more."""

_ROW_BYTES = 256  # of a row in Python, without its texts
_BATCH = 2**14  # rows decoded at once

_NO_LABEL = ""
"""A label column that stands for none: paths are enough."""

Resolve = Callable[[str], tuple[str, bool]]
"""From a path as the manifest has it to an id, and whether a file is there."""

_Row = tuple[int, dict[str, str | None]]


class _MissingColumnsError(DataLayoutError):
    """A table without a column of paths, or without one of labels where the user names none."""


@dataclass(frozen=True)
class _Columns:
    """The columns of a table that are read; notes say which these are."""

    path: str
    label: str
    split: str | None
    sha256: str | None
    group: str | None
    notes: list[str] = field(default_factory=list)

    @property
    def used(self) -> list[str]:
        """Those that there are."""
        return [name for name in (self.path, self.label, self.split, self.sha256, self.group) if name]


@dataclass(frozen=True)
class _Table:
    """Rows as (number, cells by column), read one after the other.

    unit : what a number counts. several : whether labels are lists, whatever the rows hold.
    """

    columns: _Columns
    rows: Iterator[_Row]
    unit: str = "line"
    several: bool = False


def is_table(name: str) -> bool:
    """Whether a name is that of a manifest."""
    return name.lower().endswith(_ENDINGS)


def has_images(path: Path) -> bool:
    """Whether a Parquet file holds the images themselves, as those of Hugging Face do: a column {bytes, path}."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        return False  # whoever reads it says what to install
    if not path.is_file():  # a pipe would make us wait
        return False
    try:
        schema = parquet.read_schema(path)
    except (ArrowException, OSError, UnicodeDecodeError):
        return False
    return any(map(_is_image, schema))


def _is_image(column: Any) -> bool:
    """Whether a column of Parquet holds {bytes, path}, or bytes under the name of images."""
    from pyarrow import types

    if types.is_struct(column.type):
        return bool(column.type.get_field_index("bytes") >= 0)
    is_binary = types.is_binary(column.type) or types.is_large_binary(column.type)
    return is_binary and column.name.lower().startswith(("image", "img", "jpg", "jpeg", "png"))


def has_labels(name: str, content: bytes, label_column: str | None = None) -> bool:
    """Whether a table lists images and their labels; it may also hold captions, boxes or something else.

    It does, too, where reading it fails for another reason, such as two columns that may be the label: `read_table`
    says the reason.
    """
    try:
        return bool(_open(name, content, label_column))
    except _MissingColumnsError:
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
    """The images that a manifest lists.

    Parameters
    ----------
    name : what messages call it; its end says what it is: .parquet, .jsonl, any other is CSV.
    content : its bytes.
    resolve : from a path as the manifest has it to an id, and whether a file is there.
    label_column : the column of the labels; None looks for one, see `choose_label`.
    skip_missing : list images whose files are missing, too, to be skipped with a reason.

    Raises
    ------
    DataLayoutError, MissingExtraError
    """
    table = _open(name, content, label_column)
    columns, rows = table.columns, list(table.rows)
    labels = [row[columns.label] for _, row in rows]
    several = table.several or any(SEPARATOR in (label or "") for label in labels)
    entries: dict[str, SampleRecord] = {}
    lines: dict[str, int] = {}
    missing: list[str] = []
    repeated, turned = 0, 0
    for number, row in rows:
        where = f"{name}, {table.unit} {number}"
        entry, is_there = _entry(where, row, columns, several, resolve)
        if entry.id in entries:
            if replace(entries[entry.id], sha256=None) != replace(entry, sha256=None):
                raise DataLayoutError(f"{where}: {entry.id} stands already in {table.unit} {lines[entry.id]}")
            repeated += 1
            continue
        entries[entry.id], lines[entry.id] = entry, number
        missing += [] if is_there else [f"{row[columns.path]} ({table.unit} {number})"]
        turned += "\\" in (row[columns.path] or "") and "\\" not in entry.id
    if missing and not skip_missing:
        raise DataLayoutError(
            f"{name}: {len(missing)} of {len(entries)} files are missing: {brief(missing, 3)}. Paths are relative to "
            f"{os.path.dirname(name) or 'its folder'}. Correct them, or leave these images out with --skip-missing."
        )
    notes = list(columns.notes)
    notes += [f"missing files, skipped: {len(missing)} of {len(entries)}"] if missing else []
    notes += [f"rows that repeat an earlier row, counted once: {repeated}"] if repeated else []
    notes += [f"paths with backslashes, read with slashes: {turned}"] if turned else []
    return SampleListing(list(entries.values()), several, tuple(notes), columns.label)


def read_paths(name: str, content: bytes, resolve: Resolve) -> list[str]:
    """The ids of the images that a table lists, each once; it needs no labels. Parameters as of `read_table`."""
    table = _open(name, content, _NO_LABEL)
    paths = (row[table.columns.path] for _, row in table.rows)
    return list(dict.fromkeys(resolve(path)[0] for path in paths if path))


def _open(name: str, content: bytes, label_column: str | None) -> _Table:
    end = name.lower().rpartition(".")[2]
    return {"parquet": _open_parquet, "jsonl": _open_json_lines}.get(end, _open_csv)(name, content, label_column)


def _open_csv(name: str, content: bytes, label_column: str | None) -> _Table:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataLayoutError(
            f"{name} is not a CSV file in UTF-8: {error}. A spreadsheet saves one as 'CSV UTF-8'."
        ) from error
    if text.lstrip()[:1] in ("[", "{"):
        raise DataLayoutError(
            f"{name} looks like JSON, not like CSV: its first line must name {_EXPECTED}. JSON with a record a line is "
            "read from a file that ends in .jsonl."
        )
    delimiter = _delimiter(text.partition("\n")[0])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        columns = _choose_columns(f"{name}: the first line must name", name, header, label_column)
    except csv.Error as error:
        raise DataLayoutError(f"{name} is not a CSV file in UTF-8: {error}") from error
    if delimiter != ",":
        columns.notes.append(f"columns separated by {'tabs' if delimiter == chr(9) else delimiter}")
    return _Table(columns, _csv_rows(name, header, columns, reader))


def _delimiter(header: str) -> str:
    """What separates the columns: a comma, unless the first line has none but another one."""
    return next((mark for mark in (",", ";", "\t") if mark in header), ",")


def _csv_rows(name: str, header: Sequence[str], columns: _Columns, reader: Any) -> Iterator[_Row]:
    needed = 1 + max(header.index(columns.path), header.index(columns.label))
    try:
        for cells in reader:
            if not cells:  # an empty line
                continue
            if len(cells) < needed:
                raise DataLayoutError(
                    f"{name}, line {reader.line_num}: {columns.path} and {columns.label} must not be empty"
                )
            if any(cells[len(header) :]):
                raise DataLayoutError(
                    f"{name}, line {reader.line_num}: {len(cells)} cells, the first line names {len(header)} columns: "
                    f'{" | ".join(cells)}. Put quotes around a text with a comma in it: "{",".join(cells[1:])}"'
                )
            padded = [*map(plain_cell, cells), *[None] * (len(header) - len(cells))]
            yield reader.line_num, dict(zip(header, padded, strict=False))
    except csv.Error as error:
        raise DataLayoutError(
            f'{name}, line {reader.line_num}: {error}. Look for a quote (") that is not closed, or lies within a text.'
        ) from error


def _open_json_lines(name: str, content: bytes, label_column: str | None) -> _Table:
    records: list[tuple[int, dict[str, Any]]] = []
    try:
        for number, line in enumerate(content.decode("utf-8-sig").splitlines(), 1):
            if line.strip():
                records.append((number, {**parse_json(line)}))
    except (ValueError, TypeError) as error:
        raise DataLayoutError(f"{name} does not hold a JSON record in each line: {first_line(error)}") from error
    header = list(dict.fromkeys(key for _, record in records for key in record))
    columns = _choose_columns(f"{name} must have", name, header, label_column)
    rows = (
        (
            number,
            {column: _json_text(f"{name}, line {number}: {column}", record.get(column)) for column in columns.used},
        )
        for number, record in records
    )
    several = any(isinstance(record.get(columns.label), list) for _, record in records)
    return _Table(columns, rows, several=several)


def _json_text(where: str, value: Any) -> str | None:
    items = value if isinstance(value, list) else [value]
    if any(isinstance(one, (dict, list)) for one in items) or (isinstance(value, list) and None in value):
        raise DataLayoutError(f"{where} is {json.dumps(value)[:80]}; it must be a text, a number, or a list of such")
    text = None if value is None else SEPARATOR.join(map(str, items))
    try:
        os.fsencode(text or "")
    except UnicodeEncodeError as error:
        raise DataLayoutError(
            f"{where} is {json.dumps(text)[:80]}, which is no text: half of a pair stands alone"
        ) from error
    return text


def _open_parquet(name: str, content: bytes, label_column: str | None) -> _Table:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MissingExtraError.of("pyarrow", "parquet") from error
    try:
        file = parquet.ParquetFile(io.BytesIO(content), page_checksum_verification=True)
        texts = [one.name for one in file.schema_arrow if str(one.type) in ("string", "large_string")]
        file = parquet.ParquetFile(  # a text that repeats is decoded once
            io.BytesIO(content), read_dictionary=texts, page_checksum_verification=True
        )
        names = file.schema_arrow.names
    except (ArrowException, OSError, UnicodeDecodeError) as error:  # of the content, which is in memory
        raise DataLayoutError(f"{name} is not a Parquet file of texts: {first_line(error)}") from error
    columns = _choose_columns(f"{name} must have", name, names, label_column)
    if _is_image(file.schema_arrow.field(columns.path)):
        raise DataLayoutError(
            f"{name} holds the images themselves: copy it to a disk of this machine, and give it there."
        )
    most = max(_MOST_DECODED, _MOST_TIMES * len(content))
    if uncompressed_bytes(file.metadata) > most:
        raise _too_much(name, len(content), most)
    return _Table(columns, _parquet_rows(name, file, columns, len(content), most), "row")


def uncompressed_bytes(metadata: Any) -> int:
    """What a Parquet file says that it has without compression.

    Parameters
    ----------
    metadata : pyarrow.parquet.FileMetaData
        Of the file. What it says of single columns is not looked at: where that is damaged, Arrow ends the process.

    Returns
    -------
    int
        Bytes. A text that repeats counts once.
    """
    return sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))


def _too_much(name: str, size: int, most: int) -> DataLayoutError:
    return DataLayoutError(
        f"{name} has {size:,} bytes, and decoded more than the {most:,} that a table of this size is given: it fills "
        "the memory with the same again and again. If it is sound, write it as CSV."
    )


def _parquet_rows(name: str, file: Any, columns: _Columns, size: int, most: int) -> Iterator[_Row]:
    from pyarrow import ArrowException, compute, types

    number = decoded = 0
    try:
        for batch in file.iter_batches(batch_size=_BATCH, columns=columns.used):
            decoded += _ROW_BYTES * len(batch)
            cells = []
            for column in columns.used:
                values = batch[column]
                values.validate(full=True)  # a damaged file has places and lengths that lie outside of its texts
                decoded += values.nbytes
                if decoded > most:
                    raise _too_much(name, size, most)
                if types.is_dictionary(values.type):
                    texts = compute.cast(values.dictionary, "string").to_pylist()
                    cells.append([None if place is None else texts[place] for place in values.indices.to_pylist()])
                    continue
                if types.is_floating(values.type):  # pandas writes missing numbers as NaN
                    values = compute.if_else(compute.is_nan(values), None, values)
                cells.append(compute.cast(values, "string").to_pylist())
            for row in zip(*cells, strict=True):
                number += 1
                yield number, dict(zip(columns.used, row, strict=True))
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataLayoutError(f"{name} is not a Parquet file of texts: {first_line(error)}") from error


def _choose_columns(where: str, name: str, header: Sequence[str], label_column: str | None) -> _Columns:
    path = find_column(header, PATH_NAMES)
    needs_label = path is not None and label_column != _NO_LABEL
    label = choose_label(name, header, label_column) if needs_label else path
    if path is None or label is None:
        found = f"{','.join(header[:8])}{',...' if len(header) > 8 else ''}"
        raise _MissingColumnsError(f"{where} {_EXPECTED}; found {found}")
    notes = [label_note(label, header)]
    notes += [f"path column: {path}"] if path != "path" else []
    split, sha256, group = (find_column(header, (name,)) for name in ("split", "sha256", "group"))
    columns = _Columns(path, label, split, sha256, group, notes)
    for column in columns.used:
        if (count := list(header).count(column)) > 1:
            raise DataLayoutError(f"{name} has {count} columns named {column!r}. Rename those that do not count.")
    return columns


def _entry(
    where: str, row: dict[str, str | None], columns: _Columns, several: bool, resolve: Resolve
) -> tuple[SampleRecord, bool]:
    name, label = row[columns.path], row[columns.label]
    split = (row.get(columns.split) if columns.split else None) or None
    sha256 = (row.get(columns.sha256) if columns.sha256 else None) or None
    group = ((row.get(columns.group) if columns.group else None) or "").strip()
    if not name:
        raise DataLayoutError(f"{where}: {columns.path} and {columns.label} must not be empty")
    if split is not None and split not in SPLIT_NAMES:
        raise DataLayoutError(f"{where}: split is {split!r}; it must be train, val or test")
    try:
        content = bytes.fromhex(sha256) if sha256 else None
        if content and len(content) != 32:
            raise ValueError
    except ValueError:
        raise DataLayoutError(f"{where}: sha256 is {sha256!r}; it must be 64 hexadecimal digits") from None
    label = (label or "").strip()
    classes = tuple(part.strip() for part in label.split(SEPARATOR)) if label else ()
    if "" in classes:
        raise DataLayoutError(f"{where}: an empty label stands in {label!r}")
    split = SPLIT_NAMES[split] if split else None
    if split == "train" and not (classes or several):
        raise DataLayoutError(f"{where}: {columns.path} and {columns.label} must not be empty")
    name, is_there = resolve(name)
    if not (several or classes):
        return SampleRecord(name, (), UNLABELLED, content, group), is_there
    return SampleRecord(name, classes, split, content, group), is_there
