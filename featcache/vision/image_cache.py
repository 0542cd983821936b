"""`ImageCache`: decoded images in one file, so that epochs and runs after the first do not decode.

A container file (see `container`) with room for the pixels of every image, its checksum, and a mark that it is stored,
with its remarks. An image is stored under the hash of its file when it is decoded. The file is valid at any moment,
also after a kill or a power cut.
"""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zlib_ng.zlib_ng import crc32

from featcache._utils.files import remove_stale_drafts
from featcache._utils.progress_bar import Progress
from featcache._utils.regular_files import open_regular
from featcache.cache.format.container import FormatSpec, damage_error, open_container, write_at
from featcache.cache.format.create import ReservedArray, create_atomically, write_container
from featcache.core.bit_depth import ValueRange, format_range
from featcache.core.specs import MAX_PIXELS
from featcache.data.input_notes import split_remark
from featcache.data.manifest import Manifest
from featcache.errors import CacheMismatchError, CacheSpaceError, RemoteIOError
from featcache.vision.decoders import JPEG_START, reduced, reduction
from featcache.vision.image_files import lift_pillows_limit, upright_size
from featcache.vision.image_remarks import REMARKS
from featcache.vision.views.geometry import reduced_size, shrink

IMAGES = FormatSpec(
    magic=b"featcache-images",
    version=1,  # of the format, and of what decoding and shrinking give
    what="an image cache",
    tables=("index", "sha256", "places"),
    dtypes=("|u1", "<u4", "<i8"),
    upgrade_hint="remove it",
    recovery_hint="run the same command again",
)


