"""Image files by Pillow: which formats are opened, upright RGB, size from the header, and PNG files to write."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from featcache._utils.files import atomic_write
from featcache._utils.regular_files import open_regular, read_regular
from featcache.core.bit_depth import DeepPixels
from featcache.core.specs import MAX_PIXELS
from featcache.data.file_types import describe_content, is_heif, without_texts
from featcache.errors import UnreadableImageError

_WIDTH, _LENGTH = ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength

_SMALL = 256  # pixels of the long side

# Pillow's names of the formats in `file_types`; MPO comes with JPEG. Pillow always loads the first ones.
_FIRST = ("BMP", "DIB", "GIF", "JPEG", "PPM", "PNG")
_OTHERS = ("TIFF", "WEBP", "JPEG2000", "AVIF")

_TRANSPARENT_MODES = ("RGBA", "LA", "PA", "RGBa", "La")

Pixels = NDArray[np.uint8]
"""RGB, shape (h, w, 3)."""

# EXIF orientation -> how stored pixels (h, w, 3) are turned upright.
TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
}


def open_image(file: bytes | BinaryIO) -> Image.Image:
    """An image file opened by Pillow, which has read its header. Raises what Pillow raises.

    Only the listed formats are tried: Pillow recognises the content, not the name, and would open others, such as EPS,
    a program that Ghostscript runs.
    """
    stream = io.BytesIO(file) if isinstance(file, bytes) else file
    for formats in (_FIRST, _other_formats()):
        stream.seek(0)
        with suppress(UnidentifiedImageError):
            return Image.open(stream, formats=formats)
    stream.seek(0)
    if is_heif(stream.read(12)) and _register_heif():
        stream.seek(0)
        return Image.open(stream, formats=("HEIF",))
    raise UnidentifiedImageError("no image of the formats that are read")


@cache
def _other_formats() -> tuple[str, ...]:
    """The formats of `_OTHERS` that this Pillow can open."""
    Image.init()
    return tuple(name for name in _OTHERS if name in Image.OPEN)


@cache
def _register_heif() -> bool:
    """Let Pillow open HEIC files. False if the extra `heic` is not installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def lift_pillows_limit(max_pixels: int) -> None:
    """Raise the number of pixels that Pillow opens, in the whole process. It is never lowered."""
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > MAX_PIXELS:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels)


def refuse_large(image: Image.Image, max_pixels: int) -> None:
    """Raise UnreadableImageError for an image of more pixels than the limit."""
    if image.width * image.height > max_pixels:
        raise UnreadableImageError(
            f"{image.width} x {image.height} pixels are more than the {max_pixels:,} of --max-pixels"
        )


def turn_upright(image: Image.Image) -> Image.Image:
    """An image, rotated by its EXIF orientation."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the pixels are readable although the EXIF is broken
        return image


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 if there is none."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the pixels are readable although the EXIF is broken
        return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """An image in RGB; transparent pixels are laid on white."""
    if image.mode == "LAB":  # which convert("RGB") does not support
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(lab, srgb, "LAB", "RGB").apply(image)
    if image.mode in _TRANSPARENT_MODES or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def pixels_of(image: Image.Image) -> Pixels | DeepPixels:
    """The pixels of an upright image: its values if they have more than 8 bits, else RGB."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        return DeepPixels(values.astype(values.dtype.newbyteorder("="), copy=False))
    return np.array(to_rgb(image))


def upright_size(file: Path | bytes) -> tuple[int, int] | None:
    """Height and width of the decoded image, from the header alone; None if the header cannot be read."""
    try:
        with open_regular(file) if isinstance(file, Path) else io.BytesIO(file) as stream, open_image(stream) as image:
            height, width = image.height, image.width
            if image.format == "TIFF":  # some versions of Pillow give the upright size already
                height, width = (image.tag_v2[tag] for tag in (_LENGTH, _WIDTH))  # type: ignore[attr-defined]
            return (width, height) if orientation_of(image) in (5, 6, 7, 8) else (height, width)
    except (UnidentifiedImageError, ValueError):  # read all bytes and try again, as `decode` does
        try:
            data = read_regular(file) if isinstance(file, Path) else without_texts(file)
        except OSError:  # too large
            return None
        return upright_size(data) if data else None
    except Exception:  # decoders raise errors of many types on a broken file
        return None


def write_png(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write grey (h, w) or RGB (h, w, 3) pixels, uint8, as a PNG file."""
    with atomic_write(path) as file:
        Image.fromarray(pixels).save(file, format="PNG")


def failure_reason(data: bytes, error: Exception) -> str:
    """Why a file could not be decoded: of its content, else the error's text."""
    if not data:
        return "the file is empty (0 bytes)"
    if isinstance(error, UnidentifiedImageError):
        return describe_content(data)
    return f"{type(error).__name__}: {error}" if not isinstance(error, OSError) else str(error)


def encode_for_page(pixels: NDArray[np.uint8], side: int) -> tuple[str, bytes]:
    """RGB pixels (h, w, 3) as a file for a web page, the long side at most `side`: its media type, and its bytes.

    Small images are PNG, which keeps each pixel; larger ones are JPEG.
    """
    image, file = Image.fromarray(pixels), io.BytesIO()
    if max(image.size) <= _SMALL:
        image.save(file, format="PNG")
        return "image/png", file.getvalue()
    image.thumbnail((side, side))
    image.save(file, format="JPEG", quality=90)
    return "image/jpeg", file.getvalue()
