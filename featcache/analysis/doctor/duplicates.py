"""Duplicates, near duplicates and outliers: images that are too similar, or too different."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache._utils.blockwise import iter_similarities
from featcache._utils.formatting import plural, printable
from featcache.analysis.doctor.findings import Check, Issue, IssueExample, Severity, name_row
from featcache.core.samples import Samples

K = 10  # nearest neighbours of an image
_FAR_NEIGHBOR = 50  # dense groups are compared with the distance to this neighbour; a kind of picture has more members
_BLOCK_BYTES = 2**25  # of similarities
_FALSE_ALARMS = 0.02  # expected per data set without duplicates; the most similar photos of ants and bees have 0.1
_FAR_Z, _LOW_NORM_Z = 5.0, -4.0  # robust z; good photos and digits stay below 3.6 and above -3.2


def check_alike(x: NDArray[np.float32], samples: Samples, images: int, collapsed: bool) -> list[Check]:
    """Near duplicates and outliers.

    x : clean features (n, d) of the samples. images : number of images that the samples were drawn from. collapsed :
    whether all features are nearly equal.
    """
    drawn = f", drawn from {images}" if len(samples) < images else ""
    _, first = np.unique(samples.sha256, axis=0, return_index=True)  # exact duplicates are found by their hash
    first.sort()
    samples, n = samples.take(first), len(first)
    if collapsed or n <= 2 * K:
        are = "is" if n == 1 else "are"
        reason = "the features are nearly equal" if collapsed else f"{plural(n, 'image')} {are} too few"
        return [Check(name, f"not checked: {reason}", ran=False) for name in ("duplicates", "outliers")]
    neighbors = find_near(x[first])
    pairs = near_duplicates(neighbors)
    issues = _pair_issues(
        samples,
        pairs,
        ("near duplicates across splits", "warning", "near duplicates"),
        ("near duplicates with other labels", "warning", "near duplicates"),
        ("near duplicates", "note", "near duplicates"),
    )
    summary = f"{plural(len(pairs), 'pair')} of near duplicates among {n} images{drawn}"
    z, far, low_norm = find_outliers(neighbors)
    return [
        Check("duplicates", summary, tuple(issues)),
        Check(
            "outliers",
            f"{plural(int((far | low_norm).sum()), 'outlier')} among {n} images{drawn}",
            tuple(_outlier_issues(samples, z, far, low_norm)),
        ),
    ]


def _outlier_issues(
    samples: Samples, z: NDArray[np.float64], far: NDArray[np.bool_], low_norm: NDArray[np.bool_]
) -> list[Issue]:
    """Images that are far from all others, and images with almost no features, as issues."""
    remedy = "Check them (-o FILE.png with DATA): remove images that do not belong, add more of those that do."
    issues = []
    for mask, kind, singular, several in (
        (far, "outliers", "is far from all other images", "are far from all other images"),
        (low_norm, "blank", "has almost no features", "have almost no features"),
    ):
        order = np.flatnonzero(mask)[np.argsort(-z[mask], kind="stable")]
        if len(order):
            examples = tuple(name_row(samples, row, score=z[row]) for row in order.tolist())
            what = f"{plural(len(order), 'image')} {singular if len(order) == 1 else several}"
            issues.append(Issue(kind, "note", what, remedy, examples))
    return issues


def find_copies(samples: Samples, pairs: Iterable[tuple[int, int]]) -> list[Issue]:
    """Pairs of rows with equal bytes as issues."""
    return _pair_issues(
        samples,
        [(a, b, 1.0) for a, b in pairs],
        ("copies across splits", "error", "exact duplicates"),
        ("copies with other labels", "warning", "exact duplicates"),
        ("copies", "note", "exact duplicates"),
    )


def find_shared_groups(samples: Samples) -> list[Issue]:
    """Groups with images in train and in another split, as an issue with one image of each group."""
    shared = samples.shared_groups()
    if not shared:
        return []
    names = ", ".join(printable(name) for name, _, _ in shared[:5]) + (", ..." if len(shared) > 5 else "")
    have = "has" if len(shared) == 1 else "have"
    what = f"{plural(len(shared), 'group')} {have} images in train and in val or test: {names}"
    remedy = "Images of a group are similar, so their accuracy is too high: keep each group in one split."
    images = tuple(name_row(samples, other, other=row) for _, row, other in shared)
    return [Issue("groups across splits", "error", what, remedy, images)]


_Kind = tuple[str, Severity, str]


def _pair_issues(
    samples: Samples, pairs: Iterable[tuple[int, int, float]], leak: _Kind, conflict: _Kind, harmless: _Kind
) -> list[Issue]:
    """Pairs (row, row, cosine) as issues: across splits, with different labels, and the others."""
    examples: dict[str, list[IssueExample]] = {leak[0]: [], conflict[0]: [], harmless[0]: []}
    for a, b, cosine in pairs:
        crosses, differs = samples.split[a] != samples.split[b], np.any(samples.labels[a] != samples.labels[b])
        for kind, applies in ((leak[0], crosses), (conflict[0], differs), (harmless[0], not (crosses or differs))):
            if applies:
                examples[kind].append(name_row(samples, b, other=a, score=cosine))
    remedies = {
        leak[0]: "Their accuracy is meaningless: keep both images of a pair in one split.",
        conflict[0]: "One of the two labels is wrong: check both images, and keep one.",
        harmless[0]: "Usually harmless. Of many duplicates keep one, otherwise they have too much weight.",
    }
    return [
        Issue(kind, severity, f"{plural(len(examples[kind]), 'pair')} of {what}", remedies[kind], tuple(examples[kind]))
        for kind, severity, what in (leak, conflict, harmless)
        if examples[kind]
    ]


class Neighbors(NamedTuple):
    """The k nearest neighbours of each of n rows, by the direction from the mean of all rows.

    row : (n, k), the nearest first. chord : (n, k), distance of the directions, 0 to 2. far_chord : (n,), that of the
    50th neighbour, or the last if there are fewer. distance : (n,), mean Euclidean distance to the k rows nearest by
    it. norm : (n,), of the rows.
    """

    row: NDArray[np.int64]
    chord: NDArray[np.float64]
    far_chord: NDArray[np.float64]
    distance: NDArray[np.float64]
    norm: NDArray[np.float64]


class Pair(NamedTuple):
    """Two rows that are more similar than chance explains; cosine : of their directions from the mean."""

    first: int
    second: int
    cosine: float


def find_near(x: NDArray[np.float32], k: int = K) -> Neighbors:
    """The neighbours of each row of x (n, d), n > k, computed in blocks of rows."""
    norm = np.linalg.norm(x, axis=1).astype(np.float64)
    centered = x - x.mean(axis=0, dtype=np.float64).astype(np.float32)
    squares = np.einsum("nd,nd->n", centered, centered)
    lengths = np.maximum(np.sqrt(squares), np.finfo(np.float32).tiny)
    n = len(x)
    far = min(max(k, _FAR_NEIGHBOR), n - 1)
    row, chord, far_chord, distance = np.empty((n, k), np.int64), np.empty((n, k)), np.empty(n), np.empty(n)
    for block, products in iter_similarities(centered, np.arange(n), _BLOCK_BYTES):
        diagonal = np.arange(len(products)), np.arange(block.start, block.stop)
        squared = squares[block, None] + squares - 2 * products
        squared[diagonal] = np.inf
        nearest = np.partition(squared, k - 1, axis=1)[:, :k]
        distance[block] = np.sqrt(np.maximum(nearest, 0)).mean(axis=1)
        products /= lengths[block, None] * lengths
        products[diagonal] = -np.inf
        similar = np.argpartition(-products, sorted({k - 1, far - 1}), axis=1)[:, :far]
        far_chord[block] = _chord(np.take_along_axis(products, similar[:, -1:], axis=1)[:, 0])
        similar = similar[:, :k]
        cosine = np.take_along_axis(products, similar, axis=1)
        order = np.lexsort((similar, -cosine), axis=1)
        row[block] = np.take_along_axis(similar, order, axis=1)
        chord[block] = _chord(np.take_along_axis(cosine, order, axis=1))
    return Neighbors(row, chord, far_chord, distance, norm)


def _chord(cosine: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(np.maximum(2 - 2 * cosine.astype(np.float64), 0)))


def near_duplicates(neighbors: Neighbors) -> list[Pair]:
    """Pairs that are much more similar than their other neighbours lead one to expect, the most similar first.

    Among m-dimensional, locally uniform neighbours (chord_1 / chord_k)^m is distributed as the minimum of k - 1 uniform
    numbers; the same ratios give the dimension m of the data set (Levina and Bickel 2004; Facco et al. 2017). A pair
    is reported if only one data set of this size in 50 has so small a ratio, by the geometric mean of both rows'
    probabilities. So a set of similar pictures (digits) has no duplicates, and photos that were cropped, recompressed,
    mirrored or brightened have.

    In a larger group, such as a burst or the frames of a video, the kth neighbour is near as well. If only one data set
    in 50 has it that near, compared with what is usual in the set and with the 50th neighbour (a dense kind of picture,
    such as digits among photos, has more than 50 members), these two give the expected distance. Groups of more than 50
    images are not found, nor are groups if most images belong to one.
    """
    n, k = neighbors.chord.shape
    chord = np.maximum(neighbors.chord, 1e-3)  # a smaller one is rounding of float32
    logs = np.log(chord[:, -1:] / chord[:, 1:-1]).mean(axis=1)
    dimension = float(np.median(1 / np.maximum(logs, 1e-3)))
    usual = np.minimum(np.median(chord[:, -1]), np.maximum(neighbors.far_chord, 1e-3))
    in_group = (k - 1) * (chord[:, -1] / usual) ** dimension < _FALSE_ALARMS / n**2
    expected = np.where(in_group, usual, chord[:, -1])
    probability = (k - 1) * (chord / expected[:, None]) ** dimension
    improbable = {
        (int(row), int(neighbors.row[row, rank])): (probability[row, rank], neighbors.chord[row, rank])
        for row, rank in np.argwhere(probability < 1 / n)
    }
    pairs = [
        Pair(a, b, 1 - float(chord) ** 2 / 2)
        for (a, b), (forward, chord) in improbable.items()
        if a < b and (b, a) in improbable and forward * improbable[b, a][0] < (_FALSE_ALARMS / n) ** 2
    ]
    return sorted(pairs, key=lambda pair: (-pair.cosine, pair.first, pair.second))


def robust_z(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances from the median in standard deviations of a normal distribution with this median deviation."""
    from_median = values - np.median(values)
    spread = 1.4826 * float(np.median(np.abs(from_median)))
    return np.asarray(from_median / max(spread, 1e-6), np.float64)


def find_outliers(neighbors: Neighbors) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Robust z of the log distances to the neighbours (n,); the rows that are far from all others; those of low norm.

    A row of low norm has almost no features, as of a blank picture.
    """
    tiny = np.finfo(np.float64).tiny
    distance_z = robust_z(np.log(np.maximum(neighbors.distance, tiny)))
    norm_z = robust_z(np.log(np.maximum(neighbors.norm, tiny)))
    return distance_z, distance_z > _FAR_Z, norm_z < _LOW_NORM_Z
