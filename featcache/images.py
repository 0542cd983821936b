"""From the bytes of an image file to RGB pixels."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError, features

from featcache.atomic import atomic_write
from featcache.errors import DataLayoutError, UnreadableImageError
from featcache.filekinds import ALWAYS, HEIC, OPTIONAL, describe_content, is_heif, is_placeholder, without_texts

MAX_PIXELS = 178_956_970
"""The most pixels that are decoded: twice Pillow's warning limit, a quarter of a gigabyte of RGB each way."""

_TRANSPARENT_MODES = ("RGBA", "LA", "PA", "RGBa", "La")

_Pixels = NDArray[np.uint8]

Picture = Image.Image | NDArray[np.uint8]
"""An image in memory: Pillow's, or pixels (h, w), (h, w, 3) or (h, w, 4), uint8."""

_MODES = {(): "L", (3,): "RGB", (4,): "RGBA"}  # what follows h and w in an array's shape -> Pillow's mode

# EXIF orientation -> how stored pixels (h, w, 3) are turned upright.
_TURNS: dict[int, Callable[[_Pixels], _Pixels]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
}


@cache
def image_extensions() -> frozenset[str]:
    """The extensions of image files that this installation reads, in lower case, with their dot."""
    built_in = {*features.modules, *features.codecs}  # older versions of Pillow do not know all of them
    optional = {suffix for name in OPTIONAL if name in built_in and features.check(name) for suffix in OPTIONAL[name]}
    return ALWAYS | optional | (HEIC if find_spec("pillow_heif") else frozenset())


def is_image_name(path: Path) -> bool:
    """Whether the extension is one of an image, and the name not that of a placeholder."""
    return path.suffix.lower() in image_extensions() and not is_placeholder(path)


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode an image file to upright RGB.

    EXIF orientation is applied; animations give their first frame; transparency is laid on white; 16-bit
    greys keep their upper 8 bits; CMYK and palettes are converted.

    Returns
    -------
    pixels : ndarray, shape (h, w, 3), uint8.

    Raises
    ------
    UnreadableImageError : more than `max_pixels` (perhaps a "decompression bomb": a small file that fills the
        memory), or whatever else is wrong with the file, with the reason as its text.
    """
    try:
        with _open(data) as image:
            _refuse_large(image, max_pixels)
            pixels = _decode_jpeg(data, image)
            return np.array(_to_rgb(_upright(image))) if pixels is None else pixels
    except (UnreadableImageError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever they like on a broken file: OSError, SyntaxError, ...
        if isinstance(error, ValueError) and (shorter := without_texts(data)):
            return decode(shorter, max_pixels)
        raise UnreadableImageError(_reason(data, error)) from error


def _open(data: bytes) -> Image.Image:
    """Pillow's image, its header read. Raises what Pillow raises."""
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        if not (is_heif(data) and _register_heif()):
            raise
        return Image.open(io.BytesIO(data))


@cache
def _register_heif() -> bool:
    """Let Pillow open HEIC files, where the extra `heic` is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def is_picture(thing: object) -> bool:
    """Whether it is one `Picture`, by its type and dimensions."""
    return isinstance(thing, Image.Image) or (isinstance(thing, np.ndarray) and thing.ndim in (2, 3))


def rgb_of(picture: object, name: str, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Upright RGB of a `Picture`, by the rules of `decode`: what Pillow opened gives the pixels of its file.

    Parameters
    ----------
    name : what errors call it.

    Returns
    -------
    pixels : ndarray, shape (h, w, 3), uint8. A copy: its owner may change, close or fill the picture again.

    Raises
    ------
    UnreadableImageError : as of `decode`. DataLayoutError : no `Picture`, or an array of another shape or type.
    """
    if not isinstance(picture, Image.Image):
        return _rgb_of_array(picture, name)
    try:
        _refuse_large(picture, max_pixels)
        return np.array(_to_rgb(_upright(picture)))
    except (UnreadableImageError, MemoryError):
        raise
    except Exception as error:  # Pillow reads the file only now, and it is broken
        raise UnreadableImageError(_reason(b"opened", error)) from error


def _rgb_of_array(array: object, name: str) -> _Pixels:
    if not isinstance(array, np.ndarray):
        raise DataLayoutError(f"{name} is of type {type(array).__name__}; give a path, a Pillow image or an array.")
    mode = _MODES.get(array.shape[2:]) if array.ndim > 1 and array.size else None
    if not mode or array.dtype != np.uint8:
        raise DataLayoutError(
            f"{name} has shape {array.shape} and type {array.dtype}; give pixels of shape (h, w, 3) (RGB), (h, w) "
            "(grey) or (h, w, 4) (RGBA), of type uint8, 0 to 255."
        )
    return np.array(array if mode == "RGB" else _to_rgb(Image.fromarray(array)), order="C")


def _refuse_large(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise UnreadableImageError(
            f"{image.width} x {image.height} pixels are more than the {max_pixels:,} of --max-pixels"
        )


def upright_size(file: Path | bytes) -> tuple[int, int] | None:
    """Height and width as `decode` gives them, from the header alone; None where that cannot be read."""
    try:
        with Image.open(file) if isinstance(file, Path) else _open(file) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return (image.width, image.height) if turned else (image.height, image.width)
    except (UnidentifiedImageError, ValueError):  # a second look at all bytes, as `decode` takes it
        data = file.read_bytes() if isinstance(file, Path) else without_texts(file)
        return upright_size(data) if data else None
    except Exception:  # decoders raise whatever they like on a broken file
        return None


def _decode_jpeg(data: bytes, image: Image.Image) -> _Pixels | None:
    """The pixels that Pillow would give, in half its time; None for what is left to Pillow.

    It is the same libjpeg-turbo, asked for the same exact transform and upsampling, straight into an array. Threads
    run side by side in it.
    """
    if image.format != "JPEG" or image.mode not in ("RGB", "L"):
        return None
    try:
        import simplejpeg

        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1), _TURNS[1])
        room = np.empty((image.height, image.width, 3), np.uint8)  # a header that lies finds no other
        pixels = simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False, buffer=room)
        return np.ascontiguousarray(turn(pixels)) if pixels.shape == room.shape else None
    except Exception:  # not there, or a broken file or broken EXIF: Pillow knows what can be saved, and says why not
        return None


def lift_pillows_limit(max_pixels: int) -> None:
    """Let Pillow open images of more pixels than it would, in the whole process; nothing below MAX_PIXELS."""
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > MAX_PIXELS:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels)


def write_png(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write grey (h, w) or RGB (h, w, 3) pixels, uint8, as a PNG file."""
    with atomic_write(path) as file:
        Image.fromarray(pixels).save(file, format="PNG")


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF is no reason to lose readable pixels
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # I;16, I;16B, I: convert("RGB") would clip at 255
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        eight_bits = image.mode == "I" and grey.max() <= 255  # 32-bit integers may hold either
        return Image.fromarray((grey if eight_bits else grey >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise UnreadableImageError("floating-point pixels have no defined range; convert it to 8 bits")
    if image.mode == "LAB":  # convert("RGB") does not know it
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(lab, srgb, "LAB", "RGB").apply(image)
    if image.mode in _TRANSPARENT_MODES or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _reason(data: bytes, error: Exception) -> str:
    if not data:
        return "the file is empty (0 bytes)"
    if isinstance(error, UnidentifiedImageError):
        return describe_content(data)
    return f"{type(error).__name__}: {error}" if not isinstance(error, OSError) else str(error)
