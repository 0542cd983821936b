"""TIFF files: which ones Pillow reads correctly. tifffile reads the others, or they are refused with the reason."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from featcache.core.bit_depth import DeepPixels
from featcache.errors import MissingCodecError, UnreadableImageError, install_line

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _SAMPLES = 258, 259, 262, 266, 277
_WIDTH, _LENGTH, _STRIPS, _ROWS = 256, 257, 273, 278
_TILE_WIDTH, _TILE_LENGTH, _TILES = 322, 323, 324
_PLANAR, _SUBSAMPLING, _FORMAT, _ORIENTATION = 284, 530, 339, 274
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_NAMES = {_PALETTE: "palette", 4: "mask", _CMYK: "CMYK", _YCBCR: "YCbCr", _LAB: "CIELAB", 32803: "camera raw"}
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_JPEG = (6, 7)
_REDUCED, _MASK = 1, 4  # bits of a page's subfile type
_IGNORED, _ALPHA = 0, 2  # kinds of an extra sample; 1 is alpha that the colours are multiplied by

# Grey pixels that Pillow reads value by value besides 16 unsigned bits: bits and format of a sample.
_DEEP_GREY = {(12, _UNSIGNED), (16, _SIGNED), (32, _SIGNED), (32, _FLOAT)}


_DEEP_COLOURS = {(_RGB, 3), (_RGB, 4), (_CMYK, 4)}


def is_tiff(data: bytes) -> bool:
    """Whether these bytes begin a TIFF file."""
    return data.startswith(_MAGIC)


def is_deep(tags: Mapping[int, Any]) -> bool:
    """Whether a channel has more than 8 bits, or signed values; tags as Pillow reads them."""
    return max(_several(tags, _BITS, 1)) > 8 or set(_several(tags, _FORMAT, _UNSIGNED)) != {_UNSIGNED}


def pillow_reads(tags: Mapping[int, Any], little_endian: bool = True) -> bool:
    """Whether Pillow gives the correct pixels of such a file; of 16-bit colours the upper bytes.

    Pillow opens other files, too, but may give wrong pixels: in compressed files it swaps the bytes of wide values that
    libtiff has swapped already.
    """
    bits, formats = _several(tags, _BITS, 1), _several(tags, _FORMAT, _UNSIGNED)
    kind, samples = tags.get(_PHOTOMETRIC, 0), tags.get(_SAMPLES, 1)
    contiguous = tags.get(_PLANAR, 1) == 1
    if len(set(bits)) > 1 or len(set(formats)) > 1:
        return False
    if is_deep(tags):
        if tags.get(_FILL_ORDER, 1) != 1:
            return False
        if samples == 1:
            sample, in_order = (bits[0], formats[0]), little_endian or tags.get(_COMPRESSION, 1) == 1
            return kind == _BLACK_IS_ZERO and (sample == (16, _UNSIGNED) or (in_order and sample in _DEEP_GREY))
        return contiguous and (bits[0], formats[0]) == (16, _UNSIGNED) and (kind, samples) in _DEEP_COLOURS
    if kind in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _PALETTE):
        return samples == 1 or (contiguous and samples == 2 and kind != _WHITE_IS_ZERO)
    if kind == _YCBCR:
        return tags.get(_COMPRESSION, 1) in _JPEG or (contiguous and tags.get(_SUBSAMPLING, (2, 2)) == (1, 1))
    return (kind == _RGB and samples >= 3) or (kind == _CMYK and samples == 4) or (kind == _LAB and contiguous)


def needs_tifffile(tags: Mapping[int, Any], little_endian: bool, scaled: bool) -> bool:
    """Whether tifffile has to read the file. scaled : all bits of colours are needed, not only the upper byte."""
    return not pillow_reads(tags, little_endian) or (scaled and is_deep(tags) and tags.get(_PHOTOMETRIC) == _RGB)


def missing_parts(tags: Mapping[int, Any]) -> str:
    """How many strips or tiles a TIFF lacks, "29 of 30 strips"; "" if it is complete. Pillow shows them as black."""
    width, height = int(tags[_WIDTH]), int(tags[_LENGTH])
    if _TILES in tags:
        existing, name = len(_several(tags, _TILES, 0)), "tiles"
        across, down = (max(1, int(tags.get(tag, 0))) for tag in (_TILE_WIDTH, _TILE_LENGTH))
        needed = -(-width // across) * -(-height // down)
    else:
        existing, name = len(_several(tags, _STRIPS, 0)), "strips"
        needed = -(-height // (int(tags.get(_ROWS, 0)) or height))
    needed *= int(tags.get(_SAMPLES, 1)) if int(tags.get(_PLANAR, 1)) == 2 else 1
    return f"{needed - existing:,} of {needed:,} {name}" if existing < needed else ""


def read_tiff(data: bytes, max_pixels: int) -> DeepPixels:
    """Grey, RGB or RGBA of the first page, of any depth, value by value.

    Raises
    ------
    UnreadableImageError
        The kind of TIFF does not define its colours, or no installed package can decompress it.
    """
    import tifffile

    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # the error gives the reason
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        kind, samples = int(page.photometric), page.samplesperpixel
        height, width = page.imagelength, page.imagewidth
        if height * width > max_pixels:
            raise UnreadableImageError(f"{width} x {height} pixels are more than the {max_pixels:,} of --max-pixels")
        colours = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3}.get(kind)
        extra = page.extrasamples[0] if page.extrasamples else _ALPHA if kind == _RGB else None
        is_known = colours == samples or (colours == samples - 1 and extra in (_IGNORED, _ALPHA))
        if not is_known or page.imagedepth > 1 or page.dtype is None or page.dtype.kind not in "uif":
            raise UnreadableImageError(_unknown(page, kind, samples))
        try:
            values = page.asarray()
        except Exception as error:
            if "imagecodecs" not in str(error):
                raise
            compression = getattr(page.compression, "name", page.compression)
            raise MissingCodecError(
                f"a {page.bitspersample}-bit TIFF with {compression} compression: "
                f"{install_line('tiff')} makes it readable"
            ) from error
        tag = page.tags.get(_ORIENTATION)
        if samples > 1 and page.planarconfig == 2:
            values = np.moveaxis(values.reshape(samples, height, width), 0, 2)
        values = values.reshape(height, width, samples).astype(values.dtype.newbyteorder("="), copy=False)
        if samples != colours and extra == _IGNORED:
            values = values[..., :colours]
        if values.shape[2] == 2:  # grey with alpha
            values = values[..., [0, 0, 0, 1]]
        grey = values.shape[2] == 1
        return DeepPixels(values[..., 0] if grey else values, kind == _WHITE_IS_ZERO, int(tag.value) if tag else 1)


def has_several_pages(data: bytes) -> bool:
    """Whether a TIFF file has pages after the first one, besides previews, reduced copies and masks.

    Raises
    ------
    Exception
        Of tifffile, for a broken file.
    """
    import tifffile

    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        kinds = (file.pages[number].aspage().subfiletype for number in range(1, len(file.pages)))
        return any(not int(kind) & (_REDUCED | _MASK) for kind in kinds)


def _unknown(page: Any, kind: int, samples: int) -> str:
    what = f"{page.bitspersample}-bit {_NAMES.get(kind, f'photometric {kind}')}" if kind > _RGB else "grey or RGB"
    channels = f"{samples} channels" if samples > 1 else "1 channel"
    return f"a TIFF of {channels} ({what}) whose colours are not certain: save it as 8-bit or 16-bit RGB"


def _several(tags: Mapping[int, Any], tag: int, default: int) -> tuple[int, ...]:
    """A value for each sample."""
    value = tags.get(tag, default)
    return tuple(value) if isinstance(value, tuple) else (value,)
