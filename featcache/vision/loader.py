"""`ViewLoader`: reads, decodes and augments images in threads, in order, for extraction and training."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featcache._utils.environment import available_memory_bytes, usable_cores
from featcache._utils.timing import PhaseTimer
from featcache.core.specs import MAX_PIXELS, ViewSpec
from featcache.data.manifest import Manifest
from featcache.data.sample_loader import Batch, Inputs
from featcache.errors import RemoteIOError, UnreadableImageError
from featcache.vision.decode import decode_for
from featcache.vision.image_files import lift_pillows_limit
from featcache.vision.look_ahead import LookAhead

if TYPE_CHECKING:
    from featcache.vision.device_views.device_views import DeviceViews
    from featcache.vision.device_views.packing import PlannedView

    Pixels: TypeAlias = NDArray[np.uint8]
    _Views: TypeAlias = Pixels | list[PlannedView]
    _Loaded: TypeAlias = _Views | UnreadableImageError

AHEAD_BYTES, AHEAD_IMAGES = 128 * 2**20, 4096
"""Limits of the views that wait for the network, enough work for the time in which it is loaded or converted."""

DECODED_BYTES = 4 * 2**30
"""Limit of the decoded images that wait for a device to make their views; less if the memory is small."""

_DECODED_SHARE = 4
"""The limit is at most the available memory divided by this number."""


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
        Makes the views on the device of the network, where it can. The inputs of a batch are then `DeviceInputs`. A
        batch has fewer images than requested where the decoded images would take more than half of `DECODED_BYTES`.
    exact_batches : bool
        A batch has the requested number of images. The CPU makes the views of images that would take more. Default:
        False.
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
        exact_batches: bool = False,
    ) -> None:
        lift_pillows_limit(max_pixels)
        self.max_pixels = max_pixels
        self.manifest = manifest
        self.spec = spec
        self.skipped: dict[int, str] = {}
        self.remarks: dict[int, str] = {}
        self._images = images
        self._device_views, self._exact_batches = device_views, exact_batches
        self._timer = timer or PhaseTimer()
        self._workers = workers or usable_cores()
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="views")
        self._started: tuple[list[int], list[int], LookAhead[_Loaded]] | None = None

    def close(self) -> None:
        """See `SampleLoader`."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def start(self, rows: Sequence[int] | NDArray[np.int64], numbers: Sequence[int]) -> None:
        """See `SampleLoader`."""
        rows, numbers = [int(row) for row in rows], list(numbers)
        self._started = rows, numbers, self._begin(rows, numbers, 1)

    def batches(
        self, rows: Sequence[int] | NDArray[np.int64], numbers: Sequence[int], batch_size: int
    ) -> Iterator[Batch]:
        """See `SampleLoader`."""
        rows, numbers = [int(row) for row in rows], list(numbers)
        started, self._started = self._started, None
        if started and started[:2] != (rows, numbers):
            started[2].cancel()
            started = None
        ahead = started[2] if started else self._begin(rows, numbers, batch_size)
        readable: list[tuple[int, _Views | Future[Pixels]]] = []
        held = 0
        for row, result in ahead.results():
            if isinstance(result, UnreadableImageError):
                self.skipped[row] = str(result)
                continue
            views: _Views | Future[Pixels] = result
            nbytes = _decoded_bytes(result)
            if readable and held + nbytes > ahead.limit / 2:
                if self._exact_batches and self._device_views and isinstance(result, list):
                    views = self._pool.submit(self._device_views.draw, result)
                    ahead.release(nbytes)
                    nbytes = 0
                else:
                    ahead.release(held)
                    held = 0
                    yield self._collate(readable)
            readable.append((row, views))
            held += nbytes
            del result, views  # its image lives no longer than the batch
            if len(readable) == batch_size:
                ahead.release(held)
                held = 0
                yield self._collate(readable)
        if readable:
            ahead.release(held)
            yield self._collate(readable)

    def _begin(self, rows: list[int], numbers: list[int], batch_size: int) -> LookAhead[_Loaded]:
        """Give the first images to the threads."""
        capacity = AHEAD_BYTES // (len(numbers) * self.spec.image_size**2 * 3)
        most = max(batch_size + 2 * self._workers, min(capacity, AHEAD_IMAGES))
        limit = min(DECODED_BYTES, available_memory_bytes() / _DECODED_SHARE) if self._device_views else float("inf")

        def load(row: int) -> _Loaded:
            return self._load(row, numbers)

        return LookAhead(self._pool, load, _decoded_bytes, rows, most, 2 * self._workers, limit)

    def _load(self, row: int, numbers: Sequence[int]) -> _Loaded:
        """The views of an image, which is decoded once for all of them."""
        expected = self.manifest.samples.sha256[row].tobytes()
        image = self._images.get(expected) if self._images else None
        remark = self._images.remark(expected) if self._images and image is not None else ""
        if image is None:
            try:
                with self._timer.phase("read"):
                    data = read_image(self.manifest, row, expected)
                with self._timer.phase("decode"):
                    memory = self._device_views and self._device_views.memory
                    image, remark = decode_for(data, self.spec, self.max_pixels, memory.empty if memory else None)
                    image = self._images.keep(expected, image, remark) if self._images else image
            except UnreadableImageError as error:
                return error
        if remark:
            self.remarks[row] = remark
        from featcache.vision.augment import make_views  # needs PyTorch: its import runs beside loading the network

        with self._timer.phase("view"):
            if self._device_views and (planned := self._device_views.plan(image, expected, numbers)):
                return planned
            return make_views(image, self.spec, expected, numbers)

    def _collate(self, readable: list[tuple[int, _Views | Future[Pixels]]]) -> Batch:
        """The batch. The list is emptied, so that only the batch has the decoded images."""
        rows = np.array([row for row, _ in readable], dtype=np.int64)
        images = [views.result() if isinstance(views, Future) else views for _, views in readable]
        readable.clear()
        made = [views for views in images if not isinstance(views, list)]
        inputs: Inputs
        if self._device_views and len(made) < len(images):
            inputs = self._device_views.collate(images)
        else:
            inputs = np.concatenate(made)
        return Batch(rows, inputs, self.manifest.samples.labels[rows])


def _decoded_bytes(views: _Loaded) -> int:
    """Bytes of the decoded image that planned views keep."""
    return views[0].image.nbytes if isinstance(views, list) else 0


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
