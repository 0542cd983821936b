"""k nearest neighbours by cosine: votes for images that are left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.blockwise import iter_similarities, nearest_columns, unit_rows

KS = (1, 3, 5, 10, 20, 50)
_BLOCK_BYTES = 2**26  # of similarities


def knn_probabilities(
    x: NDArray[Any],
    labels: NDArray[np.int64],
    fold: NDArray[np.int64],
    rows: NDArray[np.int64],
    classes: int,
    stop: Callable[[], bool] = lambda: False,
) -> dict[int, NDArray[np.float64]] | None:
    """The share of each class among the k nearest images of other folds, for each k of KS; None where `stop` says so.

    A k for which not every image has as many neighbours is left out.

    Parameters
    ----------
    x : shape (n, d). labels, fold : (n,). rows : (m,), the images to vote for. classes : their number, c.

    Returns
    -------
    k -> shape (m, c), rows that sum to 1.
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
