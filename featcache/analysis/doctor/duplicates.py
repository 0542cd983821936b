"""Duplicates, near duplicates and outliers: images that are too similar, or too different."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache._utils.formatting import capitalize, plural, printable
from featcache._utils.progress_bar import Progress
from featcache.analysis.doctor.findings import Check, Issue, IssueExample, Severity, name_row
from featcache.analysis.doctor.neighbors import K, Neighbors, find_near
from featcache.analysis.doctor.words import IMAGE_WORDS, Words
from featcache.core.samples import SPLITS, UNLABELED, Samples

_FALSE_ALARMS = 0.02  # expected per data set without duplicates; the most similar photos of ants and bees have 0.1
_FAR_Z, _LOW_NORM_Z = 5.0, -4.0  # robust z; good photos and digits stay below 3.6 and above -3.2


def check_alike(
    x: NDArray[np.float32],
    samples: Samples,
    images: int,
    collapsed: bool,
    progress: Progress | None = None,
    words: Words = IMAGE_WORDS,
) -> list[Check]:
    """Near duplicates and outliers.

    x : clean features (n, d) of the samples. images : number of images that the samples were drawn from. collapsed :
    whether all features are nearly equal.
    """
    _, first = np.unique(samples.contents, axis=0, return_index=True)  # copies are found by their hash
    n = len(first)
    if collapsed or n <= 2 * K:
        are = "is" if n == 1 else "are"
        reason = "the features are nearly equal" if collapsed else f"{plural(n, words.sample)} {are} too few"
        return [Check(name, f"not checked: {reason}", ran=False) for name in ("duplicates", "outliers")]
    drawn = f", drawn from {images}" if len(samples) < images else ""
    limits = [f"{n} of {images} {words.samples} were compared"] if drawn else []
    neighbors = find_near(x[first], progress=progress)  # in the order of the hashes
    if neighbors.compared < n - 1:
        compared = f"each {words.sample} was compared with {neighbors.compared} similar ones"
        limits.append(f"{compared}, so that a few may be missed")
    pairs = near_duplicates(neighbors)
    issues = _pair_issues(
        samples,
        [(int(min(first[[a, b]])), int(max(first[[a, b]])), cosine) for a, b, cosine in pairs],
        ("near duplicates across splits", "warning", "near duplicates"),
        ("near duplicates with other labels", "warning", "near duplicates"),
        ("near duplicates without a label", "note", "near duplicates, one of which has no label"),
        ("near duplicates", "note", "near duplicates"),
        words,
    )
    z, far, low_norm = find_outliers(neighbors)
    return [
        Check(
            "duplicates",
            f"{plural(len(pairs), 'pair')} of near duplicates among {n} {words.samples}{drawn}",
            tuple(issues),
            limits="; ".join(limits),
        ),
        Check(
            "outliers",
            f"{plural(int((far | low_norm).sum()), 'outlier')} among {n} {words.samples}{drawn}",
            tuple(_outlier_issues(samples.take(first), z, far, low_norm, words)),
            limits="; ".join(limits),
        ),
    ]


def _outlier_issues(
    samples: Samples, z: NDArray[np.float64], far: NDArray[np.bool_], low_norm: NDArray[np.bool_], words: Words
) -> list[Issue]:
    """Images that are far from all others, and images with almost no features, as issues."""
    remedy = f"Check them ({words.show}): remove {words.samples} that do not belong, add more of those that do."
    issues = []
    for mask, kind, singular, several in (
        (far, "outliers", f"is far from all other {words.samples}", f"are far from all other {words.samples}"),
        (low_norm, "blank", "has almost no features", "have almost no features"),
    ):
        order = np.flatnonzero(mask)[np.argsort(-z[mask], kind="stable")]
        if len(order):
            examples = tuple(name_row(samples, row, score=z[row]) for row in order.tolist())
            what = f"{plural(len(order), words.sample)} {singular if len(order) == 1 else several}"
            issues.append(Issue(kind, "note", what, remedy, examples))
    return issues


def find_copies(samples: Samples, pairs: Iterable[tuple[int, int]], words: Words = IMAGE_WORDS) -> list[Issue]:
    """Pairs of rows with equal content as issues."""
    return _pair_issues(
        samples,
        [(a, b, 1.0) for a, b in pairs],
        ("copies across splits", "error", words.copies),
        ("copies with other labels", "warning", words.copies),
        ("copies without a label", "note", f"{words.copies}, one of which has no label"),
        ("copies", "note", words.copies),
        words,
    )


def find_shared_groups(samples: Samples, words: Words = IMAGE_WORDS) -> list[Issue]:
    """Groups with images in train and in another split, as an issue with one image of each group."""
    shared = samples.shared_groups()
    if not shared:
        return []
    names = ", ".join(printable(name) for name, _, _ in shared[:5]) + (", ..." if len(shared) > 5 else "")
    have = "has" if len(shared) == 1 else "have"
    what = f"{plural(len(shared), 'group')} {have} {words.samples} in train and in val or test: {names}"
    similar = f"{capitalize(words.samples)} of a group are similar"
    remedy = f"{similar}, so their accuracy is too high: keep each group in one split."
    images = tuple(name_row(samples, other, other=row) for _, row, other in shared)
    return [Issue("groups across splits", "error", what, remedy, images)]


_Kind = tuple[str, Severity, str]


def _pair_issues(
    samples: Samples,
    pairs: Iterable[tuple[int, int, float]],
    leak: _Kind,
    conflict: _Kind,
    half_labeled: _Kind,
    harmless: _Kind,
    words: Words,
) -> list[Issue]:
    """Pairs (row, row, cosine) as issues: across splits, with different labels, with one label, and the others."""
    kinds = (leak, conflict, half_labeled, harmless)
    examples: dict[str, list[IssueExample]] = {kind: [] for kind, *_ in kinds}
    unlabeled = SPLITS.index(UNLABELED)
    for a, b, cosine in pairs:
        crosses, differs = samples.split[a] != samples.split[b], np.any(samples.labels[a] != samples.labels[b])
        waits = crosses and unlabeled in (samples.split[a], samples.split[b])
        applies = (crosses and not waits, differs and not waits, waits, not (crosses or differs))
        for (kind, *_), does_apply in zip(kinds, applies, strict=True):
            if does_apply:
                examples[kind].append(name_row(samples, b, other=a, score=cosine))
    remedies = {
        leak[0]: f"Their accuracy is meaningless: keep both {words.samples} of a pair in one split.",
        conflict[0]: f"One of the two labels is wrong: check both {words.samples}, and keep one.",
        half_labeled[0]: f"Give both {words.samples} of a pair the same label, and keep them in one split.",
        harmless[0]: "Usually harmless. Of many duplicates keep one, otherwise they have too much weight.",
    }
    return [
        Issue(kind, severity, f"{plural(len(examples[kind]), 'pair')} of {what}", remedies[kind], tuple(examples[kind]))
        for kind, severity, what in kinds
        if examples[kind]
    ]


class Pair(NamedTuple):
    """Two rows that are more similar than chance explains; cosine : of their directions from the mean."""

    first: int
    second: int
    cosine: float


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
    in_group = (k - 1) * np.minimum(chord[:, -1] / usual, 1) ** dimension < _FALSE_ALARMS / n**2
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
