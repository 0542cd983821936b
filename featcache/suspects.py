"""Which images are suspicious: near duplicates, outliers, wrong labels, classes that overlap. Functions of arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.metrics import confusion_matrix, wilson_interval

K = 10  # neighbours that are looked at
_BLOCK_BYTES = 2**25  # of similarities
_CHANCE = 0.02  # of one false alarm in a whole set without duplicates; the likest photos of ants and bees have 0.1
_FAR, _FAINT = 5.0, -4.0  # robust z; good photos and digits stay below 3.6 and above -3.2
_OVERLAP = 0.2  # confused, of the images of two classes; half are where nothing tells them apart


class Near(NamedTuple):
    """The k nearest others of each of n rows, by the direction from the mean of all, and how far others are.

    row : (n, k), the nearest first. chord : (n, k), between the directions, 0 to 2. away : (n,), mean Euclidean
    distance to the k rows nearest by it. norm : (n,), of the rows themselves.
    """

    row: NDArray[np.int64]
    chord: NDArray[np.float64]
    away: NDArray[np.float64]
    norm: NDArray[np.float64]


class Pair(NamedTuple):
    """Two rows that lie nearer to each other than chance explains. cosine : of their directions from the mean."""

    first: int
    second: int
    cosine: float


def find_near(x: NDArray[np.float32], k: int = K) -> Near:
    """The neighbours of each row of x (n, d), n > k; rows are compared a block at a time."""
    norm = np.linalg.norm(x, axis=1).astype(np.float64)
    centred = x - x.mean(axis=0, dtype=np.float64).astype(np.float32)
    squares = np.einsum("nd,nd->n", centred, centred)
    lengths = np.maximum(np.sqrt(squares), np.finfo(np.float32).tiny)
    n = len(x)
    row, chord, away = np.empty((n, k), np.int64), np.empty((n, k)), np.empty(n)
    step = max(1, _BLOCK_BYTES // (4 * n))
    for start in range(0, n, step):
        here = slice(start, min(n, start + step))
        products = centred[here] @ centred.T
        own = np.arange(here.stop - start), np.arange(start, here.stop)
        distance = squares[here, None] + squares - 2 * products
        distance[own] = np.inf
        nearest = np.partition(distance, k - 1, axis=1)[:, :k]
        away[here] = np.sqrt(np.maximum(nearest, 0)).mean(axis=1)
        products /= lengths[here, None] * lengths
        products[own] = -np.inf
        most = np.argpartition(-products, k - 1, axis=1)[:, :k]
        cosine = np.take_along_axis(products, most, axis=1)
        order = np.lexsort((most, -cosine), axis=1)
        row[here] = np.take_along_axis(most, order, axis=1)
        cosine = np.take_along_axis(cosine, order, axis=1)
        chord[here] = np.sqrt(np.maximum(2 - 2 * cosine.astype(np.float64), 0))
    return Near(row, chord, away, norm)


def near_duplicates(near: Near) -> list[Pair]:
    """Pairs that lie much nearer than their other neighbours let expect, the nearest first.

    Among m-dimensional, locally even neighbours (chord_1 / chord_k)^m is the least of k - 1 uniform numbers; m is
    estimated from the set itself, by the same ratios (Levina and Bickel 2004; Facco et al. 2017). A pair is named where
    one set of this size in 50 has so small a ratio, the geometric mean of both rows' chances. So a set of pictures that
    are all alike (digits) has no duplicates, and photos that were cropped, recompressed, mirrored or brightened do.
    """
    n, k = near.chord.shape
    chord = np.maximum(near.chord, 1e-3)  # less is rounding of float32
    logs = np.log(chord[:, -1:] / chord[:, 1:-1]).mean(axis=1)
    dimension = float(np.median(1 / np.maximum(logs, 1e-3)))
    chance = (k - 1) * (chord / chord[:, -1:]) ** dimension
    small = {
        (int(row), int(near.row[row, place])): (chance[row, place], near.chord[row, place])
        for row, place in np.argwhere(chance < 1 / n)
    }
    pairs = [
        Pair(a, b, 1 - float(chord) ** 2 / 2)
        for (a, b), (here, chord) in small.items()
        if a < b and (b, a) in small and here * small[b, a][0] < (_CHANCE / n) ** 2
    ]
    return sorted(pairs, key=lambda pair: (-pair.cosine, pair.first, pair.second))


def robust_z(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances from the median in standard deviations of a normal distribution, told by the median deviation."""
    from_median = values - np.median(values)
    spread = 1.4826 * float(np.median(np.abs(from_median)))
    return np.asarray(from_median / max(spread, 1e-6), np.float64)


