"""The value range of a data set: which values of images with more than 8 bits become black and white."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePath

import numpy as np

from featcache._utils.environment import usable_cores
from featcache.cache.feature_cache import FeatureCache
from featcache.core.bit_depth import ValueRange, covering_range, format_range
from featcache.core.specs import MAX_PIXELS
from featcache.data.manifest import Manifest
from featcache.errors import FeatcacheError, MissingCodecError, MissingExtraError, RemoteIOError, UnreadableImageError
from featcache.vision.decode import decode, value_extent
from featcache.vision.image_files import lift_pillows_limit

EXAMINED = 128
"""Number of training images that are read, evenly spread over the sorted ids. The range is of whole bits, so it usually
covers the other images, too; values outside of it are clipped, and such images get a remark."""

_EIGHT_BITS = {".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".webp", ".avif"}  # never more than 8 bits a channel


def find_value_range(manifest: Manifest, max_pixels: int = MAX_PIXELS) -> ValueRange | None:
    """The range of whole bits that holds the values of the training images with more than 8 bits a channel.

    Parameters
    ----------
    manifest : Manifest
        The images; only those of train are read, or any if train is empty.
    max_pixels : int
        Images with more pixels count as unreadable.

    Returns
    -------
    (float, float) or None
        Low and high, for example (0, 4095). None if no image that was read has more than 8 bits, or if their values are
        floats, whose range only the user can set.

    Raises
    ------
    RemoteIOError
        A connection is lost.
    MissingExtraError
        All images with more than 8 bits need the extra `tiff`. Without it only the upper byte would be read, and the
        features would depend on the installed packages.
    """
    rows = manifest.samples.rows("train")
    rows = rows if len(rows) else np.arange(len(manifest.samples))
    rows = rows[[PurePath(manifest.samples.ids[row]).suffix.lower() not in _EIGHT_BITS for row in rows]]
    if not len(rows):
        return None
    lift_pillows_limit(max_pixels)
    chosen = np.unique(np.linspace(0, len(rows) - 1, EXAMINED).astype(np.int64))

    upper_byte: list[str] = []  # images of which only the upper byte can be read

    def extent_of(row: int) -> ValueRange | None:
        try:
            data = manifest.read(row)
            try:
                return value_extent(data, max_pixels)
            except MissingCodecError as error:
                decode(data, max_pixels)
                upper_byte.append(f"{manifest.samples.ids[row]} is {error}")
                return None
        except RemoteIOError:
            raise
        except (OSError, UnreadableImageError):
            return None

    with ThreadPoolExecutor(usable_cores()) as pool:
        extents = [extent for extent in pool.map(extent_of, rows[chosen].tolist()) if extent]
    if upper_byte and not extents:
        raise MissingExtraError(
            f"{len(upper_byte)} of {len(chosen)} training images that were looked at have more than 8 bits a channel, "
            f"and only the upper 8 can be read here: {min(upper_byte)}."
        )
    return covering_range(min(low for low, _ in extents), max(high for _, high in extents)) if extents else None


def choose_value_range(
    requested: ValueRange | None, out: str | os.PathLike[str] | None, manifest: Manifest, max_pixels: int = MAX_PIXELS
) -> ValueRange | None:
    """The requested range, else that of the cache `out` if it exists, else that of the images."""
    if requested is not None:
        return requested
    if out is None:
        return find_value_range(manifest, max_pixels)
    try:
        return FeatureCache.open(out, partial=True).spec.image_view.value_range
    except (FeatcacheError, OSError):  # it does not exist, or is damaged: the error comes when it is written
        return find_value_range(manifest, max_pixels)


def describe_value_range(value_range: ValueRange | None) -> str:
    """One line for people; "" for none."""
    if value_range is None:
        return ""
    return (
        f"images of more than 8 bits a channel: values {format_range(value_range)} become black to white "
        "(--value-range sets others)"
    )
