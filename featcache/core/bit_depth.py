"""Pixels of more than 8 bits a channel, and their conversion to 8 bits by one value range per data set."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.errors import UnreadableImageError

ValueRange = tuple[float, float]
"""The values that become black and white; values outside are clipped."""

_STRIP = 2**17  # values converted at once, which bounds the memory


class DeepPixels(NamedTuple):
    """Pixels as stored in a file.

    Attributes
    ----------
    values : ndarray, shape (h, w) for grey, (h, w, 3) for RGB or (h, w, 4) for RGBA; integers or floats of any width.
    inverted : whether low values are white, as in TIFF files with WhiteIsZero.
    orientation : EXIF orientation, 1 to 8.
    """

    values: NDArray[Any]
    inverted: bool = False
    orientation: int = 1

    @property
    def extent(self) -> ValueRange:
        """The smallest and the largest value, without the alpha channel."""
        colours = self.values[..., :3] if self.values.ndim == 3 else self.values
        return float(colours.min()), float(colours.max())

    def share_outside(self, value_range: ValueRange) -> float:
        """The fraction of values outside a range, 0 to 1."""
        low, high = value_range
        outside = sum(int(((strip < low) | (strip > high)).sum()) for strip, _ in _strips(self.values))
        return outside / max(1, self.values.size)

    def to_uint8(self, value_range: ValueRange | None) -> NDArray[np.uint8]:
        """Convert the values to 8 bits, in the same shape; alpha is scaled by its dtype, not by the range.

        Parameters
        ----------
        value_range : low and high become 0 and 255, linearly. None takes the upper byte of uint16. For other integers
            it takes the lower byte if no value exceeds 255, else the upper byte of 16 bits, as in caches without a
            value range.

        Raises
        ------
        UnreadableImageError : value_range is None, and the dtype (float or int8) does not define white.
        """
        has_alpha = self.values.ndim == 3 and self.values.shape[2] == 4
        colours = self.values[..., :3] if has_alpha else self.values
        pixels = _upper_byte(colours) if value_range is None else _scaled(colours, value_range)
        if self.inverted:
            np.subtract(255, pixels, out=pixels)
        return np.concatenate([pixels, _alpha(self.values[..., 3:])], axis=2) if has_alpha else pixels


def covering_range(low: float, high: float) -> ValueRange:
    """The smallest range of whole bits, at least 8, that covers these integers: for 3,987 that is 0 to 4,095, 12 bits.

    A negative low is extended to a power of two: -1,000 to 3,000 gives -1,024 to 4,095.
    """
    bits = max(8, math.ceil(math.log2(max(high, 1.0) + 1)))
    return (-float(2 ** math.ceil(math.log2(-low))) if low < 0 else 0.0), float(2**bits - 1)


def format_range(value_range: ValueRange) -> str:
    """Format a range as on the command line: "0:4095"."""
    return ":".join(f"{value:.15g}" for value in value_range)


def model_range_note(value_range: ValueRange | None) -> str:
    """How a model converts images of more than 8 bits a channel, for a note on images that become too dark."""
    if value_range is None:
        return "the model takes 8 bits, or the upper 8 of 16"
    return f"the model takes values {format_range(value_range)} of more than 8 bits, as its cache did"


def _strips(values: NDArray[Any]) -> Iterator[tuple[NDArray[Any], slice]]:
    """Yield blocks of rows, each with its slice."""
    rows = max(1, _STRIP // max(1, values[:1].size))
    for first in range(0, len(values), rows):
        strip = slice(first, first + rows)
        yield values[strip], strip


def _scaled(values: NDArray[Any], value_range: ValueRange) -> NDArray[np.uint8]:
    pixels = np.empty(values.shape, np.uint8)
    table = _linear(np.arange(65536), value_range) if values.dtype == np.uint16 else None
    for strip, rows in _strips(values):
        pixels[rows] = _linear(strip, value_range) if table is None else table[strip]
    return pixels


def _linear(values: NDArray[Any], value_range: ValueRange) -> NDArray[np.uint8]:
    """Scale linearly to 8 bits; NaN becomes 0."""
    low, high = value_range
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = (values.astype(np.float64) - low) * 255 / (high - low)
    return np.rint(np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0).clip(0, 255)).astype(np.uint8)


def _upper_byte(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert to 8 bits without a value range."""
    if values.dtype.kind == "f" or values.dtype == np.int8:
        kind = "signed 8-bit" if values.dtype == np.int8 else "floating-point"
        raise UnreadableImageError(f"{kind} pixels have no defined white: give --value-range LOW:HIGH")
    shift = 0 if values.dtype != np.uint16 and values.max(initial=0) <= 255 else 8
    pixels = np.empty(values.shape, np.uint8)
    for strip, rows in _strips(values):
        pixels[rows] = strip.clip(0, 65535).astype(np.uint16) >> shift
    return pixels


def _alpha(values: NDArray[Any]) -> NDArray[np.uint8]:
    largest = float(np.iinfo(values.dtype).max) if values.dtype.kind in "iu" else 1.0
    return _scaled(values, (0.0, largest))