def find_outliers(near: Near) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Robust z of log distances to the neighbours, (n,); which rows are far from all others; which are faint.

    Faint rows have hardly any features: the network saw nothing, as in a blank picture.
    """
    tiny = np.finfo(np.float64).tiny
    far = robust_z(np.log(np.maximum(near.away, tiny)))
    faint = robust_z(np.log(np.maximum(near.norm, tiny)))
    return far, far > _FAR, faint < _FAINT


class Doubts(NamedTuple):
    """Rows whose label is doubted, the most doubted first. label : that they rather have. margin : 0 to 1."""

    row: NDArray[np.int64]
    label: NDArray[np.int64]
    margin: NDArray[np.float64]


def thresholds(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """How sure a head is of a class in its images on average, shape (c,); infinite for a class without images."""
    c = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=c)
    sums = np.bincount(labels, own, minlength=c)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)


def doubt_labels(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], sure: NDArray[np.float64] | None = None
) -> Doubts:
    """Labels that confident learning doubts (Northcutt, Jiang and Chuang 2021): it prunes by noise rate.

    An image counts as of the class whose probability is the largest of those that reach the class's threshold. These
    counts, the confident joint, say how many images of label i are of class j; so many, those with the largest
    margins p_j - p_i above 0, are named.

    Parameters
    ----------
    probabilities : shape (n, c), of images that the head was not trained on. labels : given ones, (n,).
    sure : see `thresholds`; None takes those of these images.
    """
    c = probabilities.shape[1]
    sure = thresholds(probabilities, labels) if sure is None else sure
    reached = np.where(probabilities >= sure, probabilities, -1.0)
    counted = reached.max(axis=1, initial=-1.0) >= 0
    joint = confusion_matrix(labels[counted], reached[counted].argmax(axis=1), c).astype(np.float64)
    counts = np.bincount(labels, minlength=c)
    joint *= (counts / np.maximum(joint.sum(axis=1), 1))[:, None]  # to all images, not those alone that are sure
    rather = probabilities.argmax(axis=1)
    margin = probabilities.max(axis=1, initial=0.0) - probabilities[np.arange(len(labels)), labels]
    rows = []
    for i, j in np.argwhere(np.round(joint) > 0).tolist():
        here = np.flatnonzero((labels == i) & (rather == j) & (i != j))
        rows.append(here[np.lexsort((here, -margin[here]))][: round(joint[i, j])])
    found = np.concatenate([np.empty(0, np.int64), *rows])
    found = found[np.lexsort((found, -margin[found]))]
    return Doubts(found, rather[found], margin[found])


class Overlap(NamedTuple):
    """Two classes that are confused. share : of their images that were given one of the two labels; low : at least."""

    first: int
    second: int
    share: float
    low: float


def overlaps(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> list[Overlap]:
    """Pairs of classes of which surely (95 %) more than a fifth is taken for the other, the worst first."""
    counts = confusion_matrix(labels, predicted, classes)
    found = []
    for a, b in np.argwhere(np.triu(counts + counts.T, 1)).tolist():
        confused = int(counts[a, b] + counts[b, a])
        total = confused + int(counts[a, a] + counts[b, b])
        low, _ = wilson_interval(confused, total)
        if low > _OVERLAP:
            found.append(Overlap(a, b, confused / total, low))
    return sorted(found, key=lambda one: -one.low)


def gain(probabilities: NDArray[np.float64], labels: NDArray[np.int64], other: Any = None) -> tuple[float, float]:
    """How much less a head errs than another, (share of the other's log-loss that is gone, z of the difference).

    other : probabilities (n, c) of another head for the same images; None takes the shares of the classes.
    """
    rows, least = np.arange(len(labels)), 1e-12
    if other is None:
        other = np.tile(np.bincount(labels, minlength=probabilities.shape[1]) / len(labels), (len(labels), 1))
    before = -np.log(np.maximum(other[rows, labels], least))
    less = before + np.log(np.maximum(probabilities[rows, labels], least))
    error = max(float(less.std()), 1e-9) / np.sqrt(len(less))
    return float(less.mean() / max(float(before.mean()), least)), float(less.mean()) / error
