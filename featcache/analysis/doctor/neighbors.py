"""`find_near`: the nearest neighbours of each row, among all rows or in groups of similar rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache._utils.blockwise import iter_similarities
from featcache._utils.progress_bar import Progress

K = 10  # nearest neighbours of an image
_FAR_NEIGHBOR = 50  # dense groups are compared with the distance to this neighbour; a kind of picture has more members
_BLOCK_BYTES = 2**25  # of similarities
_MOST_EXACT = 6000  # rows that are all compared with each other, in two seconds on a core
_GROUPINGS, _GROUP_ROWS = 4, 512  # of more rows: so often they are divided into groups of so many rows or fewer


class Neighbors(NamedTuple):
    """The k nearest neighbours of each of n rows, by the direction from the mean of all rows.

    row : (n, k), the nearest first. chord : (n, k), distance of the directions, 0 to 2. far_chord : (n,), that of the
    50th neighbour, or the last if there are fewer. distance : (n,), mean Euclidean distance to the k nearest by it of
    these 50 neighbours. norm : (n,), of the rows. compared : the number of comparisons of a row with others, some of
    which may be the same.
    """

    row: NDArray[np.int64]
    chord: NDArray[np.float64]
    far_chord: NDArray[np.float64]
    distance: NDArray[np.float64]
    norm: NDArray[np.float64]
    compared: int


class _Similar(NamedTuple):
    """Other rows (n, far) that each row is similar to, in no order, and their cosines; -inf for none."""

    row: NDArray[np.int32]
    cosine: NDArray[np.float32]


def comparisons(n: int) -> int:
    """Upper bound of the number of pairs of rows that `find_near` compares, each in both orders."""
    return n * min(n, _GROUPINGS * _GROUP_ROWS) if n > _MOST_EXACT else n * n


def find_near(x: NDArray[np.float32], k: int = K, progress: Progress | None = None) -> Neighbors:
    """The neighbours of each row of x, shape (n, d), n > k.

    Up to 6,000 rows are all compared with each other. More are divided into groups of similar rows, four times in
    different ways, and compared within their groups. A row is divided from another one by chance, the more rarely the
    more similar they are, so that duplicates are hardly ever divided four times.

    x : rows in an order that does not depend on where they are stored; the groups depend on it.
    progress : called after each block of rows.
    """
    n = len(x)
    norm = np.linalg.norm(x, axis=1).astype(np.float64)
    directions = x - x.mean(axis=0, dtype=np.float64).astype(np.float32)
    lengths = np.maximum(np.linalg.norm(directions, axis=1), np.finfo(np.float32).tiny)
    directions /= lengths[:, None]
    repeats, done = 1 if n <= _MOST_EXACT else _GROUPINGS, 0
    similar = _empty(n, min(max(k, _FAR_NEIGHBOR), n - 1))
    for number in range(repeats):
        groups = [np.arange(n)] if repeats == 1 else _divide(directions, np.random.default_rng(number))
        for group in groups:
            for rows, found in _compare(directions, group, similar.row.shape[1]):
                _merge(similar, rows, found)
                done += len(rows)
                if progress:
                    progress("compare", done, repeats * n)
    order = np.lexsort((similar.row, -similar.cosine), axis=1)
    row, cosine = (np.take_along_axis(values, order, axis=1) for values in similar)
    squared = lengths[:, None] ** 2 + lengths[row] ** 2 - 2 * cosine * lengths[:, None] * lengths[row]
    nearest = np.partition(squared.astype(np.float64), k - 1, axis=1)[:, :k]
    distance = np.sqrt(np.maximum(nearest, 0)).mean(axis=1)
    chord, compared = _chord(cosine), repeats * (max(map(len, groups)) - 1)
    return Neighbors(row[:, :k].astype(np.int64), chord[:, :k], chord[:, -1], distance, norm, compared)


def _empty(n: int, far: int) -> _Similar:
    return _Similar(np.zeros((n, far), np.int32), np.full((n, far), -np.inf, np.float32))


def _compare(
    directions: NDArray[np.float32], group: NDArray[np.int64], far: int
) -> Iterator[tuple[NDArray[np.int64], _Similar]]:
    """Blocks of a group's rows with the rows of the group that they are most similar to."""
    members = directions if len(group) == len(directions) else directions[group]
    for block, cosine in iter_similarities(members, np.arange(len(group)), _BLOCK_BYTES):
        cosine[np.arange(len(cosine)), np.arange(block.start, block.stop)] = -np.inf
        nearest = np.argpartition(cosine, -far, axis=1)[:, -far:]
        yield group[block], _Similar(group[nearest].astype(np.int32), np.take_along_axis(cosine, nearest, axis=1))


def _merge(similar: _Similar, rows: NDArray[np.int64], found: _Similar) -> None:
    """Keep the most similar ones of those that were known of some rows and those that were found; each counts once."""
    far = similar.row.shape[1]
    row, cosine = (np.hstack([known[rows], new]) for known, new in zip(similar, found, strict=True))
    if np.isfinite(similar.cosine[rows[0], 0]):  # the rows were in another group before
        order = np.argsort(row, axis=1)
        row, cosine = np.take_along_axis(row, order, axis=1), np.take_along_axis(cosine, order, axis=1)
        cosine[:, 1:][row[:, 1:] == row[:, :-1]] = -np.inf
    best = np.argpartition(cosine, -far, axis=1)[:, -far:]
    similar.row[rows] = np.take_along_axis(row, best, axis=1)
    similar.cosine[rows] = np.take_along_axis(cosine, best, axis=1)


def _divide(directions: NDArray[np.float32], rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Halve all rows, and the halves again, until no group is too large.

    The rows of a group are ordered by their projection on the difference of two of them.
    """
    groups = [np.arange(len(directions))]
    while len(groups[0]) > _GROUP_ROWS:
        two = np.stack([rng.choice(rows, 2, replace=False) for rows in groups])
        projections = directions @ (directions[two[:, 0]] - directions[two[:, 1]]).T
        halves = []
        for number, rows in enumerate(groups):
            order = np.argpartition(projections[rows, number], len(rows) // 2)
            middle = (len(rows) + 1) // 2  # the first half is never the smaller one
            halves += [rows[order[:middle]], rows[order[middle:]]]
        groups = halves
    return groups


def _chord(cosine: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(np.maximum(2 - 2 * cosine.astype(np.float64), 0)))
