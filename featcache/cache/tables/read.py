"""`read_parquet`: features and labels of a Parquet file, for `FeatureCache.from_parquet`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.files import check_readable
from featcache.cache.tables.formats.parquet import METADATA
from featcache.cache.tables.registry import VECTOR
from featcache.core.samples import SEPARATOR, UNLABELED
from featcache.core.specs import ARRAYS
from featcache.data.sources.base import SampleRecord
from featcache.data.sources.table import row_record
from featcache.data.sources.table_columns import Columns
from featcache.errors import DataLayoutError, MissingExtraError, first_line

_ROWS = 8192  # that are decoded at a time
_USUAL = {"path": "path", "label": "label", "split": "split", "sha256": "sha256", "group": "group", "vector": VECTOR}
_NEEDED = ("label", "vector")


@dataclass(frozen=True)
class FeatureTable:
    """Arguments of `write_arrays`, see `FeatureCache.from_arrays`.

    x : shape (n, d). sha256 : of the bytes of the samples, shape (n, 32); None without such a column. name : of the
    network, "" if the file does not say it.
    """

    x: NDArray[Any]
    y: Any
    classes: Sequence[str] | None
    split: Sequence[str] | None
    ids: Sequence[str] | None
    groups: Sequence[str] | None
    sha256: NDArray[np.uint8] | None
    name: str


def read_parquet(path: str | os.PathLike[str], named: Mapping[str, str | None], name: str | None) -> FeatureTable:
    """Read a table of features.

    Parameters
    ----------
    path : path
        The file.
    named : mapping of str to str or None
        "path", "label", "split", "group" and "vector" -> the name of the column, None for the usual one.
    name : str or None
        Name of the features; None takes that of the network, if the file says it.

    Raises
    ------
    DataLayoutError
        There is no such file or column, or a cell is not what it must be.
    MissingExtraError
        pyarrow is not installed.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MissingExtraError.for_package("pyarrow", "parquet") from error
    if not Path(path).is_file():
        raise DataLayoutError(f"{os.fspath(path)} is not a file. Give a Parquet file.")
    check_readable(Path(path))
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            columns = _choose(path, file.schema_arrow.names, named)
            source = _source(file.schema_arrow.metadata)
            table = _read(path, file, columns, source)
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataLayoutError(f"{os.fspath(path)} is not a Parquet file of features: {first_line(error)}") from error
    return table if name is None else replace(table, name=name)


def _choose(path: object, header: Sequence[str], named: Mapping[str, str | None]) -> dict[str, str]:
    """What is read -> the name of its column."""
    columns = {what: named.get(what) or usual for what, usual in _USUAL.items()}
    for what, name in columns.items():
        if name not in header and (named.get(what) or what in _NEEDED):
            option = f". Name the column with {what}_column" if what in _NEEDED else ""
            raise DataLayoutError(f"{path} has no column {name!r}; it has {', '.join(header)}{option}.")
    return {what: name for what, name in columns.items() if name in header} | (
        {"view": "view"} if "view" in header else {}
    )


