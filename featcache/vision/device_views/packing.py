"""`Packing`: images of any size, with what the kernels need for views of them, in one buffer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.core.specs import Interpolation
from featcache.core.view_recipes import AxisPlan, ViewPlan
from featcache.vision.device_views.taps import axis_taps
from featcache.vision.views.geometry import Pixels

PACKED_BYTES = 128 * 2**20
"""Limit of a buffer. Larger batches are made in several steps."""

MAX_SIDE = 2**14
"""Longest side of an image, in pixels: the weights of a view have about 16 bytes for each."""

_ALIGNMENT = 16


class PlannedView(NamedTuple):
    """A view that was not made yet. image : (h, w, 3), uint8."""

    image: Pixels
    plan: ViewPlan


class ColumnPass(NamedTuple):
    """What `resize_columns` reads of a view, int64. Places are indices into the region of that name.

    Parameters
    ----------
    image, width : place of its pixels, and their number in a row.
    top, rows : first row of the image that the view needs, and their number.
    first, weights, taps, bits : place of `AxisTaps.first`, of its weights, their number, and its bits.
    middle : place of the result, (rows, s, 3).
    """

    image: int
    width: int
    top: int
    rows: int
    first: int
    weights: int
    taps: int
    bits: int
    middle: int


class RowPass(NamedTuple):
    """What `resize_rows` reads of a view, int64.

    Parameters
    ----------
    middle : place of the result of `resize_columns`.
    first, weights, taps, bits : as of `ColumnPass`; `first` counts from its row `top`.
    view : place of the view, (s, s, 3).
    """

    middle: int
    first: int
    weights: int
    taps: int
    bits: int
    view: int


class _Taps(NamedTuple):
    """`AxisTaps` of the s pixels of a view."""

    first: NDArray[np.int32]
    weights: NDArray[np.int16]
    bits: int


class _Prepared(NamedTuple):
    """A view with its weights. top, rows : see `ColumnPass`."""

    image: Pixels
    columns: _Taps
    rows: _Taps
    top: int
    row_count: int


class Packing:
    """Some views of one size, and where in a buffer each part of them is.

    Parameters
    ----------
    views : sequence of _Prepared
    size : int
        Side s of the views.
    start : int
        Number of views of the batch that are before these.

    Attributes
    ----------
    nbytes : int
        Size of the buffer.
    middle_bytes : int
        Size of what `resize_columns` writes.
    most_rows : int
        The largest `ColumnPass.rows`.
    """

    def __init__(self, views: Sequence[_Prepared], size: int, start: int) -> None:
        self._views = views
        self._images: dict[int, tuple[int, Pixels]] = {}
        self._firsts: list[NDArray[np.int32]] = []
        self._weights: list[NDArray[np.int16]] = []
        self._first_count = self._weight_count = 0
        pixels, self.middle_bytes = 0, 0
        columns, rows = [], []
        for number, view in enumerate(views, start):
            if id(view.image) not in self._images:
                self._images[id(view.image)] = (pixels, view.image)
                pixels += _aligned(view.image.size)
            place, middle = self._images[id(view.image)][0], self.middle_bytes
            columns.append(
                ColumnPass(place, view.image.shape[1], view.top, view.row_count, *self._add(view.columns), middle)
            )
            rows.append(RowPass(middle, *self._add(view.rows), number * size * size * 3))
            self.middle_bytes += view.row_count * size * 3
        self._passes = np.array(columns, np.int64), np.array(rows, np.int64)
        self.most_rows = max(view.row_count for view in views)
        ends = np.cumsum([0, *(_aligned(table.nbytes) for table in self._passes)]).tolist()
        ends.append(ends[-1] + _aligned(4 * self._first_count))
        ends.append(ends[-1] + _aligned(2 * self._weight_count))
        ends.append(ends[-1] + pixels)
        self._ends, self.nbytes = ends, ends[-1]

    def __len__(self) -> int:
        return len(self._views)

    def regions(self, buffer: Any) -> list[Any]:
        """Column passes, row passes, firsts, weights and pixels: bytes of the buffer, an array or a tensor."""
        return [buffer[start:end] for start, end in zip(self._ends, self._ends[1:], strict=False)]

    def write(self, buffer: NDArray[np.uint8]) -> None:
        """Fill the buffer, (nbytes,)."""
        columns, rows, firsts, weights, pixels = self.regions(buffer)
        for region, table in zip((columns, rows), self._passes, strict=True):
            region[: table.nbytes].view(np.int64)[:] = table.reshape(-1)
        np.concatenate(self._firsts, out=firsts[: 4 * self._first_count].view(np.int32))
        np.concatenate(self._weights, out=weights[: 2 * self._weight_count].view(np.int16))
        for place, image in self._images.values():
            pixels[place : place + image.size].reshape(image.shape)[...] = image

    def _add(self, taps: _Taps) -> tuple[int, int, int, int]:
        """Place of first, place of weights, number of weights, bits."""
        places = self._first_count, self._weight_count, len(taps.weights), taps.bits
        self._firsts.append(taps.first)
        self._weights.append(taps.weights.reshape(-1))
        self._first_count += taps.first.size
        self._weight_count += taps.weights.size
        return places


def pack(views: Sequence[PlannedView], size: int, interpolation: Interpolation) -> Iterator[Packing]:
    """The views in order, in steps of at most `PACKED_BYTES` of images and weights and as many between the kernels."""
    waiting: list[_Prepared] = []
    images: set[int] = set()
    packed = middle = start = 0
    for view in views:
        prepared = _prepare(view, size, interpolation)
        tables = sum(taps.first.nbytes + taps.weights.nbytes for taps in (prepared.columns, prepared.rows))
        tables += 8 * (len(ColumnPass._fields) + len(RowPass._fields)) + 5 * _ALIGNMENT
        image, between = _aligned(view.image.size), prepared.row_count * size * 3
        needed = tables + (0 if id(view.image) in images else image)
        if waiting and (packed + needed > PACKED_BYTES or middle + between > PACKED_BYTES):
            yield Packing(waiting, size, start)
            start, waiting, images, packed, middle = start + len(waiting), [], set(), 0, 0
            needed = tables + image
        waiting.append(prepared)
        images.add(id(view.image))
        packed, middle = packed + needed, middle + between
    if waiting:
        yield Packing(waiting, size, start)


def fits(height: int, width: int, size: int) -> bool:
    """Whether a view of an image of this size fits into a buffer."""
    return max(height, width) <= MAX_SIDE and height * max(width, size) * 3 <= PACKED_BYTES // 2


def is_inside(plan: ViewPlan, height: int, width: int, size: int) -> bool:
    """Whether a plan takes only pixels that there are."""
    return all(
        axis.offset >= 0
        and axis.length >= 1
        and axis.offset + axis.length <= whole
        and axis.start >= 0
        and axis.start + size <= axis.resized
        for axis, whole in ((plan.rows, height), (plan.columns, width))
    )


def _prepare(view: PlannedView, size: int, interpolation: Interpolation) -> _Prepared:
    columns, _, _ = _taps(view.plan.columns, size, interpolation)
    if view.plan.is_mirrored:
        columns = columns._replace(first=columns.first[::-1], weights=columns.weights[:, ::-1])
    rows, top, end = _taps(view.plan.rows, size, interpolation)
    return _Prepared(view.image, columns, rows._replace(first=rows.first - np.int32(top)), top, end - top)


def _taps(axis: AxisPlan, size: int, interpolation: Interpolation) -> tuple[_Taps, int, int]:
    """For the pixels of a view, with the first pixel of the image that they need and the one after the last."""
    whole = axis_taps(axis.length, axis.resized, interpolation)
    part = slice(axis.start, axis.start + size)
    first, end = whole.first[part] + np.int32(axis.offset), whole.end[part]
    return _Taps(first, whole.weights[:, part], whole.bits), int(first.min()), int(end.max()) + axis.offset


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT
