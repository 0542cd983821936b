"""A sealed file: HDF5 whose tables are sealed by a hash and whose arrays lie at places that its header names.

The number of samples is known at creation, so `create.write_container` writes all tables and reserves space for every
row. HDF5 is used for nothing else: rows are written and everything is read as bytes at the offsets in the header. A
crash cannot damage the structure, and a malicious file never reaches the HDF5 library, which hangs or crashes on some.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from featcache.errors import CacheError, CacheVersionError, NotACacheError

OWNER_BYTES = 256  # the end of the header: who is writing; empty in a finished file
LEAST_HEADER = 512  # HDF5 looks for its own start at 512, 1024, 2048, ...

_MOST_HEADER = 2**20
_CHUNK = 2**20
_MOST_SEALED, _MOST_SEALED_A_ROW = 2**26, 2**15  # bytes

RawLocation = tuple[int, list[int], str]
"""Offset in bytes, shape, dtype: where an array lies, as the header says it."""


@dataclass(frozen=True)
class FormatSpec:
    """A format.

    magic : how its files begin, followed by version and size of the header. what : their name, with its article.
    tables : arrays that are sealed, "sha256" among them, with a row a sample; all others hold rows that come later.
    dtypes : that arrays may have. anew : how to get a file of this version. again : how to get one in the place of a
    damaged one that was removed.
    """

    magic: bytes
    version: int
    what: str
    tables: tuple[str, ...]
    dtypes: tuple[str, ...]
    anew: str
    again: str


@dataclass(frozen=True)
class ArrayLocation:
    """Where an array lies in the file: row r from offset + r * stride on, in bytes."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def stride(self) -> int:
        """Bytes of a row."""
        return prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def size_bytes(self) -> int:
        """Bytes of all rows."""
        return self.shape[0] * self.stride

    def of(self, data: NDArray[np.uint8]) -> NDArray[Any]:
        """The array, of the bytes of the file."""
        return data[self.offset : self.offset + self.size_bytes].view(self.dtype).reshape(self.shape)


def _region(place: RawLocation, kind: FormatSpec) -> ArrayLocation:
    offset, shape, dtype = place
    if dtype not in kind.dtypes or not all(type(number) is int and 0 <= number < 2**48 for number in (offset, *shape)):
        raise ValueError("an array has no proper place")
    return ArrayLocation(offset, tuple(shape), np.dtype(dtype))


def write_header(raw: BinaryIO, kind: FormatSpec, header_bytes: int, body: Mapping[str, Any]) -> None:
    """Write version and places, and seal them with all else that does not change."""
    text = kind.magic + f" {kind.version} {header_bytes}\n{json.dumps(body)}\n".encode()
    text += _seal(raw, kind, text, header_bytes, body["size"], body["arrays"]) + b"\n"
    if len(text) > header_bytes - OWNER_BYTES:
        raise AssertionError("the header was made large enough")
    write_at(raw, 0, text.ljust(header_bytes, b"\0"))


def _seal(
    raw: BinaryIO, kind: FormatSpec, text: bytes, start: int, size: int, arrays: Mapping[str, RawLocation]
) -> bytes:
    """SHA-256, as hex digits, over the header's text and the bytes of the file from `start` on that are no rows."""
    digest = hashlib.sha256(text)
    for first, last in _gaps(kind, start, size, arrays):
        raw.seek(first)
        while first < last:
            block = raw.read(min(_CHUNK, last - first))
            if not block:
                raise EOFError("the file ends too early")
            digest.update(block)
            first += len(block)
    return digest.hexdigest().encode()


def _gaps(kind: FormatSpec, start: int, size: int, arrays: Mapping[str, RawLocation]) -> Iterator[tuple[int, int]]:
    rows = [_region(place, kind) for name, place in arrays.items() if name not in kind.tables]
    for region in sorted(rows, key=lambda region: region.offset):
        if region.size_bytes:
            yield start, region.offset
            start = region.offset + region.size_bytes
    yield start, size


