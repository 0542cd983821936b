"""The cache file: HDF5 whose tables are sealed by a hash and whose rows lie at known places.

README.md specifies the format; tests/test_golden.py pins it. The number of samples is known before the first one is
extracted, so `create` writes all tables and leaves room for every row. From then on HDF5 writes nothing: rows are
bytes at an offset. So a crash cannot hurt the structure, and the hash in the header finds a damaged one before HDF5
tries to read it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from featcache.errors import CacheError, CacheVersionError, NotACacheError
from featcache.samples import SPLITS, Samples
from featcache.spec import ExtractSpec

VERSION = 1
MAGIC = b"featcache "
OWNER_BYTES = 256  # the end of the header: who is writing; empty in a finished cache
REASON_BYTES = 120

_ATTRIBUTES = ("format", "version", "spec", "digest", "provenance")
_TABLES = ("labels", "split", "sha256", "ids", "classes")
_TEXT = h5py.string_dtype("utf-8")
_SPLIT_DTYPE = h5py.enum_dtype({name: code for code, name in enumerate(SPLITS)}, basetype="u1")
_LEAST_HEADER = 512  # HDF5 looks for its own start at 512, 1024, 2048, ...
_MOST_HEADER = 2**20
_CHUNK = 2**20


@dataclass(frozen=True)
class Region:
    """Where an array lies in the file: row r from offset + r * stride on, in bytes."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def stride(self) -> int:
        """Bytes of a row."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    @property
    def size_bytes(self) -> int:
        """Bytes of all rows."""
        return self.shape[0] * self.stride

    def map(self, path: Path) -> NDArray[Any]:
        """The array, memory-mapped for reading."""
        if not self.size_bytes:
            return np.empty(self.shape, self.dtype)
        return np.memmap(path, dtype=self.dtype, mode="r", offset=self.offset, shape=self.shape)


@dataclass(frozen=True)
class Layout:
    """What a cache file holds, and where.

    header_bytes : size of the header. layers : features (n, 1 + K, d). done : (n,) uint16. crc32 : (n,) uint32.
    skipped : (n,) byte strings.
    """

    spec: ExtractSpec
    samples: Samples
    provenance: dict[str, Any]
    header_bytes: int
    layers: dict[str, Region]
    done: Region
    crc32: Region
    skipped: Region

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


def wanted_views(spec: ExtractSpec, samples: Samples) -> NDArray[np.uint16]:
    """How many views each sample shall have, shape (n,): training images 1 + K, others the clean one."""
    return np.where(samples.split == SPLITS.index("train"), 1 + spec.views, 1).astype(np.uint16)


def create(
    path: Path, spec: ExtractSpec, samples: Samples, dims: Mapping[str, int], provenance: Mapping[str, Any]
) -> None:
    """Write a cache file without any rows: tables, header, and room for the rows."""
    n = len(samples)
    header_bytes = _LEAST_HEADER
    while header_bytes < 512 + 128 * len(spec.layers) + OWNER_BYTES:
        header_bytes *= 2
    with h5py.File(path, "w", userblock_size=header_bytes, locking=False) as file:
        file.attrs.update(
            format="featcache",
            version=VERSION,
            spec=spec.to_json(),
            digest=spec.digest(),
            provenance=json.dumps(dict(provenance)),
        )
        file.create_dataset("labels", data=samples.labels)
        file.create_dataset("split", data=samples.split, dtype=_SPLIT_DTYPE)
        file.create_dataset("sha256", data=samples.sha256)
        file.create_dataset("ids", data=[encode(name) for name in samples.ids], dtype=_TEXT)
        file.create_dataset("classes", data=[encode(name) for name in samples.classes], dtype=_TEXT)
        for name, (shape, dtype) in _row_arrays(spec, n, dims).items():
            _reserve(file, name, shape, dtype)
    with path.open("r+b", buffering=0) as raw:
        with h5py.File(path, "r", locking=False) as file:
            places = {name: (file[name].id.get_offset(), file[name].nbytes) for name in _row_arrays(spec, n, dims)}
        size = os.fstat(raw.fileno()).st_size
        body = {"size": size, "rows": places, "sha256": _seal(raw, header_bytes, size, places)}
        text = MAGIC + f"{VERSION} {header_bytes}\n{json.dumps(body)}\n".encode()
        if len(text) > header_bytes - OWNER_BYTES:
            raise AssertionError("the header was made large enough")
        raw.seek(0)
        raw.write(text.ljust(header_bytes, b"\0"))


def size_needed(spec: ExtractSpec, samples: Samples, dims: Mapping[str, int]) -> int:
    """Bytes of the file that `create` would make, within 1 % and 100 kB."""
    rows = sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in _row_arrays(spec, len(samples), dims).values())
    tables = sum(len(encode(name)) + 32 for name in samples.ids) + len(samples) * (8 + 1 + 32)
    return rows + tables + 65536


def read(path: Path) -> Layout:
    """Check the header and the tables of a cache file and read them.

    Raises
    ------
    NotACacheError, CacheVersionError
    """
    try:
        with path.open("rb", buffering=0) as raw:
            header_bytes, places = _check_seal(path, raw)
        with h5py.File(path, "r", locking=False) as file:
            return _read(path, file, header_bytes, places)
    except CacheError:
        raise
    except Exception as error:  # h5py raises whatever it likes on what it does not understand
        raise damaged(path, str(error)) from error


def damaged(path: Path, reason: str) -> NotACacheError:
    """The error that says so."""
    return NotACacheError(f"{path} is a damaged feature cache: {reason}. Extract again.")


def encode(text: str) -> bytes:
    """Text as stored: file names that are not UTF-8 keep their bytes."""
    return text.encode("utf-8", "surrogateescape")


def decode(raw: bytes) -> str:
    """The reverse of `encode`."""
    return raw.decode("utf-8", "surrogateescape")


def _row_arrays(spec: ExtractSpec, n: int, dims: Mapping[str, int]) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and dtype of everything that is written after creation."""
    arrays: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
        f"features/{layer}": ((n, 1 + spec.views, dims[layer]), np.dtype(spec.dtype)) for layer in spec.layers
    }
    arrays["done"] = ((n,), np.dtype("<u2"))
    arrays["crc32"] = ((n,), np.dtype("<u4"))
    arrays["skipped"] = ((n,), np.dtype(f"S{REASON_BYTES}"))
    return arrays


