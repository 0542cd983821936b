"""Images for figures: a choice of samples, and their views, read from the data and shrunk."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from featcache.core.rng import content_order
from featcache.core.samples import Samples, strata
from featcache.core.specs import ViewSpec
from featcache.data.sources.base import Source
from featcache.errors import PictureError, UnreadableImageError
from featcache.vision.decode import decode_for

SIDE = 160  # pixels of an image in a figure


def choose_rows(samples: Samples, rows: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """At most so many of the rows, in an order that hashes and seed determine, one of each class in turn."""
    rows = rows[content_order(samples.sha256[rows], seed, "show")]
    labels = strata(samples.labels[rows])
    order = np.argsort(labels, kind="stable")
    turn = np.empty(len(rows), np.int64)
    turn[order] = np.arange(len(rows)) - np.searchsorted(labels[order], labels[order])
    return rows[np.argsort(turn, kind="stable")[:most]]


def load_cached_views(
    source: Source, samples: Samples, row: int, spec: ViewSpec, numbers: range, side: int = SIDE
) -> NDArray[np.uint8]:
    """Shrunk views of a cached image, (len(numbers), s, s, 3). Raises PictureError if its file is not the same."""
    return load_views(source, samples.ids[row], spec, numbers, samples.sha256[row].tobytes(), side)


def load_views(
    source: Source, name: str, spec: ViewSpec, numbers: range, expected: bytes | None = None, side: int = SIDE
) -> NDArray[np.uint8]:
    """Shrunk views of an image, (len(numbers), s, s, 3); expected : SHA-256 of its file, None accepts any file."""
    from featcache.vision.augment import make_views  # needs PyTorch, which figures of numbers do not
    from featcache.vision.views.geometry import shrink

    location = source.local_path(name) or f"{name} of {source.name}"
    try:
        content = source.read(name)
        digest = hashlib.sha256(content).digest()
        if expected not in (None, digest):
            raise PictureError(f"{location} is not the image that the cache was made from. See `featcache diff`.")
        pixels = decode_for(content, spec).pixels
        return np.stack([shrink(view, side) for view in make_views(pixels, spec, digest, numbers)])
    except UnreadableImageError as error:
        raise PictureError(f"{location} cannot be read: {error}") from error
    except FileNotFoundError as error:
        raise PictureError(
            f"{location} does not exist. Give the folder or the CSV that the images were taken from."
        ) from error
    except OSError as error:
        raise PictureError(f"{location} cannot be read: {error.strerror or error}") from error