class ImageCache:
    """Decoded images by the SHA-256 of their files. The file is created if it does not exist.

    Parameters
    ----------
    path : path-like
        The file.
    manifest : Manifest
        The images that the file has room for.
    side : int
        Images with a larger short side, in pixels, are stored shrunk to it, antialiased.
    max_pixels : int
        Images with more pixels, before they are shrunk, are not returned: the decoder refuses them.
    progress : callable, optional
        Called with "measure", and with how many images are measured, of how many.
    value_range, decode_side : optional
        How the images are decoded, see `decode`.

    Raises
    ------
    CacheMismatchError
        The file is for other images, another side, or images that are decoded otherwise.
    NotACacheError, CacheVersionError, CacheSpaceError
        The file is not an image cache, is of another version, or does not fit on the disk.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        manifest: Manifest,
        side: int,
        max_pixels: int = MAX_PIXELS,
        progress: Progress | None = None,
        value_range: ValueRange | None = None,
        decode_side: int | None = None,
    ) -> None:
        self.path, self.side, self._max_pixels = Path(path), side, max_pixels
        self._value_range, self._decode_side = value_range, decode_side
        lift_pillows_limit(max_pixels)
        remove_stale_drafts(self.path)
        if not self.path.exists():
            self._create(manifest, progress)
        self._read()
        missing = {row.tobytes() for row in manifest.samples.sha256} - self._row.keys()
        if missing:
            raise CacheMismatchError(
                f"{path} was made for other images: {len(missing)} of {len(manifest.samples)} have no room in it. "
                "Remove it, or give another file with --image-cache."
            )
        self._file = self.path.open("r+b", buffering=0)
        self._write_lock = threading.Lock()
        self._verified: set[int] = set()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def get(self, sha256: bytes) -> NDArray[np.uint8] | None:
        """Pixels (h, w, 3), memory-mapped; None for an image that was not stored yet or is damaged."""
        row = self._row[sha256]
        if not self._done[row] or self._places[row, 3] > self._max_pixels:
            return None
        pixels = self._pixels[self._slice(row)]
        if row not in self._verified:
            if crc32(pixels.data) != self._crc32[row]:
                return None
            self._verified.add(row)
        return pixels.reshape(int(self._places[row, 1]), int(self._places[row, 2]), 3)

    def remark(self, sha256: bytes) -> str:
        """What is unusual about a stored image, see `remarks.Decoded`; "" in files of earlier versions."""
        bits = int(self._done[self._row[sha256]])
        return "; ".join(remark for bit, remark in enumerate(REMARKS, 1) if bits >> bit & 1)

    def keep(self, sha256: bytes, image: NDArray[np.uint8], remark: str = "") -> NDArray[np.uint8]:
        """Store an image (h, w, 3) with its remark, and return it as `get` will: shrunk if it is too large."""
        row, image = self._row[sha256], shrink(image, self.side)
        if image.shape[:2] == (self._places[row, 1], self._places[row, 2]):  # the size in the file's header
            data = np.ascontiguousarray(image).reshape(-1).data
            with self._write_lock:
                self._write(self._regions["pixels"].offset + int(self._places[row, 0]), data)
                self._write(self._regions["crc32"].offset + 4 * row, crc32(data).to_bytes(4, "little"))
                done = 1 + sum(1 << 1 + REMARKS.index(part) for part in split_remark(remark))
                self._write(self._regions["done"].offset + row, done.to_bytes(1))
        return image

    def _write(self, offset: int, data: bytes | memoryview) -> None:
        try:
            write_at(self._file, offset, data)
        except OSError as error:
            raise CacheSpaceError(
                f"{self.path} cannot be written: {error.strerror}. Free some space, then run the same command again."
            ) from error

    def _slice(self, row: int) -> slice:
        start, height, width, _ = self._places[row].tolist()
        return slice(start, start + height * width * 3)

    def _create(self, manifest: Manifest, progress: Progress | None) -> None:
        """Create the file with room for every image, by the sizes in the headers of the image files."""
        hashes, rows = np.unique(manifest.samples.sha256, axis=0, return_index=True)
        sizes: list[tuple[int, int, int]] = []
        pool = ThreadPoolExecutor()
        try:
            slices = (rows[start : start + 64].tolist() for start in range(0, len(rows), 64))
            for slice_sizes in pool.map(partial(self._sizes, manifest), slices):
                sizes += slice_sizes
                if progress:
                    progress("measure", len(sizes), len(rows))
        finally:
            pool.shutdown(cancel_futures=True)
        table = np.array(sizes, np.int64).reshape(-1, 3)
        sizes_bytes = table[:, 0] * table[:, 1] * 3
        places = np.column_stack([np.cumsum(sizes_bytes) - sizes_bytes, table])
        total = int(sizes_bytes.sum())
        settings = {"side": self.side, "value_range": self._value_range, "decode_side": self._decode_side}
        index = json.dumps({name: value for name, value in settings.items() if value is not None}).encode()
        tables: dict[str, dict[str, Any]] = {
            "index": {"data": np.frombuffer(index, np.uint8)},
            "sha256": {"data": hashes},
            "places": {"data": places},
        }
        arrays: dict[str, ReservedArray] = {
            "pixels": ((total,), np.dtype("u1")),
            "crc32": ((len(rows),), np.dtype("<u4")),
            "done": ((len(rows),), np.dtype("u1")),
        }
        needed = total + len(rows) * (32 + 32 + 5) + 65536
        self.path.parent.mkdir(parents=True, exist_ok=True)
        create_atomically(self.path, needed, lambda draft: write_container(draft, IMAGES, {}, tables, arrays))

    def _sizes(self, manifest: Manifest, rows: list[int]) -> list[tuple[int, int, int]]:
        """Height, width, and number of pixels of the file; zeros for an image that cannot be read."""
        return [self._size(*size) if (size := _header_size(manifest, row)) else (0, 0, 0) for row in rows]

    def _size(self, height: int, width: int, is_jpeg: bool) -> tuple[int, int, int]:
        by = reduction(height, width, self._decode_side) if is_jpeg else 1
        return *reduced_size(reduced(height, by), reduced(width, by), self.side), height * width

    def _read(self) -> None:
        with open_container(self.path, IMAGES) as arrays:
            index, n = arrays.index(), arrays.locations["sha256"].shape[0]
            side, value_range, decode_side = int(index["side"]), index.get("value_range"), index.get("decode_side")
            total = arrays.locations["pixels"].shape[0]
            self._places = arrays.table("places", (n, 4), "<i8")
            hashes = arrays.table("sha256", (n, 32), "|u1")
            rows = {"pixels": ((total,), "|u1"), "crc32": ((n,), "<u4"), "done": ((n,), "|u1")}
            self._regions = {name: arrays.location(name, *expected) for name, expected in rows.items()}
            self._check(total)
            data = arrays.map_bytes()
        if side != self.side:
            raise CacheMismatchError(
                f"{self.path} holds images of at most {side} pixels (short side), you need {self.side}. "
                "Remove it, or give another file with --image-cache."
            )
        if decode_side != self._decode_side:
            raise CacheMismatchError(
                f"{self.path} holds JPEG files decoded with decode_side {decode_side}, you need {self._decode_side}. "
                "Remove it, or give another file with --image-cache."
            )
        if value_range != (self._value_range and list(self._value_range)):
            ranges = (value_range, self._value_range)
            existing, needed = (format_range(pair) if pair else "no range" for pair in ranges)
            raise CacheMismatchError(
                f"{self.path} holds pixels that were scaled by the value range {existing}, you need {needed}. "
                "Remove it, or give another file with --image-cache."
            )
        self._row = {sha.tobytes(): row for row, sha in enumerate(hashes)}
        self._pixels, self._crc32, self._done = (self._regions[name].view(data) for name in ("pixels", "crc32", "done"))

    def _check(self, total: int) -> None:
        """Raise if an image has a negative size or lies outside of the file."""
        if (self._places < 0).any():
            raise damage_error(self.path, IMAGES, "an image has no valid size")
        ends = [start + height * width * 3 for start, height, width, _ in self._places.tolist()]  # no overflow
        if max(ends, default=0) > total:
            raise damage_error(self.path, IMAGES, "an image does not lie whole in the file")


def _header_size(manifest: Manifest, row: int) -> tuple[int, int, bool] | None:
    """Height and width of an image, and whether it is a JPEG; None if it is unreadable.

    Of a local file they are from its header, else from all bytes.
    """
    try:
        file = manifest.path(row) or manifest.read(row)
        size = upright_size(file)
        return size and (*size, _first_bytes(file).startswith(JPEG_START))
    except RemoteIOError:
        raise
    except OSError:
        return None


def _first_bytes(file: Path | bytes) -> bytes:
    if isinstance(file, bytes):
        return file
    with open_regular(file) as stream:
        return stream.read(len(JPEG_START))
