"""Images that are alike, and images that are like no other: copies, near duplicates, outliers, as findings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache._utils.formatting import printable
from featcache.analysis.doctor.findings import Check, Issue, IssueExample, Severity, name_row
from featcache.core.samples import Samples

K = 10  # neighbours that are looked at
_FAR_OFF = 50  # the neighbour that groups of alike images are held against; a kind of picture has more
_BLOCK_BYTES = 2**25  # of similarities
_CHANCE = 0.02  # of one false alarm in a whole set without duplicates; the likest photos of ants and bees have 0.1
_FAR, _FAINT = 5.0, -4.0  # robust z; good photos and digits stay below 3.6 and above -3.2


def check_alike(x: NDArray[np.float32], samples: Samples, images: int, collapsed: bool) -> list[Check]:
    """Near duplicates and outliers.

    x : clean features (n, d) of samples. images : of which they are. collapsed : whether all features are alike.
    """
    part_of = len(samples)
    _, first = np.unique(samples.sha256, axis=0, return_index=True)  # copies are told by their bytes
    first.sort()
    samples, n = samples.take(first), len(first)
    if collapsed or n <= 2 * K:
        why = "the features are all alike" if collapsed else f"{n} images are too few"
        return [Check(name, f"not looked for: {why}", looked=False) for name in ("duplicates", "outliers")]
    near = find_near(x[first])
    part = f", by lot of {images}" if part_of < images else ""
    pairs = near_duplicates(near)
    found = _twins(
        samples,
        pairs,
        ("near duplicates across splits", "warning", "near duplicates"),
        ("near duplicates with other labels", "warning", "near duplicates"),
        ("near duplicates", "note", "near duplicates"),
    )
    said = f"{len(pairs)} pairs of {n} images{part} are nearly the same"
    far, away, faint = find_outliers(near)
    strange = [(away, "outliers", "far from all other images"), (faint, "blank", "hardly seen by the network")]
    lonely = []
    for rows, kind, what in strange:
        order = np.flatnonzero(rows)[np.argsort(-far[rows], kind="stable")]
        if len(order):
            named = tuple(name_row(samples, row, score=far[row]) for row in order.tolist())
            todo = "Look at them (-o FILE.png with DATA): remove what does not belong, collect more of what does."
            lonely.append(Issue(kind, "note", f"{len(order)} images are {what}", todo, named))
    return [
        Check("duplicates", said, tuple(found)),
        Check("outliers", f"{int((away | faint).sum())} of {n} images{part} lie apart", tuple(lonely)),
    ]


def find_copies(samples: Samples, pairs: Iterable[tuple[int, int]]) -> list[Issue]:
    """Pairs of rows with equal bytes as findings."""
    return _twins(
        samples,
        [(a, b, 1.0) for a, b in pairs],
        ("copies across splits", "error", "copies"),
        ("copies with other labels", "warning", "copies"),
        ("copies", "note", "copies"),
    )


def find_shared_groups(samples: Samples) -> list[Issue]:
    """Groups that lie in train and in another split, as a finding; one image of each is named."""
    shared = samples.shared_groups()
    if not shared:
        return []
    names = ", ".join(printable(name) for name, _, _ in shared[:5]) + (", ..." if len(shared) > 5 else "")
    what = f"{len(shared)} groups have images in train and in val or test: {names}"
    todo = "Images of a group are alike, so the accuracy on them is too high: keep each group in one split."
    images = tuple(name_row(samples, other, other=row) for _, row, other in shared)
    return [Issue("groups across splits", "error", what, todo, images)]


_Kind = tuple[str, Severity, str]


def _twins(
    samples: Samples, pairs: Iterable[tuple[int, int, float]], leak: _Kind, conflict: _Kind, plain: _Kind
) -> list[Issue]:
    """Pairs (row, row, cosine) as findings: across splits, with other labels, and others."""
    sorted_out: dict[str, list[IssueExample]] = {leak[0]: [], conflict[0]: [], plain[0]: []}
    for a, b, cosine in pairs:
        crosses, differs = samples.split[a] != samples.split[b], np.any(samples.labels[a] != samples.labels[b])
        for kind, here in ((leak[0], crosses), (conflict[0], differs), (plain[0], not (crosses or differs))):
            if here:
                sorted_out[kind].append(name_row(samples, b, other=a, score=cosine))
    todo = {
        leak[0]: "The accuracy on them says nothing: keep each in one split.",
        conflict[0]: "One of the two labels is wrong: look at them, and keep one.",
        plain[0]: "Usually harmless; of many copies keep one, or its class counts them all.",
    }
    return [
        Issue(kind, severity, f"{len(sorted_out[kind])} pairs of {what}", todo[kind], tuple(sorted_out[kind]))
        for kind, severity, what in (leak, conflict, plain)
        if sorted_out[kind]
    ]


class Neighbors(NamedTuple):
    """The k nearest others of each of n rows, by the direction from the mean of all, and how far others are.

    row : (n, k), the nearest first. chord : (n, k), between the directions, 0 to 2. beyond : (n,), the chord to the
    50th other, or the last of fewer. away : (n,), mean Euclidean distance to the k rows nearest by it. norm : (n,), of
    the rows themselves.
    """

    row: NDArray[np.int64]
    chord: NDArray[np.float64]
    beyond: NDArray[np.float64]
    away: NDArray[np.float64]
    norm: NDArray[np.float64]


class Pair(NamedTuple):
    """Two rows that lie nearer to each other than chance explains. cosine : of their directions from the mean."""

    first: int
    second: int
    cosine: float


def find_near(x: NDArray[np.float32], k: int = K) -> Neighbors:
    """The neighbours of each row of x (n, d), n > k; rows are compared a block at a time."""
    norm = np.linalg.norm(x, axis=1).astype(np.float64)
    centred = x - x.mean(axis=0, dtype=np.float64).astype(np.float32)
    squares = np.einsum("nd,nd->n", centred, centred)
    lengths = np.maximum(np.sqrt(squares), np.finfo(np.float32).tiny)
    n = len(x)
    far_off = min(max(k, _FAR_OFF), n - 1)
    row, chord, beyond, away = np.empty((n, k), np.int64), np.empty((n, k)), np.empty(n), np.empty(n)
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
        most = np.argpartition(-products, sorted({k - 1, far_off - 1}), axis=1)[:, :far_off]
        beyond[here] = _chord(np.take_along_axis(products, most[:, -1:], axis=1)[:, 0])
        most = most[:, :k]
        cosine = np.take_along_axis(products, most, axis=1)
        order = np.lexsort((most, -cosine), axis=1)
        row[here] = np.take_along_axis(most, order, axis=1)
        chord[here] = _chord(np.take_along_axis(cosine, order, axis=1))
    return Neighbors(row, chord, beyond, away, norm)


def _chord(cosine: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(np.maximum(2 - 2 * cosine.astype(np.float64), 0)))


def near_duplicates(near: Neighbors) -> list[Pair]:
    """Pairs that lie much nearer than their other neighbours let expect, the nearest first.

    Among m-dimensional, locally even neighbours (chord_1 / chord_k)^m is the least of k - 1 uniform numbers; m is
    estimated from the set itself, by the same ratios (Levina and Bickel 2004; Facco et al. 2017). A pair is named where
    one set of this size in 50 has so small a ratio, the geometric mean of both rows' chances. So a set of pictures that
    are all alike (digits) has no duplicates, and photos that were cropped, recompressed, mirrored or brightened do.

    In a larger group, as of a burst or of a video's frames, the kth lies near, too. Where it lies so near that one set
    in 50 has such a pair, against what is usual in the set and against the 50th (a kind of picture that is denser than
    the rest, as digits among photos, has more than 50 that are alike), these two tell what to expect. A group of more
    than 50 is not found, nor is any where most images lie in groups.
    """
    n, k = near.chord.shape
    chord = np.maximum(near.chord, 1e-3)  # less is rounding of float32
    logs = np.log(chord[:, -1:] / chord[:, 1:-1]).mean(axis=1)
    dimension = float(np.median(1 / np.maximum(logs, 1e-3)))
    usual = np.minimum(np.median(chord[:, -1]), np.maximum(near.beyond, 1e-3))
    in_group = (k - 1) * (chord[:, -1] / usual) ** dimension < _CHANCE / n**2
    expected = np.where(in_group, usual, chord[:, -1])
    chance = (k - 1) * (chord / expected[:, None]) ** dimension
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


def find_outliers(near: Neighbors) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Robust z of log distances to the neighbours, (n,); which rows are far from all others; which are faint.

    Faint rows have hardly any features: the network saw nothing, as in a blank picture.
    """
    tiny = np.finfo(np.float64).tiny
    far = robust_z(np.log(np.maximum(near.away, tiny)))
    faint = robust_z(np.log(np.maximum(near.norm, tiny)))
    return far, far > _FAR, faint < _FAINT
