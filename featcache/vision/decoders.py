"""Decoders besides Pillow: JPEG faster, and PNG with all 16 bits of its colours. TIFF is in `tiff`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from featcache.vision.image_files import TURNS, Pixels

JPEG_START, PNG_START = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
EmptyPixels: TypeAlias = Callable[[tuple[int, ...]], Pixels]
"""Gives an array of a shape, uint8, of any content."""

_REDUCTIONS = (8, 4, 2)
"""libjpeg-turbo decodes at 1/8, 1/4 and 1/2 of the size by smaller transforms, without detail to throw away."""

PNG_BITS_OFFSET = 24
"""Position of the byte in a PNG file that holds the bits of a channel."""


def _empty(shape: tuple[int, ...]) -> Pixels:
    return np.empty(shape, np.uint8)


def reduction(height: int, width: int, decode_side: int | None) -> int:
    """By how much smaller a JPEG is decoded: 1, 2, 4 or 8. decode_side : see `ViewSpec`."""
    side = min(height, width)
    return next((by for by in _REDUCTIONS if decode_side is not None and side >= by * decode_side), 1)


def reduced(length: int, by: int) -> int:
    """Rows or columns of a JPEG that is decoded at a part of its size."""
    return -(-length // by)


def decode_jpeg(
    data: bytes, image: Image.Image, decode_side: int | None = None, empty: EmptyPixels | None = None
) -> Pixels | None:
    """The same pixels as Pillow's, in half its time; None for files that Pillow has to decode.

    Pillow then decodes them at the same part of their size.

    It is the same libjpeg-turbo with the same exact transform and upsampling, straight into an array. It releases the
    GIL.
    """
    by = reduction(image.height, image.width, decode_side) if image.format in ("JPEG", "MPO") else 1
    height, width = reduced(image.height, by), reduced(image.width, by)
    if by > 1:
        image.draft(None, (image.width // by, image.height // by))  # for Pillow, which may have to decode it
    if image.format != "JPEG" or image.mode not in ("RGB", "L"):
        return None
    try:
        import simplejpeg

        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1), TURNS[1])
        buffer = (empty or _empty)((height, width, 3))  # a file with a wrong header gets no larger one
        part = {"min_height": height, "min_width": width} if by > 1 else {}
        pixels = simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False, buffer=buffer, **part)
        return np.ascontiguousarray(turn(pixels)) if pixels.shape == buffer.shape else None
    except Exception:  # not installed, or a broken file or EXIF: Pillow decodes what it can, or raises the reason
        return None


def png_values(data: bytes) -> NDArray[np.uint16]:
    """All bits of a PNG with 16-bit colours, RGB or RGBA, of which Pillow gives the upper byte."""
    import torch
    from torchvision.io import decode_png

    values = decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8)).permute(1, 2, 0).numpy()
    return values[..., [0, 0, 0, 1]] if values.shape[2] == 2 else values
