"""What a feature cache holds: a sealed file (see `sealed`) of samples and spec, with room for their features.

README.md specifies the format; tests/test_golden.py pins it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.cache.format.container import (
    OWNER_BYTES,
    ArrayLocation,
    ContainerReader,
    FormatSpec,
    damage_error,
    open_container,
)
from featcache.core.samples import SPLITS, UNLABELLED, Labels, Samples
from featcache.core.specs import ExtractSpec

REASON_BYTES = 120

CACHE = FormatSpec(
    magic=b"featcache",
    version=1,
    what="a feature cache",
    tables=("index", "labels", "split", "sha256"),
    dtypes=("|u1", "<u2", "<u4", "<i8", "<f2", "<f4", f"|S{REASON_BYTES}"),
    anew="extract again",
    again="extract again",
)
_PROVENANCE = {  # what others rely on
    "weights": str,
    "val_fraction": float,
    "split_seed": int,
    "allow_leak": bool,
    "label_column": str,
    "skip_missing": bool,
    "val_is_held_out": bool,
}


@dataclass(frozen=True)
class Layout:
    """What a cache file holds, and where.

    data : the bytes of the file, memory-mapped for reading: of the very file that the rest was read from, whatever
    has its name by now. header_bytes : size of the header. layers : features (n, 1 + K, d). done : (n,) uint16.
    crc32 : (n,) uint32. skipped : (n,) byte strings.
    """

    spec: ExtractSpec
    samples: Samples
    provenance: dict[str, Any]
    data: NDArray[np.uint8]
    header_bytes: int
    layers: dict[str, ArrayLocation]
    done: ArrayLocation
    crc32: ArrayLocation
    skipped: ArrayLocation

    @property
    def dims(self) -> dict[str, int]:
        """Width d of each layer."""
        return {name: region.shape[2] for name, region in self.layers.items()}

    @property
    def wanted(self) -> NDArray[np.uint16]:
        """How many views each row shall have, shape (n,), see `wanted_views`."""
        return wanted_views(self.spec, self.samples)

    @property
    def owner_offset(self) -> int:
        """Where the header names the process that writes."""
        return self.header_bytes - OWNER_BYTES

    @property
    def owner(self) -> bytes:
        """Who writes this file, or wrote it last without an end; empty for a finished one."""
        return self.data[self.owner_offset : self.header_bytes].tobytes().rstrip(b"\0")


def wanted_views(spec: ExtractSpec, samples: Samples) -> NDArray[np.uint16]:
    """How many views each sample shall have, shape (n,): training images 1 + K, others 1 + val_views."""
    return np.where(samples.split == SPLITS.index("train"), 1 + spec.views, 1 + spec.val_views).astype(np.uint16)


def size_needed(spec: ExtractSpec, samples: Samples, dims: Mapping[str, int]) -> int:
    """Bytes of the file that `create.write_container` would make, within 1 % and 100 kB."""
    rows = sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in row_arrays(spec, len(samples), dims).values())
    names = [*samples.ids, *samples.classes, *samples.groups]
    as_json = len(json.dumps(names))
    as_text = sum(len(encode(name)) + 36 for name in names)  # each with its place in HDF5's heap
    return rows + as_json + as_text + samples.labels.nbytes + len(samples) * (1 + 32) + 65536


def read(path: Path) -> Layout:
    """Check the header and the tables of a cache file and read them.

    Raises
    ------
    NotACacheError, CacheVersionError
    """
    with open_container(path, CACHE) as arrays:
        return _read(path, arrays)


def encode(text: str) -> bytes:
    """Text as stored: file names that are not UTF-8 keep their bytes."""
    return text.encode("utf-8", "surrogateescape")


def decode(raw: bytes) -> str:
    """The reverse of `encode`."""
    return raw.decode("utf-8", "surrogateescape")


def row_arrays(spec: ExtractSpec, n: int, dims: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and dtype of everything that is written after creation."""
    arrays: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
        f"features/{layer}": ((n, 1 + spec.views, dims[layer]), np.dtype(spec.dtype)) for layer in spec.layers
    }
    arrays["done"] = ((n,), np.dtype("<u2"))
    arrays["crc32"] = ((n,), np.dtype("<u4"))
    arrays["skipped"] = ((n,), np.dtype(f"S{REASON_BYTES}"))
    return arrays


def _read(path: Path, arrays: ContainerReader) -> Layout:
    index, regions = arrays.index(), arrays.regions
    spec = ExtractSpec.from_json(json.dumps(index["spec"]))
    n = len(index["ids"])
    split = arrays.table("split", (n,), "|u1")
    samples = Samples(
        tuple(map(str, index["ids"])),
        _labels(path, arrays, split, len(index["classes"])),
        split,
        arrays.table("sha256", (n, 32), "|u1"),
        tuple(map(str, index["classes"])),
        tuple(map(str, index.get("groups", ()))),
    )
    if len(set(samples.ids)) != n:
        raise damage_error(path, CACHE, "its ids are not one a row")
    if len(samples.groups) not in (0, n):
        raise damage_error(path, CACHE, "its groups are not one a row")
    if n and samples.split.max() >= len(SPLITS):
        raise damage_error(path, CACHE, f"a split lies outside of {', '.join(SPLITS)}")
    provenance = dict(index["provenance"])
    for name, kind in _PROVENANCE.items():
        if not isinstance(provenance.get(name, kind()), kind):
            raise damage_error(path, CACHE, f"its {name} is {provenance[name]!r}")
    dims = {layer: regions[f"features/{layer}"].shape[-1] for layer in spec.layers}
    if 0 in dims.values():
        raise damage_error(path, CACHE, "a layer has no features")
    wanted = row_arrays(spec, n, dims)
    if set(regions) != {*CACHE.tables, *wanted}:
        raise damage_error(path, CACHE, f"it holds {', '.join(sorted(regions))}")
    rows = {name: arrays.region(name, *expected) for name, expected in wanted.items()}
    return Layout(
        spec,
        samples,
        provenance,
        arrays.mapped(),
        arrays.header_bytes,
        {layer: rows[f"features/{layer}"] for layer in spec.layers},
        rows["done"],
        rows["crc32"],
        rows["skipped"],
    )


def _labels(path: Path, arrays: ContainerReader, split: NDArray[np.uint8], n_classes: int) -> Labels:
    """One label a row, -1 in the split "unlabelled", or 0 and 1 for each class."""
    n, is_unlabelled = len(split), split == SPLITS.index(UNLABELLED)
    several = len(arrays.regions["labels"].shape) == 2
    labels = arrays.table("labels", (n, n_classes), "|u1") if several else arrays.table("labels", (n,), "<i8")
    known = labels[~is_unlabelled]
    if np.any(labels[is_unlabelled] != (0 if several else -1)) or (
        known.size and not 0 <= known.min() <= known.max() < (2 if several else n_classes)
    ):
        raise damage_error(path, CACHE, "a label lies outside of its classes")
    return labels
