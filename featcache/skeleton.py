"""`write`: a cache file with all its tables and room for every row: the one thing that HDF5 does here."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featcache.layout import LEAST_HEADER, OWNER_BYTES, TABLES, VERSION, encode, row_arrays, write_header
from featcache.samples import SPLITS, Samples
from featcache.spec import ExtractSpec

_TEXT = h5py.string_dtype("utf-8")
_SPLIT_DTYPE = h5py.enum_dtype({name: code for code, name in enumerate(SPLITS)}, basetype="u1")


def write(
    path: Path, spec: ExtractSpec, samples: Samples, dims: Mapping[str, int], provenance: Mapping[str, Any]
) -> None:
    """Write a cache file without any rows: tables, header, and room for the rows."""
    n = len(samples)
    header_bytes = LEAST_HEADER
    while header_bytes < 768 + 192 * len(spec.layers) + OWNER_BYTES:
        header_bytes *= 2
    with h5py.File(path, "w", userblock_size=header_bytes, locking=False) as file:
        file.attrs.update(
            format="featcache",
            version=VERSION,
            spec=spec.to_json(),
            digest=spec.digest(),
            provenance=json.dumps(dict(provenance)),
        )
        index = {"spec": spec.flat(), "provenance": dict(provenance), "ids": samples.ids, "classes": samples.classes}
        file.create_dataset("index", data=np.frombuffer(json.dumps(index).encode(), dtype=np.uint8))
        file.create_dataset("labels", data=samples.labels)
        file.create_dataset("split", data=samples.split, dtype=_SPLIT_DTYPE)
        file.create_dataset("sha256", data=samples.sha256)
        file.create_dataset("ids", data=[encode(name) for name in samples.ids], dtype=_TEXT)
        file.create_dataset("classes", data=[encode(name) for name in samples.classes], dtype=_TEXT)
        for name, (shape, dtype) in row_arrays(spec, n, dims).items():
            _reserve(file, name, shape, dtype)
    with h5py.File(path, "r", locking=False) as file:
        arrays = {name: _place(file[name]) for name in (*TABLES, *row_arrays(spec, n, dims))}
    with path.open("r+b", buffering=0) as raw:
        write_header(raw, header_bytes, {"size": os.fstat(raw.fileno()).st_size, "arrays": arrays})


def _reserve(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """A contiguous dataset whose bytes have their place in the file from the start."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.CONTIGUOUS)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    group = file.require_group(os.path.dirname(name) or "/")
    kind = h5py.h5t.py_create(dtype, logical=True)
    h5py.h5d.create(group.id, os.path.basename(name).encode(), kind, h5py.h5s.create_simple(shape), plist)


def _place(dataset: h5py.Dataset) -> tuple[int, list[int], str]:
    return dataset.id.get_offset(), list(dataset.shape), dataset.dtype.newbyteorder("<").str