def _reserve(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """A contiguous dataset whose bytes have their place in the file from the start."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.CONTIGUOUS)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    group = file.require_group(os.path.dirname(name) or "/")
    kind = h5py.h5t.py_create(dtype, logical=True)
    h5py.h5d.create(group.id, os.path.basename(name).encode(), kind, h5py.h5s.create_simple(shape), plist)


def _seal(raw: BinaryIO, start: int, size: int, places: Mapping[str, tuple[int, int]]) -> str:
    """SHA-256 over the bytes of the file from `start` on that are no rows."""
    digest = hashlib.sha256()
    for first, last in _gaps(start, size, places):
        raw.seek(first)
        while first < last:
            block = raw.read(min(_CHUNK, last - first))
            if not block:
                raise EOFError("the file ends too early")
            digest.update(block)
            first += len(block)
    return digest.hexdigest()


def _gaps(start: int, size: int, places: Mapping[str, tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for offset, length in sorted(places.values()):
        if length:
            yield start, offset
            start = offset + length
    yield start, size


def _check_seal(path: Path, raw: BinaryIO) -> tuple[int, dict[str, tuple[int, int]]]:
    """Check header and hash; returns the header's size and the places of the rows."""
    start = raw.read(_LEAST_HEADER)
    if not start.startswith(MAGIC):
        raise NotACacheError(f"{path} is not a feature cache: it does not begin with 'featcache'.")
    version, _, length = start[len(MAGIC) :].partition(b"\n")[0].partition(b" ")
    if version != str(VERSION).encode():
        raise CacheVersionError(
            f"{path} has format version {version.decode('ascii', 'replace')[:20]}; this featcache reads version "
            f"{VERSION}. Use the featcache that wrote it, or extract again."
        )
    header_bytes = int(length)
    if not _LEAST_HEADER <= header_bytes <= _MOST_HEADER or header_bytes & (header_bytes - 1):
        raise damaged(path, "its header has no proper size")
    header = start + raw.read(header_bytes - _LEAST_HEADER)
    text, _, rest = header[: header_bytes - OWNER_BYTES].partition(b"\n")[2].partition(b"\n")
    size = os.fstat(raw.fileno()).st_size
    body = json.loads(text)
    places = {str(name): (int(offset), int(length)) for name, (offset, length) in body["rows"].items()}
    if body["size"] != size:
        raise damaged(path, f"it has {size} bytes, {body['size']} were written")
    ordered = list(_gaps(header_bytes, size, places))
    if any(rest) or any(first > last for first, last in ordered):
        raise damaged(path, "its header contradicts itself")
    if _seal(raw, header_bytes, size, places) != body["sha256"]:
        raise damaged(path, "its tables do not have their hash")
    return header_bytes, places


def _read(path: Path, file: h5py.File, header_bytes: int, places: dict[str, tuple[int, int]]) -> Layout:
    size = path.stat().st_size
    spec = ExtractSpec.from_json(file.attrs["spec"])
    if set(file.attrs) != set(_ATTRIBUTES) or spec.digest() != file.attrs["digest"]:
        raise damaged(path, "its spec does not have its digest")
    names = {f"features/{layer}" for layer in spec.layers}
    found = {f"features/{name}" for name in file["features"]} | set(file) - {"features"}
    if found != names | {*_TABLES, "done", "crc32", "skipped"}:
        raise damaged(path, f"it holds {', '.join(sorted(found))}")
    tables = {name: _inside(path, file, name, size) for name in _TABLES}
    n = tables["labels"].shape[0]
    samples = Samples(
        _texts(path, tables["ids"], size),
        _typed(path, tables["labels"], (n,), np.dtype("<i8")),
        _typed(path, tables["split"], (n,), np.dtype("u1")),
        _typed(path, tables["sha256"], (n, 32), np.dtype("u1")),
        _texts(path, tables["classes"], size),
    )
    if len(samples.ids) != n or len(set(samples.ids)) != n:
        raise damaged(path, "its ids are not one a row")
    if n and not 0 <= samples.labels.min() <= samples.labels.max() < len(samples.classes):
        raise damaged(path, "a label lies outside of its classes")
    if n and samples.split.max() >= len(SPLITS):
        raise damaged(path, "a split lies outside of train, val and test")
    dims = {layer: int(_inside(path, file, f"features/{layer}", size).shape[-1]) for layer in spec.layers}
    regions = {}
    for name, (shape, dtype) in _row_arrays(spec, n, dims).items():
        dataset = _inside(path, file, name, size)
        region = Region(dataset.id.get_offset(), shape, dtype)
        if (dataset.shape, dataset.dtype) != (shape, dtype) or places.get(name) != (region.offset, region.size_bytes):
            raise damaged(path, f"{name} has shape {dataset.shape} and type {dataset.dtype}")
        regions[name] = region
    layers = {layer: regions.pop(f"features/{layer}") for layer in spec.layers}
    return Layout(spec, samples, json.loads(file.attrs["provenance"]), header_bytes, layers, **regions)


def _inside(path: Path, file: h5py.File, name: str, size: int) -> h5py.Dataset:
    """A dataset whose bytes lie whole in this file; refuses links and virtual or external data before reading any."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise damaged(path, f"{name} leads to another file")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise damaged(path, f"{name} is no dataset")
    plist = dataset.id.get_create_plist()
    if plist.get_layout() != h5py.h5d.CONTIGUOUS or plist.get_external_count():
        raise damaged(path, f"{name} does not lie in one piece in the file")
    offset = dataset.id.get_offset()
    if dataset.nbytes and (offset is None or offset + dataset.nbytes > size):
        raise damaged(path, f"{name} does not lie whole in the file")
    return dataset


def _typed(path: Path, dataset: h5py.Dataset, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dataset.shape != shape or dataset.dtype.newbyteorder("=") != dtype.newbyteorder("="):
        raise damaged(path, f"{dataset.name} has shape {dataset.shape} and type {dataset.dtype}")
    values: NDArray[Any] = dataset[:]
    return values


def _texts(path: Path, dataset: h5py.Dataset, size: int) -> tuple[str, ...]:
    """UTF-8 strings; together they cannot be longer than the file."""
    if dataset.ndim != 1 or h5py.check_string_dtype(dataset.dtype) is None:
        raise damaged(path, f"{dataset.name} is no list of texts")
    found: list[str] = []
    left = size
    for start in range(0, len(dataset), 256):
        block = [bytes(raw) for raw in dataset[start : start + 256]]
        left -= sum(map(len, block))
        if left < 0:
            raise damaged(path, f"{dataset.name} is longer than the file")
        found += [decode(raw) for raw in block]
    return tuple(found)
