"""k nearest neighbours by cosine, with k chosen by leaving each image out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

KS = (1, 3, 5, 10, 20, 50)
_BLOCK_BYTES = 2**26  # of similarities


def votes(
    x: NDArray[Any],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    classes: int,
    stop: Callable[[], bool] = lambda: False,
) -> dict[int, NDArray[np.float64]] | None:
    """The share of each class among the k nearest other images, for each k of KS; None where `stop` says so.

    A k for which not every image has as many neighbours is left out.

    Parameters
    ----------
    x : shape (n, d). labels : (n,). groups : (n,), equal for images with equal bytes, which are no neighbours.

    Returns
    -------
    k -> shape (n, classes), rows that sum to 1.
    """
    n = len(x)
    ks = [k for k in KS if k <= n - np.bincount(groups).max()]
    if not ks:
        return {}
    x = np.asarray(x, np.float32)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    found = {k: np.zeros((n, classes)) for k in ks}
    step = max(1, _BLOCK_BYTES // (4 * n))
    for start in range(0, n, step):
        rows = np.arange(start, min(n, start + step))
        near = x[rows] @ x.T
        near[groups[rows][:, None] == groups] = -np.inf
        most = np.argpartition(-near, ks[-1] - 1, axis=1)[:, : ks[-1]]
        order = np.argsort(-np.take_along_axis(near, most, axis=1), axis=1, kind="stable")
        nearest = labels[np.take_along_axis(most, order, axis=1)]
        for k in ks:
            for place in range(k):
                found[k][rows, nearest[:, place]] += 1
        if stop():
            return None
    return {k: counts / k for k, counts in found.items()}
