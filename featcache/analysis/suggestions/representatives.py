"""`choose_representatives`: few rows of a matrix to which all other rows are similar, by greedy facility location."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache._utils.blockwise import iter_blocks
from featcache._utils.progress_bar import Progress

_BLOCK_BYTES = 2**26  # of similarities


class Representatives(NamedTuple):
    """Chosen rows, the most useful first.

    rows : (k,), int64. members : (k,), int64, how many rows are more similar to this one than to any other chosen row,
    and than they were to the rows that were known before.
    """

    rows: NDArray[np.int64]
    members: NDArray[np.int64]


def choose_representatives(
    x: NDArray[np.float32],
    weights: NDArray[np.float32],
    known: NDArray[np.float32],
    k: int,
    progress: Progress | None = None,
) -> Representatives:
    """The k rows that raise the sum of weight x similarity to the nearest known or chosen row most, one after another.

    This is greedy facility location. It reaches at least 63 % of the highest possible gain, as that is a submodular
    function (Nemhauser, Wolsey and Fisher 1978); Wei, Iyer and Bilmes (2015, "Submodularity in data subset selection
    and active learning") choose samples to label by it. Gains only fall from one choice to the next, so most of them
    are not computed again (Minoux 1978). The choice is that of computing them all. The similarities of all pairs are
    kept in memory: 4 n^2 bytes.

    Parameters
    ----------
    x : ndarray, shape (n, d), float32
        Rows of length 1, see `unit_rows`; similarity is their inner product.
    weights : ndarray, shape (n,), float32
        How much it matters that a row has a similar one; 0 or more.
    known : ndarray, shape (m, d), float32
        Rows that are known already, of length 1; m may be 0.
    k : int
        At most n.
    progress : callable, optional
        Called with "compare samples".
    """
    n = len(x)
    nearest = _nearest(x, known)
    similarities, gains = np.empty((n, n), np.float32), np.empty(n, np.float64)
    for block in iter_blocks(n, x.itemsize * n, _BLOCK_BYTES):
        np.matmul(x[block], x.T, out=similarities[block])
        gains[block] = _gains(similarities[block], nearest, weights)
        if progress:
            progress("compare samples", block.stop, n)
    rows: list[int] = []
    owner = np.full(n, -1)
    for number in range(k):
        row, similarity = _best(similarities, weights, nearest, gains)
        rows.append(row)
        gains[row] = -np.inf
        is_nearer = similarity > nearest
        owner[is_nearer] = number
        nearest[is_nearer] = similarity[is_nearer]
        owner[row] = number
    return Representatives(np.array(rows, np.int64), np.bincount(owner[owner >= 0], minlength=k))


def _nearest(x: NDArray[np.float32], known: NDArray[np.float32]) -> NDArray[np.float32]:
    """The similarity of each row to the nearest known row; -1, the least cosine, without known rows."""
    nearest = np.full(len(x), -1, np.float32)
    for block in iter_blocks(len(known), x.itemsize * len(x), _BLOCK_BYTES):
        np.maximum(nearest, (known[block] @ x.T).max(axis=0), out=nearest)
    return nearest


def _gains(
    similarities: NDArray[np.float32], nearest: NDArray[np.float32], weights: NDArray[np.float32]
) -> NDArray[np.float64]:
    """The gain of each of b rows, from its similarities to all rows, shape (b, n)."""
    nearer = similarities - nearest
    np.maximum(nearer, 0, out=nearer)
    return (nearer @ weights).astype(np.float64)


def _best(
    similarities: NDArray[np.float32],
    weights: NDArray[np.float32],
    nearest: NDArray[np.float32],
    gains: NDArray[np.float64],
) -> tuple[int, NDArray[np.float32]]:
    """The row with the highest gain, and its similarities. `gains` holds upper bounds, and is brought up to date."""
    current = -1
    while (row := int(gains.argmax())) != current:
        current = row
        gains[row] = _gains(similarities[row : row + 1], nearest, weights)[0]
    return current, similarities[current]
