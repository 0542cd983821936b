"""Parquet: a row group for each block, the vectors as lists of a fixed size. DuckDB, pandas and Arrow read it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from featcache.cache.tables.registry import TABLE_FORMATS, VECTOR, Block, ColumnKind, TableFormat, TableSchema
from featcache.errors import ExportError

METADATA = b"featcache"
"""The key of `TableSchema.source` in the metadata of the file."""


def write_parquet(file: BinaryIO, schema: TableSchema, blocks: Iterator[Block]) -> None:
    """See `TableFormat`. Raises ExportError for a text that is not Unicode, such as some names of files."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    kinds: dict[ColumnKind, Any] = {"text": pa.string(), "integer": pa.int32(), "number": pa.float32()}
    vector = pa.list_(pa.from_numpy_dtype(schema.dtype), schema.width)
    fields = [pa.field(name, kinds[kind]) for name, kind in schema.columns.items()]
    columns = pa.schema(
        [*fields, pa.field(VECTOR, vector, nullable=False)], metadata={METADATA: json.dumps(schema.source)}
    )
    texts = [name for name, kind in schema.columns.items() if kind == "text" and name not in ("path", "sha256")]
    with parquet.ParquetWriter(file, columns, use_dictionary=texts) as writer:
        for block in blocks:
            arrays = [_array(block[field.name], field.type) for field in fields]
            values = pa.array(np.ascontiguousarray(block[VECTOR]).reshape(-1))
            arrays.append(pa.FixedSizeListArray.from_arrays(values, schema.width))
            writer.write_table(pa.table(arrays, schema=columns))


def _array(values: Sequence[Any], kind: Any) -> Any:
    import pyarrow as pa

    try:
        return pa.array(values, kind)
    except UnicodeEncodeError as error:
        raise ExportError(
            f"{error.object!r} is not Unicode text, and Parquet holds no other. Rename the file, or write npz."
        ) from error


TABLE_FORMATS.register("parquet", TableFormat(write_parquet, ("pyarrow",), "parquet"))