def _unseal(path: Path, raw: BinaryIO, kind: FormatSpec) -> tuple[int, dict[str, ArrayLocation]]:
    """Check header and hash; returns the header's size and where the arrays lie.

    Raises
    ------
    NotACacheError, CacheVersionError; ValueError, KeyError and others of JSON that does not hold what it should.
    """
    start = raw.read(LEAST_HEADER)
    magic = kind.magic + b" "
    if not start.startswith(magic):
        raise NotACacheError(f"{path} is not {kind.what}: it does not begin with '{kind.magic.decode()}'.")
    version, _, length = start[len(magic) :].partition(b"\n")[0].partition(b" ")
    if version != str(kind.version).encode():
        raise CacheVersionError(
            f"{path} has format version {version.decode('ascii', 'replace')[:20]}; this featcache reads version "
            f"{kind.version}. Use the featcache that wrote it, or {kind.anew}."
        )
    header_bytes = int(length)
    if not LEAST_HEADER <= header_bytes <= _MOST_HEADER or header_bytes & (header_bytes - 1):
        raise damage_error(path, kind, "its header has no proper size")
    header = start + raw.read(header_bytes - LEAST_HEADER)
    first, second, seal, rest = header[: header_bytes - OWNER_BYTES].split(b"\n", 3)
    size = os.fstat(raw.fileno()).st_size
    body = json.loads(second)
    if body["size"] != size:
        if _is_whole_hdf5(raw, header_bytes, size):
            raise NotACacheError(
                f"{path} was written anew by another program, such as h5repack: it has {size} bytes, featcache wrote "
                f"{body['size']}, and its rows are at other places than its header says. Use the file of before; what "
                f"features it holds, h5py can read. To get {kind.what}, {kind.anew}."
            )
        raise damage_error(path, kind, f"it has {size} bytes, {body['size']} were written")
    arrays: dict[str, RawLocation] = dict(body["arrays"])
    gaps = list(_gaps(kind, header_bytes, size, arrays))
    if any(rest) or any(first > last for first, last in gaps):
        raise damage_error(path, kind, "its header contradicts itself")
    if sum(last - first for first, last in gaps) > _MOST_SEALED + _MOST_SEALED_A_ROW * arrays["sha256"][1][0]:
        raise damage_error(path, kind, "it holds too much that is no rows")  # hashing gigabytes of nothing takes long
    if _seal(raw, kind, first + b"\n" + second + b"\n", header_bytes, size, arrays) != seal:
        raise damage_error(path, kind, "its tables do not have their hash")
    regions = {name: _region(place, kind) for name, place in arrays.items()}
    if any(not header_bytes <= region.offset <= size - region.size_bytes for region in regions.values()):
        raise damage_error(path, kind, "an array does not lie whole in the file")
    return header_bytes, regions


def _is_whole_hdf5(raw: BinaryIO, start: int, size: int) -> bool:
    """Whether the HDF5 that begins at `start` says that it ends where the file does: then it was not cut off."""
    raw.seek(start)
    superblock = raw.read(48)
    if not superblock.startswith(b"\x89HDF\r\n\x1a\n") or len(superblock) < 48:
        return False
    end = 40 if superblock[8] < 2 else 28  # where versions 0 and 1, and those after them, keep their end
    return int.from_bytes(superblock[end : end + 8], "little") == size


class ContainerReader:
    """The arrays of a file that is open and whose seal holds.

    header_bytes : size of its header. regions : where they lie.
    """

    def __init__(self, path: Path, raw: BinaryIO, kind: FormatSpec) -> None:
        self._path, self._raw, self._kind = path, raw, kind
        self.header_bytes, self.regions = _unseal(path, raw, kind)

    def region(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any] | str) -> ArrayLocation:
        """Where an array of this shape and type lies. Raises NotACacheError where it has another."""
        region = self.regions[name]
        if (region.shape, region.dtype) != (shape, np.dtype(dtype)):
            raise damage_error(self._path, self._kind, f"{name} has shape {region.shape} and type {region.dtype}")
        return region

    def table(self, name: str, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """A table of this shape and type, read. Raises NotACacheError where it has another."""
        region = self.region(name, shape, dtype)
        self._raw.seek(region.offset)
        return np.frombuffer(self._raw.read(region.size_bytes), region.dtype).reshape(shape)

    def index(self) -> Any:
        """The JSON of the table "index"."""
        return json.loads(self.table("index", self.regions["index"].shape, "|u1").tobytes())

    def mapped(self) -> NDArray[np.uint8]:
        """All bytes of the file, memory-mapped for reading: of this very file, whatever has its name later."""
        return np.memmap(self._raw, dtype=np.uint8, mode="r")


@contextmanager
def open_container(path: Path, kind: FormatSpec) -> Iterator[ContainerReader]:
    """Open a sealed file for reading; what its content makes go wrong inside is a fault of the file.

    Raises
    ------
    NotACacheError, CacheVersionError, OSError : it cannot be read, which says nothing about its content.
    """
    if not path.is_file():  # a pipe would make us wait
        raise NotACacheError(f"{path} is not {kind.what}: it is no regular file.")
    try:
        with path.open("rb", buffering=0) as raw:
            yield ContainerReader(path, raw, kind)
    except (CacheError, OSError, MemoryError):
        raise
    except Exception as error:  # of JSON or numbers that are not what they should be
        raise damage_error(path, kind, f"{type(error).__name__}: {error}") from error


def write_at(raw: BinaryIO, offset: int, data: bytes | memoryview) -> None:
    """Write all of it, however many calls that takes."""
    rest = memoryview(data).cast("B")
    raw.seek(offset)
    while rest:
        rest = rest[raw.write(rest) :]


def damage_error(path: Path, kind: FormatSpec, reason: str) -> NotACacheError:
    """The error that says so."""
    again = "run the same command again" if path.suffix == ".partial" else kind.again
    return NotACacheError(f"{path} is a damaged {kind.what.partition(' ')[2]}: {reason}. Remove it and {again}.")
