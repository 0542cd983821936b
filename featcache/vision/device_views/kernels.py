"""The kernels of a resize in Triton: the weights of each axis, then along the rows, then along the columns.

Pixels are resized in integers as PyTorch does it. A program of `resize_columns` or `resize_rows` makes a tile of one
view: some of its rows, and some of its columns times the three channels.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def _weight(x: tl.tensor, IS_BICUBIC: tl.constexpr) -> tl.tensor:
    x = tl.abs(x)
    if IS_BICUBIC:
        near = (1.5 * x - 2.5) * x * x + 1.0
        far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
        return tl.where(x < 1.0, near, tl.where(x < 2.0, far, 0.0))
    return tl.where(x < 1.0, 1.0 - x, 0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _range(
    pixel: tl.tensor,
    scale: tl.tensor,
    inverse: tl.tensor,
    support: tl.tensor,
    length: tl.tensor,
    most: tl.tensor,
    IS_BICUBIC: tl.constexpr,
) -> Any:
    """For resized pixels: first pixel of the sum, number of pixels, centre, and the sum of the weights."""
    centre = scale * (pixel.to(tl.float64) + 0.5)
    first = tl.maximum((centre - support + 0.5).to(tl.int64), 0)
    count = tl.minimum((centre + support + 0.5).to(tl.int64), length) - first
    count = tl.minimum(tl.maximum(count, 0), most)
    total = centre * 0.0
    for k in range(most.to(tl.int32)):  # in the order of PyTorch
        weight = _weight(((first + k).to(tl.float64) - centre + 0.5) * inverse, IS_BICUBIC)
        total += tl.where(k < count, weight, 0.0)
    return first, count, centre, tl.where(total == 0.0, 1.0, total)


@triton.jit(do_not_specialize=["size"])  # type: ignore[untyped-decorator]
def make_taps(
    axes: tl.tensor,
    firsts: tl.tensor,
    weights: tl.tensor,
    found: tl.tensor,
    size: tl.tensor,
    IS_BICUBIC: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """First pixels and int16 weights for the pixels of a view along one axis; found : number of weights, and bits.

    In float64 and in the order of operations of `_compute_index_ranges_int16_weights` in PyTorch's UpSampleKernel.cpp,
    so that each weight has the same bits. Compile it without fused multiply-add. axes : see `AxisPass`.
    """
    axis = tl.program_id(0).to(tl.int64)
    fields = axes + axis * 7
    length = tl.load(fields)
    resized = tl.load(fields + 1)
    start = tl.load(fields + 2)
    shift = tl.load(fields + 3)
    is_mirrored = tl.load(fields + 4)
    most = tl.load(fields + 5)
    weight_at = weights + tl.load(fields + 6)
    scale = length.to(tl.float64) / resized.to(tl.float64)
    larger = tl.where(scale > 1.0, scale, 1.0)
    support = larger * (2.0 if IS_BICUBIC else 1.0)
    inverse = 1.0 / larger
    largest = scale * 0.0
    if length != resized:
        for left in range(0, resized.to(tl.int32), BLOCK):
            pixel = left + tl.arange(0, BLOCK)
            first, count, centre, total = _range(pixel, scale, inverse, support, length, most, IS_BICUBIC)
            for k in range(most.to(tl.int32)):
                weight = _weight(((first + k).to(tl.float64) - centre + 0.5) * inverse, IS_BICUBIC) / total
                weight = tl.where((k < count) & (pixel < resized), weight, 0.0)
                largest = tl.maximum(largest, tl.max(weight, 0))
    bits = (resized * 0).to(tl.int32)
    power = scale * 0.0 + 2.0
    for step in range(22):  # the most bits with which the largest weight is still an int16
        is_more = (bits == step) & ((0.5 + largest * power).to(tl.int64) < 32768)
        bits += is_more.to(tl.int32)
        power = power * 2.0
    bits = tl.where(length == resized, 14, bits)  # PyTorch copies the pixels
    power = (tl.full((1,), 1, tl.int64) << bits).to(tl.float64)
    taps = (resized * 0).to(tl.int32)
    for left in range(0, size, BLOCK):
        column = left + tl.arange(0, BLOCK)
        in_view = column < size
        pixel = tl.where(is_mirrored != 0, size - 1 - column, column) + start
        first, count, centre, total = _range(pixel, scale, inverse, support, length, most, IS_BICUBIC)
        first = tl.where(length == resized, pixel, first)
        count = tl.where(length == resized, 1, count)
        tl.store(firsts + axis * size + column, (first + shift).to(tl.int32), mask=in_view)
        taps = tl.maximum(taps, tl.max(tl.where(in_view, count, 0), 0).to(tl.int32))
        for k in range(most.to(tl.int32)):
            weight = _weight(((first + k).to(tl.float64) - centre + 0.5) * inverse, IS_BICUBIC) / total
            weight = tl.where(length == resized, 1.0, weight)
            scaled = tl.where(k < count, weight, 0.0) * power
            rounded = tl.where(scaled < 0.0, scaled - 0.5, scaled + 0.5).to(tl.int32)
            tl.store(weight_at + k * size + column, rounded.to(tl.int16), mask=in_view)
    tl.store(found + axis * 2, taps)
    tl.store(found + axis * 2 + 1, bits)


@triton.jit(do_not_specialize=["size"])  # type: ignore[untyped-decorator]
def resize_columns(
    passes: tl.tensor,
    firsts: tl.tensor,
    weights: tl.tensor,
    found: tl.tensor,
    pixels: tl.tensor,
    middle: tl.tensor,
    size: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """From images to the columns of views, for the rows that `resize_rows` needs. passes : see `ColumnPass`."""
    axis = tl.program_id(0).to(tl.int64)
    fields = passes + axis * 6
    rows = tl.load(fields + 3)
    top = tl.program_id(1) * ROWS
    if top < rows:
        row = (top + tl.arange(0, ROWS))[:, None]
        column = (tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
        in_view = column < size * 3
        x = column // 3
        first = tl.load(firsts + axis * size + x, mask=in_view, other=0)
        row_bytes = tl.load(fields + 1) * 3
        source = pixels + tl.load(fields) + (tl.load(fields + 2) + row) * row_bytes + (first * 3 + column % 3)
        weight_at = weights + tl.load(fields + 4) + x
        total = tl.zeros((ROWS, COLUMNS), tl.int32)
        for tap in range(tl.load(found + axis * 2)):
            weight = tl.load(weight_at + tap * size, mask=in_view, other=0).to(tl.int32)
            is_used = (row < rows) & (weight != 0)  # other pixels may lie outside of the image
            total += weight * tl.load(source + tap * 3, mask=is_used, other=0).to(tl.int32)
        bits = tl.load(found + axis * 2 + 1)
        value = tl.minimum(tl.maximum((total + (1 << (bits - 1))) >> bits, 0), 255)
        target = middle + tl.load(fields + 5) + row.to(tl.int64) * (size * 3) + column
        tl.store(target, value.to(tl.uint8), mask=(row < rows) & in_view)


@triton.jit(do_not_specialize=["size"])  # type: ignore[untyped-decorator]
def resize_rows(
    passes: tl.tensor,
    firsts: tl.tensor,
    weights: tl.tensor,
    found: tl.tensor,
    middle: tl.tensor,
    views: tl.tensor,
    size: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """From what `resize_columns` wrote to views. passes : see `RowPass`."""
    axis = (tl.num_programs(0) + tl.program_id(0)).to(tl.int64)  # the axes of columns come first
    fields = passes + tl.program_id(0).to(tl.int64) * 3
    y = (tl.program_id(1) * ROWS + tl.arange(0, ROWS))[:, None]
    column = (tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    in_view = (y < size) & (column < size * 3)
    first = tl.load(firsts + axis * size + y, mask=y < size, other=0)
    source = middle + tl.load(fields) + column
    weight_at = weights + tl.load(fields + 1) + y
    total = tl.zeros((ROWS, COLUMNS), tl.int32)
    for tap in range(tl.load(found + axis * 2)):
        weight = tl.load(weight_at + tap * size, mask=y < size, other=0).to(tl.int32)
        is_used = in_view & (weight != 0)
        row = (first + tap).to(tl.int64)
        total += weight * tl.load(source + row * (size * 3), mask=is_used, other=0).to(tl.int32)
    bits = tl.load(found + axis * 2 + 1)
    value = tl.minimum(tl.maximum((total + (1 << (bits - 1))) >> bits, 0), 255)
    target = views + tl.load(fields + 2) + y.to(tl.int64) * (size * 3) + column
    tl.store(target, value.to(tl.uint8), mask=in_view)
