"""The content of a feature cache: a container (see `container`) with samples, spec and features.

docs/file-format.md specifies the format; a golden test pins it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
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
from featcache.core.samples import SPLITS, UNLABELED, Labels, Samples
from featcache.core.specs import ExtractSpec

REASON_BYTES = 120
ON_DEVICE, EXTRACT_S = "views_on_device", "extract_s"
OPTIONAL = {ON_DEVICE: "<u2", EXTRACT_S: "<f4"}
"""Arrays that a file need not have, with one value for each row: their dtypes."""

CACHE = FormatSpec(
    magic=b"featcache",
    version=1,
    what="a feature cache",
    tables=("index", "labels", "split", "sha256"),
    dtypes=("|u1", "<u2", "<u4", "<i8", "<f2", "<f4", f"|S{REASON_BYTES}"),
    upgrade_hint="extract again",
    recovery_hint="extract again",
)
_PROVENANCE = {  # fields that other modules read
    "weights": str,
    "val_fraction": float,
    "split_seed": int,
    "allow_leak": bool,
    "label_column": str,
    "skip_missing": bool,
    "text_column": str,
    "val_is_held_out": bool,
}


@dataclass(frozen=True)
class Layout:
    """Tables of a cache file, and the locations of its arrays.

    Attributes
    ----------
    spec : ExtractSpec
    samples : Samples
    provenance : dict
    data : ndarray, uint8
        The bytes of the open file, memory-mapped for reading.
    header_bytes : int
        Size of the header.
    layers : dict of str to ArrayLocation
        Features of each layer, shape (n, 1 + K, d).
    done : ArrayLocation
        Views present in each row, shape (n,), uint16.
    crc32 : ArrayLocation
        Checksum of each row, shape (n,), uint32.
    skipped : ArrayLocation
        Why a sample was skipped, or empty, shape (n,), bytes.
    on_device : ArrayLocation or None
        Views of each row that a device made, not the CPU, shape (n,), uint16. None: not counted.
    extract_s : ArrayLocation or None
        Seconds that the extraction of each row took, 0 if they are unknown, shape (n,), float32. None: not measured.
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
    on_device: ArrayLocation | None = None
    extract_s: ArrayLocation | None = None

    @property
    def dims(self) -> dict[str, int]:
        """Width d of each layer."""
        return {name: location.shape[2] for name, location in self.layers.items()}

    @property
    def expected_views(self) -> NDArray[np.uint16]:
        """Views that each row has in a finished cache, shape (n,), see the function `expected_views`."""
        return expected_views(self.spec, self.samples)

    @property
    def owner_offset(self) -> int:
        """Byte offset of the writing process in the header."""
        return self.header_bytes - OWNER_BYTES

    @property
    def owner(self) -> bytes:
        """The process that writes this file, or was killed while it did; empty for a finished file."""
        return self.data[self.owner_offset : self.header_bytes].tobytes().rstrip(b"\0")


def expected_views(spec: ExtractSpec, samples: Samples) -> NDArray[np.uint16]:
    """Views of each sample in a finished cache, shape (n,): 1 + K in train, 1 + val_views elsewhere."""
    return np.where(samples.split == SPLITS.index("train"), 1 + spec.views, 1 + spec.val_views).astype(np.uint16)


def size_needed(spec: ExtractSpec, samples: Samples, dims: Mapping[str, int]) -> int:
    """Bytes of the file that `create.write_cache` would write, within 1 % and 100 kB."""
    rows = sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in row_arrays(spec, len(samples), dims).values())
    names = [*samples.ids, *samples.classes, *samples.groups]
    as_json = len(json.dumps(names))
    as_text = sum(len(encode(name)) + 36 for name in names)  # each with its entry in the heap of HDF5
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
    """Text as stored. File names that are not UTF-8 keep their bytes."""
    return text.encode("utf-8", "surrogateescape")


def decode(raw: bytes) -> str:
    """The reverse of `encode`."""
    return raw.decode("utf-8", "surrogateescape")


def row_arrays(
    spec: ExtractSpec, n: int, dims: Mapping[str, int], optional: Collection[str] = ()
) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and dtype of each array that is written after creation. optional : which of `OPTIONAL` there are."""
    arrays: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
        f"features/{layer}": ((n, 1 + spec.views, dims[layer]), np.dtype(spec.dtype)) for layer in spec.layers
    }
    arrays["done"] = ((n,), np.dtype("<u2"))
    arrays["crc32"] = ((n,), np.dtype("<u4"))
    arrays["skipped"] = ((n,), np.dtype(f"S{REASON_BYTES}"))
    return {**arrays, **{name: ((n,), np.dtype(dtype)) for name, dtype in OPTIONAL.items() if name in optional}}


def sparse_keys(samples: Samples) -> dict[str, str]:
    """Content keys that are not the hash of the bytes: row -> 64 hex digits."""
    rows = np.flatnonzero((samples.contents != samples.sha256).any(axis=1))
    return {str(row): samples.contents[row].tobytes().hex() for row in rows.tolist()}


def _content_keys(path: Path, sha256: NDArray[np.uint8], sparse: Mapping[str, str] | None) -> NDArray[np.uint8] | None:
    """The reverse of `sparse_keys`."""
    if sparse is None:
        return None
    keys = sha256.copy()
    try:
        for row, key in sparse.items():
            keys[int(row)] = np.frombuffer(bytes.fromhex(key), np.uint8)
    except (ValueError, IndexError) as error:
        raise damage_error(path, CACHE, "a content key is not one of a row") from error
    return keys


def _read(path: Path, arrays: ContainerReader) -> Layout:
    index, locations = arrays.index(), arrays.locations
    spec = ExtractSpec.from_json(json.dumps(index["spec"]))
    n = len(index["ids"])
    split = arrays.table("split", (n,), "|u1")
    sha256 = arrays.table("sha256", (n, 32), "|u1")
    samples = Samples(
        tuple(map(str, index["ids"])),
        _labels(path, arrays, split, len(index["classes"])),
        split,
        sha256,
        tuple(map(str, index["classes"])),
        tuple(map(str, index.get("groups", ()))),
        _content_keys(path, sha256, index.get("content_keys")),
    )
    if len(set(samples.ids)) != n:
        raise damage_error(path, CACHE, "its ids are not one for each row")
    if len(samples.groups) not in (0, n):
        raise damage_error(path, CACHE, "its groups are not one for each row")
    if n and samples.split.max() >= len(SPLITS):
        raise damage_error(path, CACHE, f"a split is not one of {', '.join(SPLITS)}")
    provenance = dict(index["provenance"])
    for name, kind in _PROVENANCE.items():
        if not isinstance(provenance.get(name, kind()), kind):
            raise damage_error(path, CACHE, f"its {name} is {provenance[name]!r}")
    dims = {layer: locations[f"features/{layer}"].shape[-1] for layer in spec.layers}
    if 0 in dims.values():
        raise damage_error(path, CACHE, "a layer has no features")
    expected = row_arrays(spec, n, dims, locations.keys())
    if set(locations) != {*CACHE.tables, *expected}:
        raise damage_error(path, CACHE, f"it holds {', '.join(sorted(locations))}")
    rows = {name: arrays.location(name, shape, dtype) for name, (shape, dtype) in expected.items()}
    return Layout(
        spec,
        samples,
        provenance,
        arrays.map_bytes(),
        arrays.header_bytes,
        {layer: rows[f"features/{layer}"] for layer in spec.layers},
        rows["done"],
        rows["crc32"],
        rows["skipped"],
        rows.get(ON_DEVICE),
        rows.get(EXTRACT_S),
    )


def _labels(path: Path, arrays: ContainerReader, split: NDArray[np.uint8], n_classes: int) -> Labels:
    """One label a row, -1 in the split "unlabeled"; or 0 or 1 for each class."""
    n, is_unlabeled = len(split), split == SPLITS.index(UNLABELED)
    several = len(arrays.locations["labels"].shape) == 2
    labels = arrays.table("labels", (n, n_classes), "|u1") if several else arrays.table("labels", (n,), "<i8")
    labelled = labels[~is_unlabeled]
    if np.any(labels[is_unlabeled] != (0 if several else -1)) or (
        labelled.size and not 0 <= labelled.min() <= labelled.max() < (2 if several else n_classes)
    ):
        raise damage_error(path, CACHE, "a label is not one of its classes")
    return labels
