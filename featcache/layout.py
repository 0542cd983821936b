"""The cache file: HDF5 whose tables are sealed by a hash and whose arrays lie at known places.

README.md specifies the format; tests/test_golden.py pins it. The number of samples is known before the first one is
extracted, so `skeleton.write` writes all tables and leaves room for every row. That is all that HDF5 does here: rows
are written, and everything is read, as bytes at an offset that the header names. So a crash cannot hurt the structure,
and a file with bad intentions never meets the HDF5 library, which hangs or dies on some.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from featcache.errors import CacheError, CacheVersionError, NotACacheError
from featcache.samples import SPLITS, Samples
from featcache.spec import ExtractSpec

VERSION = 1
MAGIC = b"featcache "
OWNER_BYTES = 256  # the end of the header: who is writing; empty in a finished cache
REASON_BYTES = 120

TABLES = ("index", "labels", "split", "sha256")
_DTYPES = ("|u1", "<u2", "<u4", "<i8", "<f2", "<f4", f"|S{REASON_BYTES}")
LEAST_HEADER = 512  # HDF5 looks for its own start at 512, 1024, 2048, ...
_MOST_HEADER = 2**20
_PROVENANCE = {"weights": str, "val_fraction": float, "split_seed": int, "allow_leak": bool}  # what others rely on
_CHUNK = 2**20
_MOST_SEALED, _MOST_SEALED_A_ROW = 2**26, 2**15  # bytes


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

    def of(self, data: NDArray[np.uint8]) -> NDArray[Any]:
        """The array, of the bytes of the file."""
        return data[self.offset : self.offset + self.size_bytes].view(self.dtype).reshape(self.shape)


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

    @property
    def owner(self) -> bytes:
        """Who writes this file, or wrote it last without an end; empty for a finished one."""
        return self.data[self.owner_offset : self.header_bytes].tobytes().rstrip(b"\0")


def wanted_views(spec: ExtractSpec, samples: Samples) -> NDArray[np.uint16]:
    """How many views each sample shall have, shape (n,): training images 1 + K, others the clean one."""
    return np.where(samples.split == SPLITS.index("train"), 1 + spec.views, 1).astype(np.uint16)


def size_needed(spec: ExtractSpec, samples: Samples, dims: Mapping[str, int]) -> int:
    """Bytes of the file that `skeleton.write` would make, within 1 % and 100 kB."""
    rows = sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in row_arrays(spec, len(samples), dims).values())
    names = [*samples.ids, *samples.classes]
    as_json = len(json.dumps(names))
    as_text = sum(len(encode(name)) + 36 for name in names)  # each with its place in HDF5's heap
    return rows + as_json + as_text + len(samples) * (8 + 1 + 32) + 65536


def read(path: Path) -> Layout:
    """Check the header and the tables of a cache file and read them.

    Raises
    ------
    NotACacheError, CacheVersionError
    """
    if not path.is_file():  # a pipe would make us wait
        raise NotACacheError(f"{path} is not a feature cache: it is no regular file.")
    try:
        with path.open("rb", buffering=0) as raw:
            header_bytes, arrays = _check_seal(path, raw)
            return _read(path, raw, header_bytes, arrays)
    except CacheError:
        raise
    except Exception as error:  # of JSON or numbers that are not what they should be
        raise damaged(path, f"{type(error).__name__}: {error}") from error


def damaged(path: Path, reason: str) -> NotACacheError:
    """The error that says so."""
    again = "run the same command again" if path.suffix == ".partial" else "extract again"
    return NotACacheError(f"{path} is a damaged feature cache: {reason}. Remove it and {again}.")


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


_Arrays = Mapping[str, tuple[int, list[int], str]]


def _region(place: tuple[int, list[int], str]) -> Region:
    offset, shape, dtype = place
    if dtype not in _DTYPES or not all(type(number) is int and 0 <= number < 2**48 for number in (offset, *shape)):
        raise ValueError("an array has no proper place")
    return Region(offset, tuple(shape), np.dtype(dtype))


def write_header(raw: BinaryIO, header_bytes: int, body: Mapping[str, Any]) -> None:
    """Write version and places, and seal them with all else that does not change."""
    text = MAGIC + f"{VERSION} {header_bytes}\n{json.dumps(body)}\n".encode()
    text += _seal(raw, text, header_bytes, body["size"], body["arrays"]) + b"\n"
    if len(text) > header_bytes - OWNER_BYTES:
        raise AssertionError("the header was made large enough")
    raw.seek(0)
    raw.write(text.ljust(header_bytes, b"\0"))


def _seal(raw: BinaryIO, text: bytes, start: int, size: int, arrays: _Arrays) -> bytes:
    """SHA-256, as hex digits, over the header's text and the bytes of the file from `start` on that are no rows."""
    digest = hashlib.sha256(text)
    for first, last in _gaps(start, size, arrays):
        raw.seek(first)
        while first < last:
            block = raw.read(min(_CHUNK, last - first))
            if not block:
                raise EOFError("the file ends too early")
            digest.update(block)
            first += len(block)
    return digest.hexdigest().encode()


