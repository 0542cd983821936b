"""`Packing`: where images of any size are on a device, and the tables that the kernels need for views of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.core.specs import Interpolation
from featcache.core.view_recipes import ViewPlan
from featcache.vision.views.geometry import Pixels

PACKED_BYTES = 128 * 2**20
"""Limit of the images and tables on the device. Larger batches are made in several steps."""

MAX_SIDE = 2**14
"""Longest side of an image, in pixels."""

_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
"""Half of the width of the filter, in pixels of the larger scale."""

_ALIGNMENT = 16
_TABLE_BYTES = 8 * (2 * 7 + 6 + 3)  # of a view
_PADDING = 3 * _ALIGNMENT


class PlannedView(NamedTuple):
    """A view that was not made yet. image : (h, w, 3), uint8."""

    image: Pixels
    plan: ViewPlan


class AxisPass(NamedTuple):
    """What `make_taps` reads of the columns of the views, then of their rows, int64.

    Parameters
    ----------
    length, resized, start : as of `AxisPlan`.
    shift : is added to the first pixels.
    is_mirrored : whether the pixels of the view are in reversed order.
    most : number of weights for a pixel, at most.
    weights : place of the weights, (most, s).
    """

    length: NDArray[np.int64]
    resized: NDArray[np.int64]
    start: NDArray[np.int64]
    shift: NDArray[np.int64]
    is_mirrored: NDArray[np.int64]
    most: NDArray[np.int64]
    weights: NDArray[np.int64]


class ColumnPass(NamedTuple):
    """What `resize_columns` reads of the views, int64. Places are indices into the region of that name.

    Parameters
    ----------
    image, width : place of its pixels, and their number in a row.
    top, rows : first row of the image that the view needs, and their number.
    weights : as of `AxisPass`.
    middle : place of the result, (rows, s, 3).
    """

    image: NDArray[np.int64]
    width: NDArray[np.int64]
    top: NDArray[np.int64]
    rows: NDArray[np.int64]
    weights: NDArray[np.int64]
    middle: NDArray[np.int64]


class RowPass(NamedTuple):
    """What `resize_rows` reads of the views, int64.

    Parameters
    ----------
    middle : place of the result of `resize_columns`.
    weights : as of `AxisPass`; the first pixels count from the row `top`.
    view : place of the view, (s, s, 3).
    """

    middle: NDArray[np.int64]
    weights: NDArray[np.int64]
    view: NDArray[np.int64]


class _Axes(NamedTuple):
    """Rows or columns of n views, each (n,). first, end, most : what the pixels of a view need, see `_axes`."""

    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    resized: NDArray[np.int64]
    start: NDArray[np.int64]
    first: NDArray[np.int64]
    end: NDArray[np.int64]
    most: NDArray[np.int64]


class Packing:
    """Some views of one size, and where on a device each part of them is.

    Parameters
    ----------
    views : sequence of PlannedView
    columns, rows : _Axes
    is_mirrored : ndarray, shape (n,)
    size : int
        Side s of the views.
    start : int
        Number of views of the batch that are before these.

    Attributes
    ----------
    images : list of (int, ndarray)
        Each image once, with its place in the region of the pixels.
    pixel_bytes, table_bytes : int
        Sizes of the regions of the pixels and of the tables.
    weight_count : int
        Number of weights that `make_taps` writes.
    middle_bytes : int
        Size of what `resize_columns` writes.
    most_rows : int
        The largest `ColumnPass.rows`.
    """

    def __init__(
        self,
        views: Sequence[PlannedView],
        columns: _Axes,
        rows: _Axes,
        is_mirrored: NDArray[np.int64],
        size: int,
        start: int,
    ) -> None:
        self._count, self.pixel_bytes = len(views), 0
        images: dict[int, tuple[int, Pixels]] = {}
        for image, _ in views:
            if id(image) not in images:
                images[id(image)] = (self.pixel_bytes, image)
                self.pixel_bytes += _aligned(image.size)
        self.images = list(images.values())
        row_count = rows.end - rows.first
        weights, self.weight_count = _places(np.concatenate([columns.most, rows.most]) * size)
        middle, self.middle_bytes = _places(row_count * (size * 3))
        axes = AxisPass(
            length=np.concatenate([columns.length, rows.length]),
            resized=np.concatenate([columns.resized, rows.resized]),
            start=np.concatenate([columns.start, rows.start]),
            shift=np.concatenate([columns.offset, rows.offset - rows.first]),
            is_mirrored=np.concatenate([is_mirrored, np.zeros_like(is_mirrored)]),
            most=np.concatenate([columns.most, rows.most]),
            weights=weights,
        )
        image_places = np.array([images[id(image)][0] for image, _ in views])
        widths = np.array([image.shape[1] for image, _ in views])
        column_weights, row_weights = weights[: len(views)], weights[len(views) :]
        view_places = np.arange(start, start + len(views)) * (size * size * 3)
        self._tables = tuple(
            np.stack(table, axis=1)
            for table in (
                axes,
                ColumnPass(image_places, widths, rows.first, row_count, column_weights, middle),
                RowPass(middle, row_weights, view_places),
            )
        )
        self.most_rows = int(row_count.max())
        sizes = [_aligned(table.nbytes) for table in self._tables]
        self._ends = np.cumsum([0, *sizes]).tolist()
        self.table_bytes = self._ends[-1]

    def __len__(self) -> int:
        return self._count

    def tables_of(self, buffer: Any) -> list[Any]:
        """Axis passes, column passes and row passes: bytes of a buffer of `table_bytes`, an array or a tensor."""
        return [buffer[start:end] for start, end in zip(self._ends, self._ends[1:], strict=False)]

    def write_tables(self, buffer: NDArray[np.uint8]) -> None:
        """Fill a buffer of `table_bytes`."""
        for region, table in zip(self.tables_of(buffer), self._tables, strict=True):
            region[: table.nbytes].view(np.int64)[:] = table.reshape(-1)


def pack(views: Sequence[PlannedView], size: int, interpolation: Interpolation) -> Iterator[Packing]:
    """The views in order, in steps of at most `PACKED_BYTES` of images, and as many that the kernels exchange."""
    fields = np.array([(*plan.columns, *plan.rows, plan.is_mirrored) for _, plan in views], np.int64).reshape(-1, 9)
    columns, rows = _axes(fields[:, :4], size, interpolation), _axes(fields[:, 4:8], size, interpolation)
    on_device = (rows.end - rows.first) * (size * 3) + (columns.most + rows.most) * (size * 2)
    start, images, packed, made = 0, set[int](), 0, 0

    def step(end: int) -> Packing:
        part = slice(start, end)
        of_columns, of_rows = (_Axes(*(values[part] for values in axes)) for axes in (columns, rows))
        return Packing(views[part], of_columns, of_rows, fields[part, 8], size, start)

    for number, ((image, _), between) in enumerate(zip(views, on_device.tolist(), strict=True)):
        of_image = _aligned(image.size)
        needed = _TABLE_BYTES + (0 if id(image) in images else of_image)
        if number > start and (packed + needed > PACKED_BYTES - _PADDING or made + between > PACKED_BYTES):
            yield step(number)
            start, images, packed, made = number, set(), 0, 0
            needed = _TABLE_BYTES + of_image
        images.add(id(image))
        packed, made = packed + needed, made + between
    if len(views):
        yield step(len(views))


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


def _axes(plans: NDArray[np.int64], size: int, interpolation: Interpolation) -> _Axes:
    """Of n views, from their `AxisPlan`, (n, 4).

    Returns
    -------
    _Axes
        With the first pixel of the image that a view needs, the one after the last, and the number of weights of a
        resized pixel, at most.
    """
    offset, length, resized, start = plans.T
    scale = length / resized
    support = _SUPPORT[interpolation] * np.maximum(scale, 1.0)
    first = np.maximum((scale * (start + 0.5) - support + 0.5).astype(np.int64), 0)
    end = np.minimum((scale * (start + size - 1 + 0.5) + support + 0.5).astype(np.int64), length)
    most = np.minimum(np.ceil(support).astype(np.int64) * 2 + 1, length)
    is_copied = length == resized
    first, end = np.where(is_copied, start, first), np.where(is_copied, start + size, end)
    return _Axes(offset, length, resized, start, first + offset, end + offset, np.where(is_copied, 1, most))


def _places(sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Where each part begins if one follows the other, and the sum."""
    ends = np.cumsum(sizes)
    return ends - sizes, int(ends[-1])


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT
