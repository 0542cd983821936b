"""From the bytes of an image file to RGB pixels."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from featcache.errors import UnreadableImageError

# What torchvision.datasets.ImageFolder takes for an image.
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"})

# Twice Pillow's own warning limit, where Pillow too refuses: a "decompression bomb".
MAX_PIXELS = 178_956_970

_TRANSPARENT_MODES = ("RGBA", "LA", "PA", "RGBa", "La")


def is_image_name(path: Path) -> bool:
    """Whether the extension is one of an image."""
    return path.suffix.lower() in EXTENSIONS


def decode(data: bytes) -> NDArray[np.uint8]:
    """Decode an image file to upright RGB.

    EXIF orientation is applied; animations give their first frame; transparency is laid on white; 16-bit
    greys keep their upper 8 bits; CMYK and palettes are converted.

    Returns
    -------
    pixels : ndarray, shape (h, w, 3), uint8.

    Raises
    ------
    UnreadableImageError : whatever is wrong with the file, with the reason as its text.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImageError(
                    f"{image.width} x {image.height} pixels, more than the limit of {MAX_PIXELS}"
                )
            return np.array(_to_rgb(_upright(image)))
    except UnreadableImageError:
        raise
    except Exception as error:  # decoders raise whatever they like on a broken file: OSError, SyntaxError, ...
        raise UnreadableImageError(_reason(data, error)) from error


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF is no reason to lose readable pixels
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # I;16, I;16B, I: 16-bit greys; convert("RGB") would clip at 255
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise UnreadableImageError("floating-point pixels have no defined range; convert it to 8 bits")
    if image.mode in _TRANSPARENT_MODES or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _reason(data: bytes, error: Exception) -> str:
    if not data:
        return "the file is empty (0 bytes)"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image that Pillow can identify"
    return f"{type(error).__name__}: {error}" if not isinstance(error, OSError) else str(error)
