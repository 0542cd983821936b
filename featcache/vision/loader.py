"""`ViewLoader`: reads, decodes and augments images in threads, in order, for extraction and training."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featcache._utils.environment import usable_cores
from featcache._utils.timing import PhaseTimer
from featcache.core.specs import MAX_PIXELS, ViewSpec
from featcache.data.manifest import Manifest
from featcache.data.sample_loader import Batch, Inputs
from featcache.errors import RemoteIOError, UnreadableImageError
from featcache.vision.decode import decode_and_check
from featcache.vision.image_files import lift_pillows_limit

if TYPE_CHECKING:
    from featcache.vision.device_views.device_views import DeviceViews
    from featcache.vision.device_views.packing import PlannedView

    _Views: TypeAlias = NDArray[np.uint8] | list[PlannedView]
    _Loaded: TypeAlias = _Views | UnreadableImageError

AHEAD_BYTES, AHEAD_IMAGES = 128 * 2**20, 4096
"""Limits of the views that wait for the network, enough work for the time in which it is loaded or converted."""

DECODED_BYTES = 512 * 2**20
"""Limit of the decoded images that wait for a device to make their views. The CPU makes the views of other images."""


@dataclass
class _Pass:
    """Images that are loaded for some rows and view numbers.

    remaining : rows that were not given to the threads yet.
    pending : rows and results of the threads, in order.
    """

    rows: list[int]
    numbers: list[int]
    remaining: Iterator[int]
    pending: deque[tuple[int, Future[_Loaded]]]
    decoded: _DecodedBytes

    def cancel(self) -> None:
        for _, future in self.pending:
            future.cancel()


class _DecodedBytes:
    """Counts the bytes of decoded images that wait, from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._count = 0

    def take(self, nbytes: int) -> bool:
        """Whether an image of this size may wait."""
        with self._lock:
            fits = self._count + nbytes <= DECODED_BYTES
            self._count += nbytes if fits else 0
        return fits

    def release(self, nbytes: int) -> None:
        with self._lock:
            self._count -= nbytes


class DecodedImages(Protocol):
    """Keeps decoded images by the SHA-256 of their files, as `ImageCache` does."""

    def get(self, sha256: bytes) -> NDArray[np.uint8] | None:
        """Pixels (h, w, 3), or None."""

    def remark(self, sha256: bytes) -> str:
        """What is unusual about an image that `get` returns, see `decode.Decoded`."""

    def keep(self, sha256: bytes, image: NDArray[np.uint8], remark: str) -> NDArray[np.uint8]:
        """Store an image with its remark, and return it as `get` will."""


