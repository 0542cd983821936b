"""Images that are alike, and images that are like no other: copies, near duplicates, outliers, as findings."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from featcache.findings import Check, Finding, Severity, Suspect, name_row
from featcache.samples import Samples
from featcache.suspects import K, find_near, find_outliers, near_duplicates

_MANY_OUTLIERS = 0.05  # of the images: so many are no outliers


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
            severity: Severity = "warning" if len(order) > _MANY_OUTLIERS * n else "note"
            named = tuple(name_row(samples, row, score=far[row]) for row in order.tolist())
            todo = "Look at them (-o FILE.png with DATA): remove what does not belong, collect more of what does."
            lonely.append(Finding(kind, severity, f"{len(order)} images are {what}", todo, named))
    return [
        Check("duplicates", said, tuple(found)),
        Check("outliers", f"{int((away | faint).sum())} of {n} images{part} lie apart", tuple(lonely)),
    ]


def find_copies(samples: Samples, pairs: Iterable[tuple[int, int]]) -> list[Finding]:
    """Pairs of rows with equal bytes as findings."""
    return _twins(
        samples,
        [(a, b, 1.0) for a, b in pairs],
        ("copies across splits", "error", "copies"),
        ("copies with other labels", "warning", "copies"),
        ("copies", "note", "copies"),
    )


_Kind = tuple[str, Severity, str]


def _twins(
    samples: Samples, pairs: Iterable[tuple[int, int, float]], leak: _Kind, conflict: _Kind, plain: _Kind
) -> list[Finding]:
    """Pairs (row, row, cosine) as findings: across splits, with other labels, and others."""
    sorted_out: dict[str, list[Suspect]] = {leak[0]: [], conflict[0]: [], plain[0]: []}
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
        Finding(kind, severity, f"{len(sorted_out[kind])} pairs of {what}", todo[kind], tuple(sorted_out[kind]))
        for kind, severity, what in (leak, conflict, plain)
        if sorted_out[kind]
    ]
