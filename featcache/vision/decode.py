"""From the bytes of an image file to RGB pixels."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from featcache._utils.files import atomic_write
from featcache._utils.regular_files import open_regular, read_regular
from featcache.core.bit_depth import DeepPixels, ValueRange
from featcache.core.specs import MAX_PIXELS as MAX_PIXELS
from featcache.data.file_types import describe_content, is_heif, without_texts
from featcache.errors import DataLayoutError, UnreadableImageError
from featcache.vision.tiff import has_several_pages, is_deep, is_tiff, missing_parts, needs_tifffile, read_tiff

_MP_ENTRIES = 0xB002  # of a JPEG's multi-picture index
_WIDTH, _LENGTH = ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength
_NEARLY_BLACK = 16
REMARKS = (
    "of one colour",
    "nearly black",
    "clipped by the value range",
    "dark, as it uses few of its bits",
    "first of several pages",
    "first of several frames",
)
"""All that `decode_and_check` says of images. An image cache holds the place of each: new ones come behind."""

_ONE_COLOUR, _BLACK, _CLIPPED_BY, _DARK, _PAGES, _FRAMES = REMARKS
_CLIPPED = 0.001  # of the values of a picture: more are worth a remark, fewer are a few hot pixels
_FEW_BITS = 2**14  # a picture of 16 bits a channel whose values stay below has a quarter of the brightness at most
_HEADER = 2**18  # bytes of a JPEG that are searched for a note that more pictures follow

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_PNG_BITS = 24  # where a PNG says how many bits a channel has

# Pillow's names of the formats whose extensions `filekinds` lists; MPO comes with JPEG. It loads the first always.
_FIRST = ("BMP", "DIB", "GIF", "JPEG", "PPM", "PNG")
_OTHERS = ("TIFF", "WEBP", "JPEG2000", "AVIF")

_TRANSPARENT_MODES = ("RGBA", "LA", "PA", "RGBa", "La")

_Pixels = NDArray[np.uint8]

Picture: TypeAlias = Image.Image | NDArray[np.uint8]
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


def decode(data: bytes, max_pixels: int = MAX_PIXELS, value_range: ValueRange | None = None) -> NDArray[np.uint8]:
    """Decode an image file to upright RGB.

    EXIF orientation is applied; animations give their first frame; transparency is laid on white; CMYK and palettes
    are converted.

    Parameters
    ----------
    data : the bytes of the file.
    max_pixels : the most pixels that are decoded.
    value_range : low and high of pixels with more than 8 bits a channel, which become black and white. None keeps the
        upper 8 bits of 16.

    Returns
    -------
    pixels : ndarray, shape (h, w, 3), uint8.

    Raises
    ------
    UnreadableImageError : more than `max_pixels` (perhaps a "decompression bomb": a small file that fills the
        memory), or whatever else is wrong with the file, with the reason as its text.
    """
    return decode_and_check(data, max_pixels, value_range).pixels


class Decoded(NamedTuple):
    """Pixels (h, w, 3), uint8, and what is odd about them: "nearly black; first of several pages"; "" for nothing."""

    pixels: _Pixels
    remark: str


def decode_and_check(data: bytes, max_pixels: int = MAX_PIXELS, value_range: ValueRange | None = None) -> Decoded:
    """`decode`, with a look at what comes out and at what is left out.

    The remark says whether the picture is nearly black, of one colour, dark for want of a range or clipped by the
    range, and whether the file holds more pages or frames.
    """
    found = _checked(_read(data, max_pixels, scaled=value_range is not None), value_range)
    return Decoded(found.pixels, "; ".join(filter(None, [found.remark, _left_out(data)])))


def _checked(found: _Pixels | DeepPixels, value_range: ValueRange | None) -> Decoded:
    if not isinstance(found, DeepPixels):
        return Decoded(found, _remark(found))
    clipped = value_range is not None and found.share_outside(value_range) > _CLIPPED
    pixels = _rgb_of_deep(found, value_range)
    remark = _CLIPPED_BY if clipped else _remark(pixels)
    few = value_range is None and found.values.dtype == np.uint16 and found.extent[1] < _FEW_BITS
    if not remark and few and int(pixels.max()) < _FEW_BITS // 257:  # of a file where white is zero they are bright
        remark = _DARK
    return Decoded(pixels, remark)


def _left_out(data: bytes) -> str:
    """What of a file is not decoded: pages or frames behind the first one; "" for nothing."""
    if data.startswith(_JPEG) and data.find(b"MPF\0", 0, _HEADER) < 0:
        return ""
    if data.startswith(_PNG) and data.find(b"acTL", 0, data.find(b"IDAT")) < 0:
        return ""
    try:
        if is_tiff(data):
            return _PAGES if has_several_pages(data) else ""
        with _open(data) as image:
            return _FRAMES if _has_frames(image) else ""
    except Exception:  # what follows the first page is broken
        return ""


def _has_frames(image: Image.Image) -> bool:
    if not getattr(image, "is_animated", False):
        return False
    if image.format != "MPO":
        return True
    # Behind a camera's photo lie previews and gain maps; views from several sides are called frames.
    entries = image.mpinfo[_MP_ENTRIES]  # type: ignore[attr-defined]
    return any(str(entry["Attribute"]["MPType"]).startswith("Multi-Frame") for entry in entries[1:])


def value_extent(data: bytes, max_pixels: int = MAX_PIXELS) -> ValueRange | None:
    """The least and largest value of a picture with more than 8 bits a channel; None for any other, and for floats.

    Raises
    ------
    UnreadableImageError : as of `decode`.
    """
    if _has_eight_bits(data):
        return None
    found = _read(data, max_pixels, scaled=True)
    return found.extent if isinstance(found, DeepPixels) and found.values.dtype.kind in "iu" else None


def _has_eight_bits(data: bytes) -> bool:
    """Whether the header alone says that no channel has more than 8 bits."""
    if data.startswith(_PNG):
        return len(data) > _PNG_BITS and data[_PNG_BITS] <= 8
    if not is_tiff(data):
        return data.startswith(_JPEG)
    try:
        with _open(data) as image:
            tags = getattr(image, "tag_v2", None)
            return tags is not None and not is_deep(tags)
    except Exception:  # the decoder says what is wrong
        return False


def _read(data: bytes, max_pixels: int, scaled: bool) -> _Pixels | DeepPixels:
    """RGB pixels; values where a file has more than 8 bits a channel, of colours only where they are to be scaled."""
    try:
        try:
            opened = _open(data)
        except UnidentifiedImageError:
            if not is_tiff(data):
                raise
            return read_tiff(data, max_pixels)
        with opened as image:
            _refuse_large(image, max_pixels)
            tags = getattr(image, "tag_v2", None) if image.format == "TIFF" else None
            if tags is not None and (missing := missing_parts(tags)):
                raise UnreadableImageError(f"it is damaged: {missing} are missing")
            if tags is not None and needs_tifffile(tags, data.startswith(b"II"), scaled):
                return read_tiff(data, max_pixels)
            if scaled and image.format == "PNG" and image.mode in ("RGB", "RGBA", "LA") and data[_PNG_BITS] == 16:
                return DeepPixels(_values_of_png(data), orientation=_orientation(image))
            pixels = _decode_jpeg(data, image)
            return _pixels_of(_upright(image)) if pixels is None else pixels
    except (UnreadableImageError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever they like on a broken file: OSError, SyntaxError, ...
        if isinstance(error, ValueError) and (shorter := without_texts(data)):
            return _read(shorter, max_pixels, scaled)
        raise UnreadableImageError(_reason(data, error)) from error


def _values_of_png(data: bytes) -> NDArray[np.uint16]:
    """All bits of a PNG with 16-bit colours, RGB or RGBA, of which Pillow gives the upper byte."""
    import torch
    from torchvision.io import decode_png

    values = decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8)).permute(1, 2, 0).numpy()
    return values[..., [0, 0, 0, 1]] if values.shape[2] == 2 else values


def _pixels_of(image: Image.Image) -> _Pixels | DeepPixels:
    """Of an upright image: its values where they have more than 8 bits, else RGB."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        return DeepPixels(values.astype(values.dtype.newbyteorder("="), copy=False))
    return np.array(_to_rgb(image))