class ViewLoader:
    """Views of the images of a manifest, read, decoded and augmented in threads; see `SampleLoader`.

    Threads suffice, because decoding, resizing and cropping release the GIL. They end with the process and need no
    copies.

    Parameters
    ----------
    manifest : Manifest
        The images.
    spec : ViewSpec
        How pixels become views.
    workers : int, optional
        Number of threads; None takes one for each core that the process may use.
    max_pixels : int
        Images with more pixels count as unreadable.
    watch : PhaseTimer, optional
        Gets the seconds spent reading, decoding and making views, summed over the threads.
    images : DecodedImages, optional
        Keeps decoded images, so that each is decoded once.
    device_views : DeviceViews, optional
        Makes the views on the device of the network, where it can. The inputs of a batch are then `DeviceInputs`.
    """

    def __init__(
        self,
        manifest: Manifest,
        spec: ViewSpec,
        *,
        workers: int | None = None,
        max_pixels: int = MAX_PIXELS,
        timer: PhaseTimer | None = None,
        images: DecodedImages | None = None,
        device_views: DeviceViews | None = None,
    ) -> None:
        lift_pillows_limit(max_pixels)
        self.max_pixels = max_pixels
        self.manifest = manifest
        self.spec = spec
        self.skipped: dict[int, str] = {}
        self.remarks: dict[int, str] = {}
        self._images = images
        self._device_views = device_views
        self._timer = timer or PhaseTimer()
        self._workers = workers or usable_cores()
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="views")
        self._started: _Pass | None = None

    def close(self) -> None:
        """See `SampleLoader`."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def start(self, rows: Sequence[int] | NDArray[np.int64], numbers: Sequence[int]) -> None:
        """See `SampleLoader`."""
        self._started = self._begin(rows, numbers, 1)

    def batches(
        self, rows: Sequence[int] | NDArray[np.int64], numbers: Sequence[int], batch_size: int
    ) -> Iterator[Batch]:
        """See `SampleLoader`."""
        current, self._started = self._started, None
        if current and (current.rows, current.numbers) != ([int(row) for row in rows], list(numbers)):
            current.cancel()
            current = None
        current = current or self._begin(rows, numbers, batch_size)
        readable: list[tuple[int, _Views]] = []
        for row, views in self._results(current):
            if isinstance(views, UnreadableImageError):
                self.skipped[row] = str(views)
                continue
            readable.append((row, views))
            if len(readable) == batch_size:
                batch, readable = self._collate(readable, current.decoded), []
                yield batch
        if readable:
            yield self._collate(readable, current.decoded)

    def _begin(self, rows: Sequence[int] | NDArray[np.int64], numbers: Sequence[int], batch_size: int) -> _Pass:
        """Give the first images to the threads."""
        rows, numbers = [int(row) for row in rows], list(numbers)
        capacity = AHEAD_BYTES // (len(numbers) * self.spec.image_size**2 * 3)
        ahead = max(batch_size + 2 * self._workers, min(capacity, AHEAD_IMAGES))
        remaining = iter(rows)
        current = _Pass(rows, numbers, remaining, deque(), _DecodedBytes())
        current.pending.extend(self._submit(row, current) for row in islice(remaining, ahead))
        return current

    def _results(self, current: _Pass) -> Iterator[tuple[int, _Loaded]]:
        """The results in the order of the rows; for each one that is taken, another image is begun."""
        try:
            while current.pending:
                row, future = current.pending.popleft()
                current.pending.extend(self._submit(row, current) for row in islice(current.remaining, 1))
                yield row, future.result()
        finally:
            current.cancel()

    def _submit(self, row: int, current: _Pass) -> tuple[int, Future[_Loaded]]:
        return row, self._pool.submit(self._load, row, current)

    def _load(self, row: int, current: _Pass) -> _Loaded:
        """The views of an image, which is decoded once for all of them."""
        expected = self.manifest.samples.sha256[row].tobytes()
        image = self._images.get(expected) if self._images else None
        remark = self._images.remark(expected) if self._images and image is not None else ""
        if image is None:
            try:
                with self._timer.phase("read"):
                    data = read_image(self.manifest, row, expected)
                with self._timer.phase("decode"):
                    image, remark = decode_and_check(data, self.max_pixels, self.spec.value_range)
                    image = self._images.keep(expected, image, remark) if self._images else image
            except UnreadableImageError as error:
                return error
        if remark:
            self.remarks[row] = remark
        from featcache.vision.augment import make_views  # needs PyTorch: its import runs beside loading the network

        with self._timer.phase("view"):
            if self._device_views:
                planned = self._device_views.plan(image, expected, current.numbers)
                if planned and current.decoded.take(image.nbytes):
                    return planned
            return make_views(image, self.spec, expected, current.numbers)

    def _collate(self, readable: list[tuple[int, _Views]], decoded: _DecodedBytes) -> Batch:
        rows = np.array([row for row, _ in readable], dtype=np.int64)
        images = [views for _, views in readable]
        decoded.release(sum(views[0].image.nbytes for views in images if isinstance(views, list)))
        made = [views for views in images if not isinstance(views, list)]
        inputs: Inputs
        if self._device_views and len(made) < len(images):
            inputs = self._device_views.collate(images)
        else:
            inputs = np.concatenate(made)
        return Batch(rows, inputs, self.manifest.samples.labels[rows])


def read_image(manifest: Manifest, row: int, expected: bytes) -> bytes:
    """The bytes of an image file, whose hash must be the expected one of the manifest."""
    try:
        data = manifest.read(row)
    except RemoteIOError:  # the image may be readable: the command stops, and resumes when it is repeated
        raise
    except OSError as error:
        raise UnreadableImageError(error.strerror or str(error)) from error
    if hashlib.sha256(data).digest() != expected:
        raise UnreadableImageError(
            "its bytes are not those that were hashed: it has changed, or its manifest's sha256 is of another file"
        )
    return data
