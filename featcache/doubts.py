"""What heads say of images that they have not seen: whether classes can be told apart, wrong labels, overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import HeadError
from featcache.families import Tuning, linear
from featcache.features import Features
from featcache.findings import Check, Finding, Severity, Suspect, name_row
from featcache.heads import classify
from featcache.rng import content_order
from featcache.samples import Samples
from featcache.suspects import Overlap, doubt_labels, gain, overlaps, thresholds

_MOST_LOGITS = 5_000_000  # images times classes that are left out in five folds; of more, a part is left out once
_FEW, _ENOUGH, _SURE = 10, 25, 3.0  # left-out images not of the commonest class, and standard errors
_SURE_DOUBT, _MANY_DOUBTS = 0.8, 0.015  # margin, and images with so large a one; good photos have none, digits 0.7 %


def check_labels(train: Features, held_out: Sequence[Features], most: int, seed: int = 0) -> list[Check]:
    """Whether features tell classes apart, which labels are doubted, which classes overlap.

    A linear head is fitted to the clean views of `most` images of train at most, by lot, in leak-free folds; of train
    it judges the images that it was not fitted to, and all of val and test.
    """
    names = ("classes", "labels", "overlap")
    if train.samples.multilabel:
        return [Check(name, "not looked at: images have several labels", looked=False) for name in names]
    lot = content_order(train.samples.sha256, seed, "examine")[:most]
    train = train if len(lot) == len(train.samples) else train.take(np.sort(lot))
    classes = train.samples.classes
    try:
        folds = 5 if len(train.samples) * len(classes) <= _MOST_LOGITS else None
        tuning = Tuning(train, "clean", folds=folds, seed=seed)
        tuned = linear(tuning)
    except HeadError as error:
        return [Check(name, f"not looked at: {error}", looked=False) for name in names]
    rows = tuning.left_out.rows
    y = train.y[rows]
    shares = np.zeros((len(rows), len(classes)))
    shares[:, tuning.classes] = tuned.probabilities
    explained, sure = gain(shares, y)
    right, most_common = float((shares.argmax(axis=1) == y).mean()), float(np.bincount(y).max() / len(y))
    said = f"a linear head is right of {right:.1%} of {len(y)} left-out images ({most_common:.0%} are of one class), "
    said += f"{max(0.0, explained):.0%} less log-loss than by guessing"
    if sure <= _SURE:
        minority = len(y) - int(
            np.bincount(y).max()
        )  # they say whether a head knows more than the shares of the classes
        severity: Severity = "error" if minority >= _ENOUGH else "warning" if minority >= _FEW else "note"
        todo = (
            "Look at the spec's mean, std and image_size and at the weights (`featcache info`), and whether labels "
            "belong to their images; with DATA the doctor compares with pixels and other scales."
        )
        found = Finding("no better than guessing", severity, said, todo)
        rest = [
            Check(name, "not looked at: the features do not tell the classes apart", looked=False) for name in names[1:]
        ]
        return [Check("classes", said, (found,)), *rest]
    doubted = _doubts(train.samples, rows, shares, y, thresholds(shares, y))
    looked_at = len(y)
    for others in held_out:
        _, of_others = classify(tuned.estimator, others.clean(), len(classes))
        if of_others is not None:
            every = np.arange(len(others.samples))
            doubted += _doubts(others.samples, every, of_others, others.y, thresholds(shares, y))
            looked_at += len(others.samples)
    doubted.sort(key=lambda one: -(one.score or 0.0))
    pairs = overlaps(shares.argmax(axis=1), y, len(classes))
    return [
        Check("classes", said),
        _doubted(doubted, looked_at),
        Check("overlap", f"{len(pairs)} pairs of classes are confused", tuple(_overlap(pairs, classes))),
    ]


def _doubts(
    samples: Samples, rows: NDArray[np.int64], shares: NDArray[np.float64], y: Any, sure: NDArray[np.float64]
) -> list[Suspect]:
    found = doubt_labels(shares, y, sure)
    return [
        name_row(samples, int(rows[row]), suggested=samples.classes[label], score=margin)
        for row, label, margin in zip(*found, strict=True)
    ]


def _doubted(images: list[Suspect], looked_at: int) -> Check:
    said = f"{len(images)} of {looked_at} labels are doubted by heads that have not seen them"
    if not images:
        return Check("labels", said)
    sure = sum((one.score or 0.0) >= _SURE_DOUBT for one in images)  # a poor head doubts many labels, of few it is sure
    severity: Severity = "warning" if sure > max(2, _MANY_DOUBTS * looked_at) else "note"
    todo = "Look at them, the surest first (-o FILE.png with DATA), correct the wrong ones, then `featcache update`."
    return Check("labels", said, (Finding("wrong labels", severity, said, todo, tuple(images)),))


def _overlap(pairs: Sequence[Overlap], classes: tuple[str, ...]) -> list[Finding]:
    if not pairs:
        return []
    worst = "; ".join(f"{classes[a]} and {classes[b]} {share:.0%}" for a, b, share, _ in pairs[:5])
    what = f"{len(pairs)} pairs of classes are taken for each other: {worst}"
    todo = "Merge them, look whether their labels are clear, or add images; 50 % is no difference at all."
    return [Finding("overlap", "warning", what, todo)]
