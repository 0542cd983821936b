"""Remarks on decoded images that may not show what was meant: black, of one colour, clipped, first of several pages."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from featcache.core.bit_depth import DeepPixels, ValueRange
from featcache.vision.decoders import JPEG_START, PNG_START
from featcache.vision.image_files import TURNS, Pixels, open_image, to_rgb
from featcache.vision.tiff import has_several_pages, is_tiff

REMARKS = (
    "of one colour",
    "nearly black",
    "clipped by the value range",
    "dark, as it uses few of its bits",
    "first of several pages",
    "first of several frames",
)
"""All remarks. An image cache stores their positions: new ones are added at the end."""

_ONE_COLOUR, _BLACK, _CLIPPED_BY, _DARK, _PAGES, _FRAMES = REMARKS
_NEARLY_BLACK = 16
_CLIPPED = 0.001  # share of an image's values: more are worth a remark, fewer are a few hot pixels
_FEW_BITS = 2**14  # an image of 16 bits a channel with all values below has a quarter of the brightness at most
_HEADER = 2**18  # bytes of a JPEG that are searched for the marker of further pictures
_MP_ENTRIES = 0xB002  # of a JPEG's multi-picture index


class Decoded(NamedTuple):
    """A decoded image.

    pixels : shape (h, w, 3), uint8.
    remark : what is unusual about it, "nearly black; first of several pages"; "" for nothing.
    """

    pixels: Pixels
    remark: str


def check_pixels(image: Pixels | DeepPixels, value_range: ValueRange | None) -> Decoded:
    """RGB pixels and the remark on them: of one colour, nearly black, dark without a range, or clipped by the range."""
    if not isinstance(image, DeepPixels):
        return Decoded(image, _remark(image))
    clipped = value_range is not None and image.share_outside(value_range) > _CLIPPED
    pixels = _deep_to_rgb(image, value_range)
    remark = _CLIPPED_BY if clipped else _remark(pixels)
    uses_few_bits = value_range is None and image.values.dtype == np.uint16 and image.extent[1] < _FEW_BITS
    if not remark and uses_few_bits and int(pixels.max()) < _FEW_BITS // 257:  # if zero is white, the image is bright
        remark = _DARK
    return Decoded(pixels, remark)


def _deep_to_rgb(deep: DeepPixels, value_range: ValueRange | None) -> Pixels:
    """Upright RGB of pixels with more than 8 bits."""
    pixels = deep.to_uint8(value_range)
    if pixels.shape[2:] != (3,):
        pixels = np.array(to_rgb(Image.fromarray(pixels)))
    return np.ascontiguousarray(TURNS.get(deep.orientation, TURNS[1])(pixels))


def _remark(pixels: Pixels) -> str:
    """The remark on RGB pixels; "" for none."""
    first = pixels[:1, :1]
    if (pixels[:1] == first).all() and (pixels == first).all():
        return _ONE_COLOUR
    return _BLACK if pixels.max() < _NEARLY_BLACK else ""


def left_out(data: bytes) -> str:
    """The remark on a file with pages or frames after the first one, which are not decoded; "" for others."""
    if data.startswith(JPEG_START) and data.find(b"MPF\0", 0, _HEADER) < 0:
        return ""
    if data.startswith(PNG_START) and data.find(b"acTL", 0, data.find(b"IDAT")) < 0:
        return ""
    try:
        if is_tiff(data):
            return _PAGES if has_several_pages(data) else ""
        with open_image(data) as image:
            return _FRAMES if _has_frames(image) else ""
    except Exception:  # the data after the first page is broken
        return ""


def _has_frames(image: Image.Image) -> bool:
    """Whether an image has several frames, and not only previews of the first one."""
    if not getattr(image, "is_animated", False):
        return False
    if image.format != "MPO":
        return True
    # A camera adds previews and gain maps to a photo; only views from several sides are marked as frames.
    entries = image.mpinfo[_MP_ENTRIES]  # type: ignore[attr-defined]
    return any(str(entry["Attribute"]["MPType"]).startswith("Multi-Frame") for entry in entries[1:])
