"""`Picture`: images in memory, of Pillow or NumPy, as upright RGB."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featcache.core.bit_depth import ValueRange
from featcache.core.specs import MAX_PIXELS
from featcache.errors import DataLayoutError, UnreadableImageError
from featcache.vision.image_files import Pixels, failure_reason, pixels_of, refuse_large, to_rgb, turn_upright
from featcache.vision.image_remarks import Decoded, check_pixels

Picture: TypeAlias = Image.Image | NDArray[np.uint8]
"""An image in memory: Pillow's, or pixels (h, w), (h, w, 3) or (h, w, 4), uint8."""

_MODES = {(): "L", (3,): "RGB", (4,): "RGBA"}  # an array's shape after h and w -> Pillow's mode


def is_picture(value: object) -> bool:
    """Whether an object is one `Picture`, by its type and dimensions."""
    return isinstance(value, Image.Image) or (isinstance(value, np.ndarray) and value.ndim in (2, 3))


def check_picture(
    picture: object, name: str, max_pixels: int = MAX_PIXELS, value_range: ValueRange | None = None
) -> Decoded:
    """Upright RGB of an image in memory, and the remark on it, as `decode_and_check`.

    An image that Pillow opened is read from its file; an animation gives its current frame.

    Parameters
    ----------
    picture : Picture
        The image.
    name : str
        What errors call it.
    max_pixels, value_range
        As of `decode`.

    Returns
    -------
    Decoded
        Its pixels are a copy: the owner may change or close the picture afterwards.

    Raises
    ------
    UnreadableImageError
        As of `decode`.
    DataLayoutError
        It is not a `Picture`, or an array of another shape or type.
    """
    if not isinstance(picture, Image.Image):
        return check_pixels(_rgb_of_array(picture, name), value_range)
    try:
        refuse_large(picture, max_pixels)
        return check_pixels(pixels_of(turn_upright(picture)), value_range)
    except (UnreadableImageError, MemoryError):
        raise
    except Exception as error:  # Pillow reads the file now, and the file is broken
        raise UnreadableImageError(failure_reason(b"opened", error)) from error


def _rgb_of_array(array: object, name: str) -> Pixels:
    if not isinstance(array, np.ndarray):
        raise DataLayoutError(f"{name} is of type {type(array).__name__}; give a path, a Pillow image or an array.")
    mode = _MODES.get(array.shape[2:]) if array.ndim > 1 and array.size else None
    if not mode or array.dtype != np.uint8:
        raise DataLayoutError(
            f"{name} has shape {array.shape} and type {array.dtype}; give pixels of shape (h, w, 3) (RGB), (h, w) "
            "(grey) or (h, w, 4) (RGBA), of type uint8, 0 to 255."
        )
    return np.array(array if mode == "RGB" else to_rgb(Image.fromarray(array)), order="C")