def _rgb_of_deep(deep: DeepPixels, value_range: ValueRange | None) -> _Pixels:
    pixels = deep.to_uint8(value_range)
    if pixels.shape[2:] != (3,):
        pixels = np.array(_to_rgb(Image.fromarray(pixels)))
    return np.ascontiguousarray(_TURNS.get(deep.orientation, _TURNS[1])(pixels))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF is no reason to lose readable pixels
        return 1


def _remark(pixels: _Pixels) -> str:
    first = pixels[:1, :1]
    if (pixels[:1] == first).all() and (pixels == first).all():
        return _ONE_COLOUR
    return _BLACK if pixels.max() < _NEARLY_BLACK else ""


def _open(file: bytes | BinaryIO) -> Image.Image:
    """Pillow's image, its header read. Raises what Pillow raises.

    Pillow goes by the content, not by the name, and would open formats that we do not list: EPS among them, a program
    that Ghostscript runs.
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
    """Those of `_OTHERS` that this Pillow knows."""
    Image.init()
    return tuple(name for name in _OTHERS if name in Image.OPEN)


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


def rgb_of(
    picture: object, name: str, max_pixels: int = MAX_PIXELS, value_range: ValueRange | None = None
) -> NDArray[np.uint8]:
    """Upright RGB of a `Picture`, by the rules of `decode`: what Pillow opened gives the pixels of its file.

    Parameters
    ----------
    name : what errors call it.
    max_pixels, value_range : as of `decode`.

    Returns
    -------
    pixels : ndarray, shape (h, w, 3), uint8. A copy: its owner may change, close or fill the picture again.

    Raises
    ------
    UnreadableImageError : as of `decode`. DataLayoutError : no `Picture`, or an array of another shape or type.
    """
    return check_picture(picture, name, max_pixels, value_range).pixels


def check_picture(
    picture: object, name: str, max_pixels: int = MAX_PIXELS, value_range: ValueRange | None = None
) -> Decoded:
    """`rgb_of`, with a look at what comes out, as of `decode_and_check`; of an animation the frame where it stands."""
    if not isinstance(picture, Image.Image):
        return _checked(_rgb_of_array(picture, name), value_range)
    try:
        _refuse_large(picture, max_pixels)
        return _checked(_pixels_of(_upright(picture)), value_range)
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
        with open_regular(file) if isinstance(file, Path) else io.BytesIO(file) as stream, _open(stream) as image:
            height, width = image.height, image.width
            if image.format == "TIFF":  # some versions of Pillow give the upright size already
                height, width = (image.tag_v2[tag] for tag in (_LENGTH, _WIDTH))  # type: ignore[attr-defined]
            return (width, height) if _orientation(image) in (5, 6, 7, 8) else (height, width)
    except (UnidentifiedImageError, ValueError):  # a second look at all bytes, as `decode` takes it
        try:
            data = read_regular(file) if isinstance(file, Path) else without_texts(file)
        except OSError:  # too large
            return None
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
