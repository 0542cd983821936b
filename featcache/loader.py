"""`ViewLoader`: reads, decodes and augments images in threads, in order. Extraction and training share it."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featcache.errors import UnreadableImageError
from featcache.images import MAX_PIXELS, decode, lift_pillows_limit
from featcache.manifest import Manifest
from featcache.report import Stopwatch
from featcache.spec import ViewSpec
from featcache.views import make_views


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


class ViewLoader:
    """Views of the images of a manifest, in batches, in the order asked for.

    Decoding, resizing and cropping release the GIL, so threads serve; they die with the process and need no
    copies. An unreadable image is left out, recorded in `skipped`, and its place is taken by the next one, so
    that batches are full; it is never replaced.

    Parameters
    ----------
    workers : threads; None takes one per core that the process may use.
    max_pixels : larger images count as unreadable.
    watch : gets the seconds spent reading, decoding and making views, summed over the threads.

    Attributes
    ----------
    skipped : dict, row -> reason, of the images that could not be read.
    """

    def __init__(
        self,
        manifest: Manifest,
        spec: ViewSpec,
        *,
        workers: int | None = None,
        max_pixels: int = MAX_PIXELS,
        watch: Stopwatch | None = None,
    ) -> None:
        if max_pixels > MAX_PIXELS:
            lift_pillows_limit(max_pixels)
        self._max_pixels = max_pixels
        self.manifest = manifest
        self.spec = spec
        self.skipped: dict[int, str] = {}
        self._watch = watch or Stopwatch()
        self._workers = workers or usable_cores()
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="views")

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def batches(
        self, rows: Sequence[int] | NDArray[np.int64], numbers: Sequence[int], batch_size: int
    ) -> Iterator[Batch]:
        """Views `numbers` of the images `rows`, `batch_size` images a batch; the last batch may be smaller."""
        good: list[tuple[int, NDArray[np.uint8]]] = []
        for row, views in self._stream(rows, numbers, ahead=batch_size + 2 * self._workers):
            if isinstance(views, UnreadableImageError):
                self.skipped[row] = str(views)
                continue
            good.append((row, views))
            if len(good) == batch_size:
                yield self._collate(good)
                good = []
        if good:
            yield self._collate(good)

    def _stream(
        self, rows: Sequence[int] | NDArray[np.int64], numbers: Sequence[int], ahead: int
    ) -> Iterator[tuple[int, NDArray[np.uint8] | UnreadableImageError]]:
        """Results in the order of `rows`, with at most `ahead` images under way."""
        waiting: deque[tuple[int, Future[NDArray[np.uint8] | UnreadableImageError]]] = deque()
        try:
            for row in rows:
                waiting.append((int(row), self._pool.submit(self._load, int(row), numbers)))
                if len(waiting) > ahead:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()

    def _load(self, row: int, numbers: Sequence[int]) -> NDArray[np.uint8] | UnreadableImageError:
        """One decode serves all views of an image."""
        expected = self.manifest.samples.sha256[row].tobytes()
        try:
            with self._watch.phase("read"):
                data = read_image(self.manifest, row, expected)
            with self._watch.phase("decode"):
                image = decode(data, self._max_pixels)
        except UnreadableImageError as error:
            return error
        with self._watch.phase("view"):
            return make_views(image, self.spec, expected, numbers)

    def _collate(self, good: list[tuple[int, NDArray[np.uint8]]]) -> Batch:
        rows = np.array([row for row, _ in good], dtype=np.int64)
        return Batch(rows, np.stack([views for _, views in good]), self.manifest.samples.labels[rows])


def read_image(manifest: Manifest, row: int, expected: bytes) -> bytes:
    """The bytes of an image file, checked against the hash that the manifest took."""
    try:
        data = manifest.path(row).read_bytes()
    except OSError as error:
        raise UnreadableImageError(error.strerror or str(error)) from error
    if hashlib.sha256(data).digest() != expected:
        raise UnreadableImageError("the file changed while it was being worked on")
    return data


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
