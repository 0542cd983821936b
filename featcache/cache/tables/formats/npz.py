"""npz: one array for each column, which `numpy.load` reads without pickle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO
from zipfile import ZipFile

from featcache.cache.tables.registry import TABLE_FORMATS, VECTOR, Block, TableFormat, TableSchema

_DTYPES = {"text": "U", "integer": "i4", "number": "f4"}


def write_npz(file: BinaryIO, schema: TableSchema, blocks: Iterator[Block]) -> None:
    """See `TableFormat`. A missing text is "", a missing number NaN. The vectors are not compressed."""
    import numpy as np

    values: dict[str, list[Any]] = {name: [] for name in schema.columns}
    with ZipFile(file, "w") as archive:
        with archive.open(f"{VECTOR}.npy", "w", force_zip64=True) as member:
            shape = {"descr": schema.dtype.str, "fortran_order": False, "shape": (schema.rows, schema.width)}
            np.lib.format.write_array_header_2_0(member, shape)
            for block in blocks:
                member.write(np.ascontiguousarray(block[VECTOR], schema.dtype).data.cast("B"))
                for name, column in values.items():
                    column.extend(block[name])
        for name, kind in schema.columns.items():
            usual = "" if kind == "text" else np.nan
            column = [usual if value is None else value for value in values.pop(name)]
            _add(archive, name, np.array(column, _DTYPES[kind]))
        _add(archive, "source", np.array(json.dumps(schema.source)))


def _add(archive: ZipFile, name: str, values: Any) -> None:
    from numpy.lib import format

    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        format.write_array(member, values, allow_pickle=False)


TABLE_FORMATS.register("npz", TableFormat(write_npz))
