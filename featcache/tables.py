"""Manifests: tables of images, their labels and splits, in CSV or Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from typing import Any

from featcache.entries import SPLIT_NAMES, Entry, Listing
from featcache.errors import DataLayoutError, MissingExtraError, first_line
from featcache.labels import SEPARATOR

_NEEDED, _KNOWN = ("path", "label"), ("path", "label", "split", "sha256", "group")

_Row = tuple[int, dict[str, str | None]]


def is_table(name: str) -> bool:
    """Whether a name is that of a manifest."""
    return name.lower().endswith((".csv", ".parquet"))


def read_table(name: str, content: bytes, as_id: Callable[[str], str]) -> Listing:
    """The images that a manifest lists, and whether any has several labels.

    Parameters
    ----------
    name : what messages call it; one that ends in .parquet is Parquet, any other CSV. content : its bytes.
    as_id : from a path as the manifest has it to an id.

    Raises
    ------
    DataLayoutError, MissingExtraError
    """
    parquet = name.lower().endswith(".parquet")
    rows = list(_parquet_rows(name, content) if parquet else _csv_rows(name, content))
    several = any(SEPARATOR in (row["label"] or "") for _, row in rows)
    entries: list[Entry] = []
    seen: dict[str, int] = {}
    what = "row" if parquet else "line"
    for number, row in rows:
        where = f"{name}, {what} {number}"
        entry = _entry(where, row, several, as_id)
        if entry.id in seen:
            raise DataLayoutError(f"{where}: {entry.id} stands already in {what} {seen[entry.id]}")
        seen[entry.id] = number
        entries.append(entry)
    return Listing(entries, several)


def _csv_rows(name: str, content: bytes) -> Iterator[_Row]:
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        _check_columns(f"{name}: the first line must name", reader.fieldnames or [])
        for row in reader:
            yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataLayoutError(f"{name} is not a CSV file in UTF-8: {error}") from error


def _parquet_rows(name: str, content: bytes) -> Iterator[_Row]:
    try:
        from pyarrow import ArrowException, compute, parquet
    except ImportError as error:
        raise MissingExtraError.of("pyarrow", "parquet") from error
    try:
        file = parquet.ParquetFile(io.BytesIO(content))
        _check_columns(f"{name} must have", file.schema_arrow.names)
        columns = [column for column in _KNOWN if column in file.schema_arrow.names]
        number = 0
        for batch in file.iter_batches(columns=columns):
            texts = [compute.cast(batch[column], "string").to_pylist() for column in columns]
            for values in zip(*texts, strict=True):
                number += 1
                yield number, dict(zip(columns, values, strict=True))
    except ArrowException as error:
        raise DataLayoutError(f"{name} is not a Parquet file of texts: {first_line(error)}") from error


def _check_columns(where: str, columns: Any) -> None:
    if any(name not in columns for name in _NEEDED):
        raise DataLayoutError(f"{where} the columns path,label[,split][,sha256]; found {','.join(columns)}")


def _entry(where: str, row: dict[str, str | None], several: bool, as_id: Callable[[str], str]) -> Entry:
    name, label, split, sha256 = row["path"], row["label"], row.get("split") or None, row.get("sha256") or None
    if not name or label is None or not (label.strip() or several):
        raise DataLayoutError(f"{where}: path and label must not be empty")
    if split is not None and split not in SPLIT_NAMES:
        raise DataLayoutError(f"{where}: split is {split!r}; it must be train, val or test")
    try:
        content = bytes.fromhex(sha256) if sha256 else None
        if content and len(content) != 32:
            raise ValueError
    except ValueError:
        raise DataLayoutError(f"{where}: sha256 is {sha256!r}; it must be 64 hexadecimal digits") from None
    classes = tuple(part.strip() for part in label.split(SEPARATOR)) if label.strip() else ()
    if "" in classes:
        raise DataLayoutError(f"{where}: an empty label stands in {label!r}")
    try:
        name = as_id(name)
    except FileNotFoundError as error:
        raise DataLayoutError(f"{where}: {error}") from None
    return Entry(name, classes, SPLIT_NAMES[split] if split else None, content, (row.get("group") or "").strip())
