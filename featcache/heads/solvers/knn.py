"""k nearest neighbours by cosine: votes for images that are left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    x = np.asarray(x, np.float32)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    found = {k: np.zeros((len(rows), classes)) for k in ks}
    step = max(1, _BLOCK_BYTES // (4 * n))
    for start in range(0, len(rows), step):
        places = np.arange(start, min(len(rows), start + step))
        some = rows[places]
        near = x[some] @ x.T
        near[fold[some][:, None] == fold] = -np.inf
        most = np.argpartition(-near, ks[-1] - 1, axis=1)[:, : ks[-1]]
        order = np.argsort(-np.take_along_axis(near, most, axis=1), axis=1, kind="stable")
        nearest = labels[np.take_along_axis(most, order, axis=1)]
        for k in ks:
            for place in range(k):
                found[k][places, nearest[:, place]] += 1
        if start + step < len(rows) and stop():
            return None
    return {k: counts / k for k, counts in found.items()}
