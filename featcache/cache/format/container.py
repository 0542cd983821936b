"""A container: an HDF5 file with a header that names the offset of each array, and a hash over header and tables.

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

OWNER_BYTES = 256  # at the end of the header: the process that writes; empty in a finished file
MIN_HEADER_BYTES = 512  # HDF5 searches for its superblock at 512, 1024, 2048, ...

_MAX_HEADER_BYTES = 2**20
_CHUNK = 2**20
_MAX_HASHED, _MAX_HASHED_PER_ROW = 2**26, 2**15  # bytes

RawLocation = tuple[int, list[int], str]
"""Offset in bytes, shape and dtype of an array, as in the header."""


@dataclass(frozen=True)
class FormatSpec:
    """A kind of container files.

    Attributes
    ----------
    magic : bytes
        The beginning of each file; version and size of the header follow.
    version : int
        Version of the format.
    what : str
        Name of such a file, with its article, for messages.
    tables : tuple of str
        Arrays that are covered by the hash, "sha256" among them, which has one row a sample. All other arrays are
        written later, row by row.
    dtypes : tuple of str
        Dtypes that arrays may have.
    upgrade_hint : str
        How to get a file of this version.
    recovery_hint : str
        How to replace a damaged file.
    """

    magic: bytes
    version: int
    what: str
    tables: tuple[str, ...]
    dtypes: tuple[str, ...]
    upgrade_hint: str
    recovery_hint: str


@dataclass(frozen=True)
class ArrayLocation:
    """Position of an array in the file: row r begins at byte offset + r * stride."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def stride(self) -> int:
        """Bytes of one row."""
        return prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def size_bytes(self) -> int:
        """Bytes of all rows."""
        return self.shape[0] * self.stride

    def view(self, data: NDArray[np.uint8]) -> NDArray[Any]:
        """The array, as a view of the bytes of the file."""
        return data[self.offset : self.offset + self.size_bytes].view(self.dtype).reshape(self.shape)


def _parse_location(raw_location: RawLocation, kind: FormatSpec) -> ArrayLocation:
    offset, shape, dtype = raw_location
    if dtype not in kind.dtypes or not all(type(number) is int and 0 <= number < 2**48 for number in (offset, *shape)):
        raise ValueError("an array has no valid location")
    return ArrayLocation(offset, tuple(shape), np.dtype(dtype))


def write_header(raw: BinaryIO, kind: FormatSpec, header_bytes: int, body: Mapping[str, Any]) -> None:
    """Write the header: version, locations, and the hash over everything that does not change later."""
    text = kind.magic + f" {kind.version} {header_bytes}\n{json.dumps(body)}\n".encode()
    text += _digest(raw, kind, text, header_bytes, body["size"], body["arrays"]) + b"\n"
    if len(text) > header_bytes - OWNER_BYTES:
        raise AssertionError("the header was made large enough")
    write_at(raw, 0, text.ljust(header_bytes, b"\0"))


def _digest(
    raw: BinaryIO, kind: FormatSpec, text: bytes, start: int, size: int, arrays: Mapping[str, RawLocation]
) -> bytes:
    """SHA-256, as hex digits, over the text of the header and all bytes from `start` on that do not belong to rows."""
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
    """The byte ranges between the arrays of rows."""
    rows = [_parse_location(raw, kind) for name, raw in arrays.items() if name not in kind.tables]
    for location in sorted(rows, key=lambda location: location.offset):
        if location.size_bytes:
            yield start, location.offset
            start = location.offset + location.size_bytes
    yield start, size