def _source(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """What `export_features` wrote on the features; empty for other files."""
    try:
        source = json.loads((metadata or {}).get(METADATA, b"{}"))
    except (ValueError, RecursionError):
        return {}
    return source if isinstance(source, dict) else {}


def _read(path: object, file: Any, columns: Mapping[str, str], source: Mapping[str, Any]) -> FeatureTable:
    texts = {what: name for what, name in columns.items() if what not in ("vector", "view")}
    cells: dict[str, list[str | None]] = {name: [] for name in texts.values()}
    blocks, several = [], source.get("multilabel") is True
    for batch in file.iter_batches(batch_size=_ROWS, columns=list(columns.values())):
        for column in batch.columns:
            column.validate(full=True)
        if "view" in columns and any(batch[columns["view"]].to_pylist()):
            raise DataLayoutError(
                f"{path} has rows of augmented views. Export it again without them, or drop those rows."
            )
        blocks.append(_vectors(f"{path}, column {columns['vector']}", batch[columns["vector"]]))
        for what, name in texts.items():
            values = batch[name].to_pylist()
            several |= what == "label" and any(isinstance(value, list) or SEPARATOR in str(value) for value in values)
            cells[name] += map(_text, values)
    if not blocks:
        raise DataLayoutError(f"{path} has no rows.")
    if len(widths := {block.shape[1] for block in blocks}) > 1:
        raise DataLayoutError(f"{path} has vectors of different lengths: {', '.join(map(str, sorted(widths)))}.")
    path_column, split, sha256, group = (columns.get(what) for what in ("path", "split", "sha256", "group"))
    layout = Columns(path_column or "", columns["label"], split, sha256, group)
    rows = (dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True))
    records = [row_record(f"{path}, row {number}", row, layout, several) for number, row in enumerate(rows, 1)]
    if path_column:
        records = [replace(one, id=name or "") for one, name in zip(records, cells[path_column], strict=True)]
    return _table(path, np.concatenate(blocks), records, columns, source, several)


def _text(value: Any) -> str | None:
    """A cell as in the other tables of samples."""
    if value is None or value != value:  # pandas writes missing numbers as NaN
        return None
    if isinstance(value, float) and value == int(value):
        value = int(value)
    return SEPARATOR.join(map(str, value)) if isinstance(value, list) else str(value)


def _vectors(where: str, column: Any) -> NDArray[Any]:
    """The vectors of some rows, shape (b, d): float16 if the column is, float32 otherwise."""
    from pyarrow import compute, types

    kind = column.type
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if not is_list or not (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)):
        raise DataLayoutError(f"{where} holds {kind}; it must hold lists of numbers.")
    values = column.flatten()  # without the lists that are null
    if column.null_count or values.null_count:
        raise DataLayoutError(f"{where} has empty cells. Leave those rows out.")
    lengths = set(compute.list_value_length(column).to_pylist())
    if len(lengths) != 1:
        raise DataLayoutError(f"{where} has vectors of different lengths: {', '.join(map(str, sorted(lengths)))}.")
    numbers = values.to_numpy(zero_copy_only=False).reshape(len(column), lengths.pop())
    with np.errstate(over="ignore"):  # `write_arrays` names the rows
        return numbers if numbers.dtype == np.float16 else numbers.astype(np.float32)


def _table(
    path: object,
    x: NDArray[Any],
    records: Sequence[SampleRecord],
    columns: Mapping[str, str],
    source: Mapping[str, Any],
    several: bool,
) -> FeatureTable:
    present = sorted({name for record in records for name in record.classes})
    stored = source.get("classes")
    classes = stored if isinstance(stored, list) and {*present} <= {*map(str, stored)} else present
    unlabeled = [not one.classes and one.split == UNLABELED for one in records]
    y: Any = [record.classes[0] if record.classes else None for record in records]
    if several:
        y = np.array([[name in record.classes for name in classes] for record in records], np.int8)
        y[unlabeled] = -1
    splits = [one.split for one in records if one.split and one.split != UNLABELED]
    if splits and len(splits) < len(records) - sum(unlabeled):
        raise DataLayoutError(
            f"{path} has labeled rows without a split. Give train, val or test to each of them, or to none."
        )
    hashes = [record.sha256 for record in records]
    return FeatureTable(
        x,
        y,
        classes,
        [one.split or "train" for one in records] if splits else None,
        [record.id for record in records] if "path" in columns else None,
        [record.group for record in records] if "group" in columns else None,
        np.frombuffer(b"".join(map(bytes, hashes)), np.uint8).reshape(-1, 32) if all(hashes) else None,  # type: ignore[arg-type]
        str(source.get("backbone", "")).removeprefix(ARRAYS).removeprefix(":"),
    )
