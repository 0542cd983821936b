"""`decode`: from the bytes of an image file to RGB pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from featcache.core.bit_depth import DeepPixels, ValueRange
from featcache.core.specs import MAX_PIXELS, ViewSpec
from featcache.data.file_types import without_texts
from featcache.errors import UnreadableImageError
from featcache.vision.decoders import JPEG_START, PNG_BITS_OFFSET, PNG_START, EmptyPixels, decode_jpeg, png_values
from featcache.vision.image_files import (
    Pixels,
    failure_reason,
    open_image,
    orientation_of,
    pixels_of,
    refuse_large,
    turn_upright,
)
from featcache.vision.image_remarks import Decoded, check_pixels, left_out
from featcache.vision.tiff import is_deep, is_tiff, missing_parts, needs_tifffile, read_tiff


def decode_for(data: bytes, view: ViewSpec, max_pixels: int = MAX_PIXELS, empty: EmptyPixels | None = None) -> Decoded:
    """The image from which the views of a spec are made. As `decode_and_check` with the settings of the spec.

    All that makes views of files decodes them here, so that training, prediction and extraction see the same pixels.

    empty : gives the memory into which upright JPEG files are decoded. Other images are in other memory.
    """
    return decode_and_check(data, max_pixels, view.value_range, view.decode_side, empty)


def decode(
    data: bytes,
    max_pixels: int = MAX_PIXELS,
    value_range: ValueRange | None = None,
    decode_side: int | None = None,
) -> NDArray[np.uint8]:
    """Decode an image file to upright RGB.

    EXIF orientation is applied; animations give their first frame; transparency is laid on white; CMYK and palettes
    are converted.

    Parameters
    ----------
    data : bytes
        Of the file.
    max_pixels : int
        The limit of the pixels that are decoded.
    value_range : (float, float), optional
        Low and high of pixels with more than 8 bits a channel, which become black and white. None keeps the upper 8
        bits of 16.
    decode_side : int, optional
        Decode JPEG files at a part of their size, see `ViewSpec`.

    Returns
    -------
    ndarray, shape (h, w, 3), uint8

    Raises
    ------
    UnreadableImageError
        The image has more than `max_pixels` (perhaps a "decompression bomb": a small file that fills the memory), or
        the file is damaged; the text is the reason.
    """
    return decode_and_check(data, max_pixels, value_range, decode_side).pixels


def decode_and_check(
    data: bytes,
    max_pixels: int = MAX_PIXELS,
    value_range: ValueRange | None = None,
    decode_side: int | None = None,
    empty: EmptyPixels | None = None,
) -> Decoded:
    """`decode`, and what is unusual about the image. Parameters and errors as of `decode`.

    Returns
    -------
    Decoded
        The remark states whether the image is nearly black, of one colour, dark without a range or clipped by the
        range, and whether the file has more pages or frames.
    """
    decoded = check_pixels(_read(data, max_pixels, value_range is not None, decode_side, empty), value_range)
    return decoded._replace(remark="; ".join(filter(None, [decoded.remark, left_out(data)])))


def value_extent(data: bytes, max_pixels: int = MAX_PIXELS) -> ValueRange | None:
    """The least and the largest value of an image with more than 8 bits a channel.

    Parameters
    ----------
    data : bytes
        Of the file.
    max_pixels : int
        As of `decode`.

    Returns
    -------
    (float, float) or None
        None for images of 8 bits, and for floats.

    Raises
    ------
    UnreadableImageError
        As of `decode`.
    """
    if _has_eight_bits(data):
        return None
    image = _read(data, max_pixels, scaled=True)
    return image.extent if isinstance(image, DeepPixels) and image.values.dtype.kind in "iu" else None


def _has_eight_bits(data: bytes) -> bool:
    """Whether no channel has more than 8 bits, by the header alone."""
    if data.startswith(PNG_START):
        return len(data) > PNG_BITS_OFFSET and data[PNG_BITS_OFFSET] <= 8
    if not is_tiff(data):
        return data.startswith(JPEG_START)
    try:
        with open_image(data) as image:
            tags = getattr(image, "tag_v2", None)
            return tags is not None and not is_deep(tags)
    except Exception:  # the decoder raises the reason
        return False


def _read(
    data: bytes, max_pixels: int, scaled: bool, decode_side: int | None = None, empty: EmptyPixels | None = None
) -> Pixels | DeepPixels:
    """RGB pixels; values if a file has more than 8 bits a channel, of colours only if `scaled` by a range."""
    try:
        try:
            opened = open_image(data)
        except UnidentifiedImageError:
            if not is_tiff(data):
                raise
            return read_tiff(data, max_pixels)
        with opened as image:
            refuse_large(image, max_pixels)
            tags = getattr(image, "tag_v2", None) if image.format == "TIFF" else None
            if tags is not None and (missing := missing_parts(tags)):
                raise UnreadableImageError(f"it is damaged: {missing} are missing")
            if tags is not None and needs_tifffile(tags, data.startswith(b"II"), scaled):
                return read_tiff(data, max_pixels)
            if scaled and image.format == "PNG" and image.mode in ("RGB", "RGBA", "LA") and data[PNG_BITS_OFFSET] == 16:
                return DeepPixels(png_values(data), orientation=orientation_of(image))
            pixels = decode_jpeg(data, image, decode_side, empty)
            return pixels_of(turn_upright(image)) if pixels is None else pixels
    except (UnreadableImageError, MemoryError):
        raise
    except Exception as error:  # decoders raise errors of many types on a broken file: OSError, SyntaxError, ...
        if isinstance(error, ValueError) and (shorter := without_texts(data)):
            return _read(shorter, max_pixels, scaled, decode_side, empty)
        raise UnreadableImageError(failure_reason(data, error)) from error
