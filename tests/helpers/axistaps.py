"""`axis_taps`: the integer weights by which PyTorch resizes uint8 pixels with antialiasing, in NumPy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.core.specs import Interpolation

_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
"""Half of the width of the filter, in pixels of the larger scale."""

_MAX_BITS = 22


class AxisTaps(NamedTuple):
    """A resized pixel is the sum over k of weights[k] * pixels[first + k], rounded and shifted right by `bits`.

    Parameters
    ----------
    first, end : ndarray, shape (m,), int32
        First pixel of each sum, and the one after its last.
    weights : ndarray, shape (t, m), int16
        0 where a sum has fewer than t pixels.
    bits : int
    """

    first: NDArray[np.int32]
    end: NDArray[np.int32]
    weights: NDArray[np.int16]
    bits: int


def axis_taps(length: int, resized: int, interpolation: Interpolation) -> AxisTaps:
    """From `length` pixels to `resized`.

    In float64 and in the order of operations of `_compute_index_ranges_int16_weights` in PyTorch's UpSampleKernel.cpp,
    so that each weight has the same bits.
    """
    if length == resized:  # PyTorch copies the pixels
        first = np.arange(length, dtype=np.int32)
        return AxisTaps(first, first + np.int32(1), np.full((1, length), 1 << 14, np.int16), 14)
    scale = length / resized
    support = _SUPPORT[interpolation] * max(scale, 1.0)
    most = int(np.ceil(support)) * 2 + 1
    centre = scale * (np.arange(resized) + 0.5)
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    count = np.minimum((centre + support + 0.5).astype(np.int64), length) - first
    count = np.clip(count, 0, most)
    k = np.arange(count.max())[:, None]
    inverse = 1 / scale if scale >= 1 else 1.0
    weights = np.where(k < count, _filter(interpolation, (k + first - centre + 0.5) * inverse), 0.0)
    total = np.zeros(resized)
    for row in weights:  # in the order of PyTorch
        total += row
    weights = np.where(total != 0, weights / np.where(total == 0, 1, total), weights)
    bits = _bits(float(weights.max()))
    scaled = weights * (1 << bits)
    rounded = np.trunc(np.where(scaled < 0, scaled - 0.5, scaled + 0.5)).astype(np.int16)
    return AxisTaps(first.astype(np.int32), (first + count).astype(np.int32), rounded, bits)


def _filter(interpolation: Interpolation, x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(x)
    if interpolation == "bilinear":
        return np.where(x < 1, 1 - x, 0.0)
    a = -0.5
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _bits(largest: float) -> int:
    """The most bits with which the largest weight of an axis is still an int16."""
    bits = 0
    while bits < _MAX_BITS and int(0.5 + max(0.0, largest) * (1 << (bits + 1))) < 1 << 15:
        bits += 1
    return bits