def _gaps(start: int, size: int, arrays: _Arrays) -> Iterator[tuple[int, int]]:
    rows = [_region(place) for name, place in arrays.items() if name not in TABLES]
    for region in sorted(rows, key=lambda region: region.offset):
        if region.size_bytes:
            yield start, region.offset
            start = region.offset + region.size_bytes
    yield start, size


def _check_seal(path: Path, raw: BinaryIO) -> tuple[int, _Arrays]:
    """Check header and hash; returns the header's size and the places of the arrays."""
    start = raw.read(LEAST_HEADER)
    if not start.startswith(MAGIC):
        raise NotACacheError(f"{path} is not a feature cache: it does not begin with 'featcache'.")
    version, _, length = start[len(MAGIC) :].partition(b"\n")[0].partition(b" ")
    if version != str(VERSION).encode():
        raise CacheVersionError(
            f"{path} has format version {version.decode('ascii', 'replace')[:20]}; this featcache reads version "
            f"{VERSION}. Use the featcache that wrote it, or extract again."
        )
    header_bytes = int(length)
    if not LEAST_HEADER <= header_bytes <= _MOST_HEADER or header_bytes & (header_bytes - 1):
        raise damaged(path, "its header has no proper size")
    header = start + raw.read(header_bytes - LEAST_HEADER)
    first, second, seal, rest = header[: header_bytes - OWNER_BYTES].split(b"\n", 3)
    size = os.fstat(raw.fileno()).st_size
    body = json.loads(second)
    if body["size"] != size:
        raise damaged(path, f"it has {size} bytes, {body['size']} were written")
    arrays: _Arrays = dict(body["arrays"])
    gaps = list(_gaps(header_bytes, size, arrays))
    if any(rest) or any(first > last for first, last in gaps):
        raise damaged(path, "its header contradicts itself")
    if sum(last - first for first, last in gaps) > _MOST_SEALED + _MOST_SEALED_A_ROW * arrays["labels"][1][0]:
        raise damaged(path, "it holds too much that is no rows")  # hashing gigabytes of nothing takes long
    if _seal(raw, first + b"\n" + second + b"\n", header_bytes, size, arrays) != seal:
        raise damaged(path, "its tables do not have their hash")
    return header_bytes, arrays


def _read(path: Path, raw: BinaryIO, header_bytes: int, arrays: _Arrays) -> Layout:
    size = os.fstat(raw.fileno()).st_size
    regions = {name: _region(place) for name, place in arrays.items()}
    if any(not header_bytes <= region.offset <= size - region.size_bytes for region in regions.values()):
        raise damaged(path, "an array does not lie whole in the file")

    def table(name: str, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        region = regions[name]
        if (region.shape, region.dtype) != (shape, np.dtype(dtype)):
            raise damaged(path, f"{name} has shape {region.shape} and type {region.dtype}")
        raw.seek(region.offset)
        return np.frombuffer(raw.read(region.size_bytes), region.dtype).reshape(shape)

    index = json.loads(table("index", regions["index"].shape, "|u1").tobytes())
    spec = ExtractSpec.from_json(json.dumps(index["spec"]))
    n = len(index["ids"])
    samples = Samples(
        tuple(map(str, index["ids"])),
        table("labels", (n,), "<i8"),
        table("split", (n,), "|u1"),
        table("sha256", (n, 32), "|u1"),
        tuple(map(str, index["classes"])),
    )
    if len(set(samples.ids)) != n:
        raise damaged(path, "its ids are not one a row")
    if n and not 0 <= samples.labels.min() <= samples.labels.max() < len(samples.classes):
        raise damaged(path, "a label lies outside of its classes")
    if n and samples.split.max() >= len(SPLITS):
        raise damaged(path, "a split lies outside of train, val and test")
    provenance = dict(index["provenance"])
    for name, kind in _PROVENANCE.items():
        if not isinstance(provenance.get(name, kind()), kind):
            raise damaged(path, f"its {name} is {provenance[name]!r}")
    dims = {layer: regions[f"features/{layer}"].shape[-1] for layer in spec.layers}
    if 0 in dims.values():
        raise damaged(path, "a layer has no features")
    wanted = row_arrays(spec, n, dims)
    if set(regions) != {*TABLES, *wanted}:
        raise damaged(path, f"it holds {', '.join(sorted(regions))}")
    for name, (shape, dtype) in wanted.items():
        if (regions[name].shape, regions[name].dtype) != (shape, dtype):
            raise damaged(path, f"{name} has shape {regions[name].shape} and type {regions[name].dtype}")
    return Layout(
        spec,
        samples,
        provenance,
        np.memmap(raw, dtype=np.uint8, mode="r"),
        header_bytes,
        {layer: regions[f"features/{layer}"] for layer in spec.layers},
        regions["done"],
        regions["crc32"],
        regions["skipped"],
    )