def _verify(path: Path, raw: BinaryIO, kind: FormatSpec) -> tuple[int, dict[str, ArrayLocation]]:
    """Check header and hash. Returns the size of the header and the locations of the arrays.

    Raises
    ------
    NotACacheError, CacheVersionError
        Another file, another version, or a damaged file.
    ValueError, KeyError, TypeError
        The JSON of the header has other content than expected.
    """
    start = raw.read(MIN_HEADER_BYTES)
    magic = kind.magic + b" "
    if not start.startswith(magic):
        raise NotACacheError(f"{path} is not {kind.what}: it does not begin with '{kind.magic.decode()}'.")
    version, _, length = start[len(magic) :].partition(b"\n")[0].partition(b" ")
    if version != str(kind.version).encode():
        raise CacheVersionError(
            f"{path} has format version {version.decode('ascii', 'replace')[:20]}; this featcache reads version "
            f"{kind.version}. Use the featcache that wrote it, or {kind.upgrade_hint}."
        )
    header_bytes = int(length)
    if not MIN_HEADER_BYTES <= header_bytes <= _MAX_HEADER_BYTES or header_bytes & (header_bytes - 1):
        raise damage_error(path, kind, "its header has no valid size")
    header = start + raw.read(header_bytes - MIN_HEADER_BYTES)
    first, second, digest, rest = header[: header_bytes - OWNER_BYTES].split(b"\n", 3)
    size = os.fstat(raw.fileno()).st_size
    body = json.loads(second)
    if body["size"] != size:
        if _is_whole_hdf5(raw, header_bytes, size):
            raise NotACacheError(
                f"{path} was rewritten by another program, such as h5repack: it has {size} bytes, featcache wrote "
                f"{body['size']}, and its rows are not where its header says. Use the former file; h5py can read the "
                f"features of this one. To get {kind.what}, {kind.upgrade_hint}."
            )
        raise damage_error(path, kind, f"it has {size} bytes, {body['size']} were written")
    arrays: dict[str, RawLocation] = dict(body["arrays"])
    gaps = list(_gaps(kind, header_bytes, size, arrays))
    if any(rest) or any(first > last for first, last in gaps):
        raise damage_error(path, kind, "its header contradicts itself")
    if sum(last - first for first, last in gaps) > _MAX_HASHED + _MAX_HASHED_PER_ROW * arrays["sha256"][1][0]:
        raise damage_error(path, kind, "too many of its bytes belong to no row")  # hashing gigabytes takes long
    if _digest(raw, kind, first + b"\n" + second + b"\n", header_bytes, size, arrays) != digest:
        raise damage_error(path, kind, "its tables do not match their hash")
    locations = {name: _parse_location(raw, kind) for name, raw in arrays.items()}
    if any(not header_bytes <= location.offset <= size - location.size_bytes for location in locations.values()):
        raise damage_error(path, kind, "an array extends beyond the file")
    return header_bytes, locations


def _is_whole_hdf5(raw: BinaryIO, start: int, size: int) -> bool:
    """Whether the HDF5 that begins at `start` ends at the end of the file; if so, the file was not truncated."""
    raw.seek(start)
    superblock = raw.read(48)
    if not superblock.startswith(b"\x89HDF\r\n\x1a\n") or len(superblock) < 48:
        return False
    end = (
        40 if superblock[8] < 2 else 28
    )  # the offset of the end of file in superblocks of versions 0 and 1, and of later versions
    return int.from_bytes(superblock[end : end + 8], "little") == size


class ContainerReader:
    """The arrays of an open file whose hash has been verified.

    Attributes
    ----------
    header_bytes : int
        Size of the header.
    locations : dict of str to ArrayLocation
    """

    def __init__(self, path: Path, raw: BinaryIO, kind: FormatSpec) -> None:
        self._path, self._raw, self._kind = path, raw, kind
        self.header_bytes, self.locations = _verify(path, raw, kind)

    def location(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any] | str) -> ArrayLocation:
        """The location of an array of this shape and dtype. Raises NotACacheError if the array has others."""
        location = self.locations[name]
        if (location.shape, location.dtype) != (shape, np.dtype(dtype)):
            raise damage_error(self._path, self._kind, f"{name} has shape {location.shape} and type {location.dtype}")
        return location

    def table(self, name: str, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """The content of a table of this shape and dtype. Raises NotACacheError if the table has others."""
        location = self.location(name, shape, dtype)
        self._raw.seek(location.offset)
        return np.frombuffer(self._raw.read(location.size_bytes), location.dtype).reshape(shape)

    def index(self) -> Any:
        """The JSON value of the table "index"."""
        return json.loads(self.table("index", self.locations["index"].shape, "|u1").tobytes())

    def map_bytes(self) -> NDArray[np.uint8]:
        """All bytes of the open file, memory-mapped for reading. Another file may get its name later."""
        return np.memmap(self._raw, dtype=np.uint8, mode="r")


@contextmanager
def open_container(path: Path, kind: FormatSpec) -> Iterator[ContainerReader]:
    """Open a container for reading. Errors inside the block that its content causes become NotACacheError.

    Raises
    ------
    NotACacheError
        It is another file, or damaged.
    CacheVersionError
        It has another version.
    OSError
        It cannot be read; its content may be valid.
    """
    if not path.is_file():  # opening a pipe would block
        raise NotACacheError(f"{path} is not {kind.what}: it is not a regular file.")
    try:
        with path.open("rb", buffering=0) as raw:
            yield ContainerReader(path, raw, kind)
    except (CacheError, OSError, MemoryError):
        raise
    except Exception as error:  # JSON or numbers with other content than expected
        raise damage_error(path, kind, f"{type(error).__name__}: {error}") from error


def write_at(raw: BinaryIO, offset: int, data: bytes | memoryview) -> None:
    """Write all data at an offset; a single call of the system may write only a part."""
    rest = memoryview(data).cast("B")
    raw.seek(offset)
    while rest:
        rest = rest[raw.write(rest) :]


def damage_error(path: Path, kind: FormatSpec, reason: str) -> NotACacheError:
    """The error for a damaged file."""
    cure = "run the same command again" if path.suffix == ".partial" else kind.recovery_hint
    return NotACacheError(f"{path} is a damaged {kind.what.partition(' ')[2]}: {reason}. Remove it and {cure}.")
