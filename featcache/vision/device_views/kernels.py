"""The two kernels of a resize in Triton: along the rows, then along the columns, in integers as PyTorch does it.

A program makes a tile of one view: some of its rows, and some of its columns times the three channels.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["size"])  # type: ignore[untyped-decorator]
def resize_columns(
    passes: tl.tensor,
    firsts: tl.tensor,
    weights: tl.tensor,
    pixels: tl.tensor,
    middle: tl.tensor,
    size: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """From images to the columns of views, for the rows that `resize_rows` needs. passes : see `ColumnPass`."""
    fields = passes + tl.program_id(0).to(tl.int64) * 9
    rows = tl.load(fields + 3)
    top = tl.program_id(1) * ROWS
    if top < rows:
        row = (top + tl.arange(0, ROWS))[:, None]
        column = (tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
        in_view = column < size * 3
        x = column // 3
        first = tl.load(firsts + tl.load(fields + 4) + x, mask=in_view, other=0)
        row_bytes = tl.load(fields + 1) * 3
        source = pixels + tl.load(fields) + (tl.load(fields + 2) + row) * row_bytes + (first * 3 + column % 3)
        weight_at = weights + tl.load(fields + 5) + x
        total = tl.zeros((ROWS, COLUMNS), tl.int32)
        for tap in range(tl.load(fields + 6).to(tl.int32)):
            weight = tl.load(weight_at + tap * size, mask=in_view, other=0).to(tl.int32)
            is_used = (row < rows) & (weight != 0)  # other pixels may lie outside of the image
            total += weight * tl.load(source + tap * 3, mask=is_used, other=0).to(tl.int32)
        bits = tl.load(fields + 7).to(tl.int32)
        value = tl.minimum(tl.maximum((total + (1 << (bits - 1))) >> bits, 0), 255)
        target = middle + tl.load(fields + 8) + row.to(tl.int64) * (size * 3) + column
        tl.store(target, value.to(tl.uint8), mask=(row < rows) & in_view)


@triton.jit(do_not_specialize=["size"])  # type: ignore[untyped-decorator]
def resize_rows(
    passes: tl.tensor,
    firsts: tl.tensor,
    weights: tl.tensor,
    middle: tl.tensor,
    views: tl.tensor,
    size: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """From what `resize_columns` wrote to views. passes : see `RowPass`."""
    fields = passes + tl.program_id(0).to(tl.int64) * 6
    y = (tl.program_id(1) * ROWS + tl.arange(0, ROWS))[:, None]
    column = (tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    in_view = (y < size) & (column < size * 3)
    first = tl.load(firsts + tl.load(fields + 1) + y, mask=y < size, other=0)
    source = middle + tl.load(fields) + column
    weight_at = weights + tl.load(fields + 2) + y
    total = tl.zeros((ROWS, COLUMNS), tl.int32)
    for tap in range(tl.load(fields + 3).to(tl.int32)):
        weight = tl.load(weight_at + tap * size, mask=y < size, other=0).to(tl.int32)
        is_used = in_view & (weight != 0)
        row = (first + tap).to(tl.int64)
        total += weight * tl.load(source + row * (size * 3), mask=is_used, other=0).to(tl.int32)
    bits = tl.load(fields + 4).to(tl.int32)
    value = tl.minimum(tl.maximum((total + (1 << (bits - 1))) >> bits, 0), 255)
    target = views + tl.load(fields + 5) + y.to(tl.int64) * (size * 3) + column
    tl.store(target, value.to(tl.uint8), mask=in_view)
