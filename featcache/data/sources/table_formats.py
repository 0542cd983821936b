"""Tables in files: CSV, JSON lines and Parquet, opened as `Table`."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from featcache._utils.formatting import plain_cell
from featcache._utils.regular_files import parse_json
from featcache.core.samples import SEPARATOR
from featcache.data.sources.parquet_images import is_image_column, uncompressed_bytes
from featcache.data.sources.table_columns import PATHS, Choose, Columns, Row, Table, TableKind, not_a_text
from featcache.data.sources.table_quotes import QUOTES_NOTE, quotes_are_text, refuse_swallowed_rows
from featcache.errors import DataLayoutError, MissingExtraError, first_line

_MOST_DECODED, _MOST_TIMES = 2**29, 1000
"""A Parquet table may take so many bytes of memory, or so many times the bytes of its file if that is more."""

_ROW_BYTES = 256  # of a row in Python, without its texts
_BATCH, _TEXT_BATCH = 2**14, 2**9  # rows decoded at once; texts may be long


def open_table(name: str, content: bytes, choose: Choose, kind: TableKind = PATHS) -> Table:
    """Open a table; the end of its name gives the format: .parquet, .jsonl, any other is CSV.

    Parameters
    ----------
    name : str
        What messages call the table.
    content : bytes
        Of the file.
    choose : callable
        Chooses the columns that are read, see `Choose`.
    kind : TableKind
        What the table lists.

    Raises
    ------
    DataLayoutError, MissingExtraError
    """
    ending = name.lower().rpartition(".")[2]
    return {"parquet": _open_parquet, "jsonl": _open_json_lines}.get(ending, _open_csv)(name, content, choose, kind)


def _open_csv(name: str, content: bytes, choose: Choose, kind: TableKind) -> Table:
    try:
        text = content.decode("utf-8-sig", kind.decode_errors)
    except UnicodeDecodeError as error:
        raise DataLayoutError(
            f"{name} is not a CSV file in UTF-8: {error}. A spreadsheet saves one as 'CSV UTF-8'."
        ) from error
    if text.lstrip()[:1] in ("[", "{"):
        raise DataLayoutError(
            f"{name} looks like JSON, not like CSV: its first line must name {kind.expected}. JSON with a "
            "record a line is read from a file that ends in .jsonl."
        )
    delimiter = delimiter_of(text.partition("\n")[0])
    is_raw = kind.is_texts and delimiter == "\t" and quotes_are_text(text)
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        strict=True,
        quoting=csv.QUOTE_NONE if is_raw else csv.QUOTE_MINIMAL,
    )
    try:
        header = next(reader, [])
        columns = choose(f"{name}: the first line must name", name, header)
    except csv.Error as error:
        raise DataLayoutError(f"{name} is not a CSV file in UTF-8: {error}") from error
    if delimiter != ",":
        columns.notes.append(f"columns separated by {'tabs' if delimiter == chr(9) else delimiter}")
    if is_raw:
        columns.notes.append(QUOTES_NOTE)
    rows = _csv_rows(name, header, columns, reader)
    return Table(columns, _checked(name, header, columns, delimiter, rows) if kind.is_texts else rows)


def delimiter_of(header: str) -> str:
    """The character between the columns: a comma, unless the first line has only another one."""
    return next((mark for mark in (",", ";", "\t") if mark in header), ",")


def _checked(name: str, header: Sequence[str], columns: Columns, delimiter: str, rows: Iterator[Row]) -> Iterator[Row]:
    """The rows of a table of texts, after all are checked, see `refuse_swallowed_rows`."""
    listed = list(rows)
    refuse_swallowed_rows(name, header, columns, delimiter, listed)
    yield from listed


def _csv_rows(name: str, header: Sequence[str], columns: Columns, reader: Any) -> Iterator[Row]:
    needed = 1 + max(header.index(column) for column in (*columns.samples, columns.label))
    verbatim = [column in columns.texts for column in header]
    try:
        for cells in reader:
            if not cells:  # an empty line
                continue
            if len(cells) < needed:
                raise DataLayoutError(
                    f"{name}, line {reader.line_num}: {columns.samples[0]} and {columns.label} must not be empty"
                )
            if any(cells[len(header) :]):
                raise DataLayoutError(
                    f"{name}, line {reader.line_num}: {len(cells)} cells, the first line names {len(header)} columns: "
                    f'{" | ".join(cells)}. Put quotes around a text with a comma in it: "{",".join(cells[1:])}"'
                )
            plain = (cell if raw else plain_cell(cell) for cell, raw in zip(cells, verbatim, strict=False))
            padded = [*plain, *[None] * (len(header) - len(cells))]
            yield reader.line_num, dict(zip(header, padded, strict=False))
    except csv.Error as error:
        raise DataLayoutError(
            f'{name}, line {reader.line_num}: {error}. Look for a quote (") that is not closed, or lies within a text.'
        ) from error


def _open_json_lines(name: str, content: bytes, choose: Choose, kind: TableKind) -> Table:
    records: list[tuple[int, dict[str, Any]]] = []
    try:
        for number, line in enumerate(kind.lines(content.decode("utf-8-sig", kind.decode_errors)), 1):
            if line.strip():
                records.append((number, {**parse_json(line)}))
    except (ValueError, TypeError) as error:
        raise DataLayoutError(f"{name} does not hold a JSON record in each line: {first_line(error)}") from error
    header = list(dict.fromkeys(key for _, record in records for key in record))
    columns = choose(f"{name} must have", name, header)

    def cell(number: int, column: str, value: Any) -> str | None:
        where = f"{name}, line {number}: {column}"
        if column not in columns.texts:
            return _json_text(where, value)
        if value is None or isinstance(value, str):
            return value
        raise not_a_text(f"{where} is {json.dumps(value)[:80]}")

    rows = (
        (number, {column: cell(number, column, record.get(column)) for column in columns.used})
        for number, record in records
    )
    several = any(isinstance(record.get(columns.label), list) for _, record in records)
    return Table(columns, rows, several=several)


def _json_text(where: str, value: Any) -> str | None:
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, (dict, list)) for item in items) or (isinstance(value, list) and None in value):
        raise DataLayoutError(f"{where} is {json.dumps(value)[:80]}; it must be a text, a number, or a list of such")
    text = None if value is None else SEPARATOR.join(map(str, items))
    try:
        os.fsencode(text or "")
    except UnicodeEncodeError as error:
        raise DataLayoutError(
            f"{where} is {json.dumps(text)[:80]}, which is not text: half of a surrogate pair is missing"
        ) from error
    return text


def _open_parquet(name: str, content: bytes, choose: Choose, kind: TableKind) -> Table:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MissingExtraError.for_package("pyarrow", "parquet") from error
    try:
        file = parquet.ParquetFile(io.BytesIO(content), page_checksum_verification=True)
        texts = [field.name for field in file.schema_arrow if str(field.type) in ("string", "large_string")]
        texts = [] if kind.is_texts else texts  # samples are not repeated
        file = parquet.ParquetFile(  # a repeated text is decoded once
            io.BytesIO(content), read_dictionary=texts, page_checksum_verification=True
        )
        names = file.schema_arrow.names
    except (ArrowException, OSError, UnicodeDecodeError) as error:  # all from the content, which is in memory
        raise DataLayoutError(f"{name} is not a Parquet file of texts: {first_line(error)}") from error
    columns = choose(f"{name} must have", name, names)
    for column in columns.texts:
        if not _may_hold_texts(kind_of := file.schema_arrow.field(column).type):
            raise not_a_text(f"{name}: the column {column} holds {kind_of}")
    if is_image_column(file.schema_arrow.field(columns.samples[0])):
        raise DataLayoutError(
            f"{name} holds the images themselves: copy it to a disk of this machine, and give it there."
        )
    most = max(_MOST_DECODED, _MOST_TIMES * len(content))
    if uncompressed_bytes(file.metadata) > most:
        raise _too_much(name, len(content), most)
    return Table(columns, _parquet_rows(name, file, columns, len(content), most), "row")


def _may_hold_texts(kind: Any) -> bool:
    """Whether a type of Arrow is that of strings, of bytes without a type, or of nulls alone."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    tests = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary, types.is_null)
    return any(test(kind) for test in tests)


def _too_much(name: str, size: int, most: int) -> DataLayoutError:
    return DataLayoutError(
        f"{name} has {size:,} bytes, and decoded more than the {most:,} that a table of this size is given: it fills "
        "the memory with the same again and again. If it is sound, write it as CSV."
    )


def _parquet_rows(name: str, file: Any, columns: Columns, size: int, most: int) -> Iterator[Row]:
    from pyarrow import ArrowException, compute, types

    number = decoded = 0
    try:
        for batch in file.iter_batches(batch_size=_TEXT_BATCH if columns.texts else _BATCH, columns=columns.used):
            decoded += _ROW_BYTES * len(batch)
            cells = []
            for column in columns.used:
                values = batch[column]
                values.validate(full=True)  # a damaged file has offsets and lengths outside of its texts
                decoded += values.nbytes
                if decoded > most:
                    raise _too_much(name, size, most)
                if types.is_dictionary(values.type):
                    texts = compute.cast(values.dictionary, "string").to_pylist()
                    cells.append([None if index is None else texts[index] for index in values.indices.to_pylist()])
                    continue
                if types.is_floating(values.type):  # pandas writes missing numbers as NaN
                    values = compute.if_else(compute.is_nan(values), None, values)
                cells.append(compute.cast(values, "string").to_pylist())
            for row in zip(*cells, strict=True):
                number += 1
                yield number, dict(zip(columns.used, row, strict=True))
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataLayoutError(f"{name} is not a Parquet file of texts: {first_line(error)}") from error
