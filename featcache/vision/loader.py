"""`ViewLoader`: reads, decodes and augments images in threads, in order. Extraction and training share it."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from featcache._utils.environment import usable_cores
from featcache._utils.timing import PhaseTimer
from featcache.core.specs import ViewSpec
from featcache.data.manifest import Manifest
from featcache.errors import RemoteIOError, UnreadableImageError
from featcache.vision.decode import MAX_PIXELS, decode_and_check, lift_pillows_limit

AHEAD_BYTES, AHEAD_IMAGES = 128 * 2**20, 4096
"""Views that wait for the network, at most: work for the time in which it is loaded or converted."""

_Views = NDArray[np.uint8] | UnreadableImageError
_Begun = tuple[Iterator[int], deque[tuple[int, Future[_Views]]]]


@dataclass(frozen=True)
class Batch:
    """Some readable images.

    rows : ndarray, shape (b,), int64. Row numbers in the manifest.
    pixels : ndarray, shape (b, v, s, s, 3), uint8.
    labels : ndarray, shape (b,), int64.
    """

    rows: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    @property
    def views(self) -> int:
        """b times v."""
        return self.pixels.shape[0] * self.pixels.shape[1]


class DecodedImages(Protocol):
    """Keeps decoded images by the SHA-256 of their files: `ImageCache`."""

    def get(self, sha256: bytes) -> NDArray[np.uint8] | None:
        """Pixels (h, w, 3), or None."""

    def remark(self, sha256: bytes) -> str:
        """What is odd about an image that `get` gives, see `images.Decoded`."""

    def keep(self, sha256: bytes, image: NDArray[np.uint8], remark: str) -> NDArray[np.uint8]:
        """Keep an image with its remark, and return it as `get` will."""


class ViewLoader:
    """Views of the images of a manifest, in batches, in the order asked for.

    Decoding, resizing and cropping release the GIL, so threads serve; they die with the process and need no
    copies. An unreadable image is left out, recorded in `skipped`, and its place is taken by the next one, so
    that batches are full; it is never replaced.

    Parameters
    ----------
    workers : threads; None takes one per core that the process may use.
    max_pixels : larger images count as unreadable.
    images : keeps decoded images, so that each is decoded once.
    watch : gets the seconds spent reading, decoding and making views, summed over the threads.

    Attributes
    ----------
    skipped : dict, row -> reason, of the images that could not be read.
    remarks : dict, row -> what is odd about an image that was read, see `decode_and_check`.
    """

    def __init__(
        self,
        manifest: Manifest,
        spec: ViewSpec,
        *,
        workers: int | None = None,
        max_pixels: int = MAX_PIXELS,
        watch: PhaseTimer | None = None,
        images: DecodedImages | None = None,
    ) -> None:
        lift_pillows_limit(max_pixels)
        self.max_pixels = max_pixels
        self.manifest = manifest
        self.spec = spec
        self.skipped: dict[int, str] = {}
        self.remarks: dict[int, str] = {}
        self._images = images
        self._watch = watch or PhaseTimer()
        self._workers = workers or usable_cores()
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="views")
        self._begun: tuple[list[int], list[int], _Begun] | None = None

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def begin(self, rows: Sequence[int] | NDArray[np.int64], numbers: Sequence[int]) -> None:
        """Let the threads start on what `batches` will probably be asked for first."""
        rows, numbers = [int(row) for row in rows], list(numbers)
        self._begun = (rows, numbers, self._start(rows, numbers, 1))

    def batches(
        self, rows: Sequence[int] | NDArray[np.int64], numbers: Sequence[int], batch_size: int
    ) -> Iterator[Batch]:
        """Views `numbers` of the images `rows`, `batch_size` images a batch; the last batch may be smaller."""
        rows, numbers = [int(row) for row in rows], list(numbers)
        begun, self._begun = self._begun, None
        if begun and begun[:2] != (rows, numbers):
            for _, future in begun[2][1]:
                future.cancel()
            begun = None
        good: list[tuple[int, NDArray[np.uint8]]] = []
        for row, views in self._stream(numbers, *(begun[2] if begun else self._start(rows, numbers, batch_size))):
            if isinstance(views, UnreadableImageError):
                self.skipped[row] = str(views)
                continue
            good.append((row, views))
            if len(good) == batch_size:
                yield self._collate(good)
                good = []
        if good:
            yield self._collate(good)

    def _start(self, rows: list[int], numbers: list[int], batch_size: int) -> _Begun:
        """The rows still to do, and those under way."""
        room = AHEAD_BYTES // (len(numbers) * self.spec.image_size**2 * 3)
        ahead = max(batch_size + 2 * self._workers, min(room, AHEAD_IMAGES))
        todo = iter(rows)
        return todo, deque(self._submit(row, numbers) for row in islice(todo, ahead))

    def _stream(
        self, numbers: list[int], todo: Iterator[int], waiting: deque[tuple[int, Future[_Views]]]
    ) -> Iterator[tuple[int, _Views]]:
        """Results in the order asked for; for each one that is taken, another image is begun."""
        try:
            while waiting:
                row, future = waiting.popleft()
                waiting.extend(self._submit(following, numbers) for following in islice(todo, 1))
                yield row, future.result()
        finally:
            for _, future in waiting:
                future.cancel()

    def _submit(self, row: int, numbers: Sequence[int]) -> tuple[int, Future[_Views]]:
        return row, self._pool.submit(self._load, row, numbers)

    def _load(self, row: int, numbers: Sequence[int]) -> _Views:
        """One decode serves all views of an image."""
        expected = self.manifest.samples.sha256[row].tobytes()
        image = self._images.get(expected) if self._images else None
        remark = self._images.remark(expected) if self._images and image is not None else ""
        if image is None:
            try:
                with self._watch.phase("read"):
                    data = read_image(self.manifest, row, expected)
                with self._watch.phase("decode"):
                    image, remark = decode_and_check(data, self.max_pixels, self.spec.value_range)
                    image = self._images.keep(expected, image, remark) if self._images else image
            except UnreadableImageError as error:
                return error
        if remark:
            self.remarks[row] = remark
        from featcache.vision.augment import make_views  # needs PyTorch: its import runs beside loading the network

        with self._watch.phase("view"):
            return make_views(image, self.spec, expected, numbers)

    def _collate(self, good: list[tuple[int, NDArray[np.uint8]]]) -> Batch:
        rows = np.array([row for row, _ in good], dtype=np.int64)
        return Batch(rows, np.stack([views for _, views in good]), self.manifest.samples.labels[rows])


def read_image(manifest: Manifest, row: int, expected: bytes) -> bytes:
    """The bytes of an image file, checked against the hash that the manifest took."""
    try:
        data = manifest.read(row)
    except RemoteIOError:  # the image may be well: this ends the work, which goes on later
        raise
    except OSError as error:
        raise UnreadableImageError(error.strerror or str(error)) from error
    if hashlib.sha256(data).digest() != expected:
        raise UnreadableImageError(
            "its bytes are not those that were hashed: it has changed, or its manifest's sha256 is of another file"
        )
    return data
