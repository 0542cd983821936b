"""`assign_folds`: which images cross-validation leaves out together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featcache.rng import content_order

NEVER = -1  # the fold of images that are always trained on


def assign_folds(labels: NDArray[np.int64], sha256: NDArray[np.uint8], k: int, seed: int = 0) -> NDArray[np.int64]:
    """A fold from 0 to k - 1 for each image, shape (n,), int64; each class is spread evenly.

    Images with equal bytes share a fold. The distinct images of a class, ordered by content, are dealt in turn, so
    that every fold leaves some of each class to train on; a class with one distinct image is never left out (NEVER).

    Parameters
    ----------
    labels : shape (n,). sha256 : shape (n, 32), uint8, of the images' bytes. k : 2 or more.
    """
    _, first, group = np.unique(sha256, axis=0, return_index=True, return_inverse=True)
    owner = labels[first]
    order = content_order(sha256[first], seed, "fold")
    order = order[np.argsort(owner[order], kind="stable")]
    fold = np.empty(len(first), np.int64)
    fold[order] = np.arange(len(first)) % k
    fold[np.bincount(owner)[owner] == 1] = NEVER
    return fold[group.reshape(-1)]
