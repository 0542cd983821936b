"""`knn_probabilities`: votes of the k nearest neighbors by cosine, for held-out images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.blockwise import iter_similarities, nearest_columns, unit_rows
from featcache.heads.solvers.path import Stop, never

KS = (1, 3, 5, 10, 20, 50)
_BLOCK_BYTES = 2**26  # of similarities


def knn_probabilities(
    x: NDArray[Any],
    labels: NDArray[np.int64],
    fold: NDArray[np.int64],
    rows: NDArray[np.int64],
    classes: int,
    stop: Stop = never,
) -> dict[int, NDArray[np.float64]] | None:
    """The fraction of each class among the k nearest images of other folds, for each k of `KS`.

    Parameters
    ----------
    x : ndarray, shape (n, d)
        Features of all images.
    labels, fold : ndarray, shape (n,)
        Their classes and folds.
    rows : ndarray, shape (m,)
        The images to vote for.
    classes : int
        The number of classes, c.
    stop : callable
        Whether the time is over.

    Returns
    -------
    dict of k to ndarray, shape (m, c), or None
        Without those k for which an image has fewer neighbors; None if `stop` returned True.
    """
    n = len(x)
    ks = [k for k in KS if k <= n - np.unique(fold[rows], return_counts=True)[1].max()] if len(rows) else []
    if not ks:
        return {}
    votes = {k: np.zeros((len(rows), classes)) for k in ks}
    for block, similarities in iter_similarities(unit_rows(x), rows, _BLOCK_BYTES):
        similarities[fold[rows[block]][:, None] == fold] = -np.inf
        nearest = labels[nearest_columns(similarities, ks[-1])]
        positions = np.arange(block.start, block.stop)
        for k in ks:
            for rank in range(k):
                votes[k][positions, nearest[:, rank]] += 1
        if block.stop < len(rows) and stop():
            return None
    return {k: counts / k for k, counts in votes.items()}
