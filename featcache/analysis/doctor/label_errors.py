"""What heads say of images that they were not fitted to: whether classes can be told apart, wrong labels, overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from featcache.analysis.doctor.findings import Check, Issue, IssueExample, Severity, name_row
from featcache.cache.features import Features
from featcache.core.rng import content_order
from featcache.core.samples import Samples
from featcache.errors import HeadError
from featcache.heads.registry import classify
from featcache.heads.tuning.families import TuningData, linear
from featcache.metrics.classification import confusion_matrix
from featcache.metrics.significance import wilson_interval

_MOST_LOGITS = 5_000_000  # images times classes that are left out in five folds; of more, a part is left out once
SURE = 3.0  # standard errors
ENOUGH, _FEW = 25, 10  # left-out images not of the commonest class: they say whether a head knows more than shares
_OVERLAP = 0.2  # confused, of the images of two classes; half are where nothing tells them apart
LEAST_LIKELY = "least likely labels"
_RANKED = 12  # of the least likely labels that are not doubted; of planted ones that heads doubt 1 in 50 comes later
_SURE_DOUBT, _MANY_DOUBTS = 0.8, 0.015  # margin, and images with so large a one; good photos have none, digits 0.7 %


def check_labels(train: Features, held_out: Sequence[Features], most: int, seed: int = 0) -> list[Check]:
    """Whether features tell classes apart, which labels are doubted, or the least likely of the others, which overlap.

    A linear head is fitted to the clean views of `most` images of train at most, by lot, in leak-free folds; of train
    it judges the images that it was not fitted to, and all of val and test whose class it has seen.
    """
    names = ("classes", "labels", "overlap")
    if train.samples.multilabel:
        return [Check(name, "not looked at: images have several labels", looked=False) for name in names]
    lot = content_order(train.samples.sha256, seed, "examine")[:most]
    train = train if len(lot) == len(train.samples) else train.take(np.sort(lot))
    classes = train.samples.classes
    try:
        folds = 5 if len(train.samples) * len(classes) <= _MOST_LOGITS else None
        rows, shares, y, estimator = leave_out(train, seed, folds)
    except HeadError as error:
        return [Check(name, f"not looked at: {error}", looked=False) for name in names]
    explained, sure = gain(shares, y)
    right, commonest = float((shares.argmax(axis=1) == y).mean()), int(np.bincount(y).max())
    said = (
        f"a linear head is right on {right:.1%} of {len(y)} images that it was not fitted to (the commonest class has "
    )
    said += f"{commonest / len(y):.0%}); its log-loss is {lower(explained)} than that of guessing by class frequencies"
    if sure <= SURE:
        minority = len(y) - commonest
        severity: Severity = "error" if minority >= ENOUGH else "warning" if minority >= _FEW else "note"
        todo = (
            "Look at the spec's mean, std and image_size and at the weights (`featcache info`), and whether labels "
            "belong to their images; with DATA the doctor compares with pixels and other scales."
        )
        found = Issue("no better than guessing", severity, said, todo)
        rest = [
            Check(name, "not looked at: the features do not tell the classes apart", looked=False) for name in names[1:]
        ]
        return [Check("classes", said, (found,)), *rest]
    doubted, unlikely = _doubts(train.samples, rows, shares, y, thresholds(shares, y))
    looked_at = len(y)
    for others in held_out:
        known = np.flatnonzero(np.isin(others.y, train.y))  # of a class without train images a head knows nothing
        others = others.take(known)
        _, of_others = classify(estimator, others.lazy_view(0), len(classes)) if len(known) else (None, None)
        if of_others is not None:
            every = np.arange(len(known))
            more = _doubts(others.samples, every, of_others, others.y, thresholds(shares, y))
            doubted, unlikely = doubted + more[0], unlikely + more[1]
            looked_at += len(known)
    for images in (doubted, unlikely):
        images.sort(key=lambda one: -(one.score or 0.0))
    pairs = overlaps(shares.argmax(axis=1), y, len(classes))
    return [
        Check("classes", said),
        replace(_doubted(doubted, looked_at), rankings=_least_likely(unlikely)),
        Check("overlap", f"{len(pairs)} pairs of classes are confused", tuple(_overlap(pairs, classes))),
    ]


def _doubts(
    samples: Samples, rows: NDArray[np.int64], shares: NDArray[np.float64], y: Any, sure: NDArray[np.float64]
) -> tuple[list[IssueExample], list[IssueExample]]:
    """Images whose label is doubted, and those of the others whose label is not the likeliest."""
    doubted, unlikely = find_label_errors(shares, y, sure), rank_labels(shares, y)
    others = ~np.isin(unlikely.row, doubted.row)

    def name(found: LabelProbabilities) -> list[IssueExample]:
        return [
            name_row(samples, int(rows[row]), suggested=samples.classes[label], score=margin)
            for row, label, margin in zip(*found, strict=True)
        ]

    return name(doubted), name(unlikely.take(others))


def _least_likely(images: list[IssueExample]) -> tuple[Issue, ...]:
    if not images:
        return ()
    shown = tuple(images[:_RANKED])
    here = f", here the first {len(shown)}" if len(shown) < len(images) else ""
    what = f"{len(images)} labels that are not doubted are less likely than another{here}: a ranking, not a claim"
    todo = "Look at these next (-o FILE.png with DATA): heads that have not seen them would give another label."
    return (Issue(LEAST_LIKELY, "note", what, todo, shown),)


def _doubted(images: list[IssueExample], looked_at: int) -> Check:
    said = f"{len(images)} of {looked_at} labels are doubted by heads that have not seen them"
    if not images:
        return Check("labels", said)
    sure = sum((one.score or 0.0) >= _SURE_DOUBT for one in images)  # a poor head doubts many labels, of few it is sure
    severity: Severity = "warning" if sure > max(2, _MANY_DOUBTS * looked_at) else "note"
    todo = "Look at them, the surest first (-o FILE.png with DATA), correct the wrong ones, then `featcache update`."
    return Check("labels", said, (Issue("wrong labels", severity, said, todo, tuple(images)),))


def _overlap(pairs: Sequence[Overlap], classes: tuple[str, ...]) -> list[Issue]:
    if not pairs:
        return []
    worst = "; ".join(f"{classes[a]} and {classes[b]} {share:.0%}" for a, b, share, _ in pairs[:5])
    what = f"{len(pairs)} pairs of classes are taken for each other: {worst}"
    todo = "Merge them, look whether their labels are clear, or add images; 50 % is no difference at all."
    return [Issue("overlap", "note", what, todo)]


class HeldOutProbabilities(NamedTuple):
    """What heads say of m images that they were not fitted to.

    rows : places of the images, (m,). shares : probabilities of all classes, (m, c). y : labels, (m,). estimator : the
    head that is fitted to all images.
    """

    rows: NDArray[np.int64]
    shares: NDArray[np.float64]
    y: NDArray[np.int64]
    estimator: BaseEstimator


def leave_out(features: Features, seed: int = 0, folds: int | None = 5) -> HeldOutProbabilities:
    """Linear heads on clean views, each judging the fold that it was not fitted to. Raises HeadError."""
    tuning = TuningData(features, "clean", folds=folds, seed=seed)
    tuned, rows = linear(tuning), tuning.left_out.rows
    shares = np.zeros((len(rows), len(features.samples.classes)))
    shares[:, tuning.classes] = tuned.probabilities
    return HeldOutProbabilities(rows, shares, features.y[rows], tuned.estimator)


def lower(share: float) -> str:
    """A share of the log-loss that is gone, in words that go before "than"."""
    return f"{share:.0%} lower" if share >= 0.005 else "no lower"


class LabelProbabilities(NamedTuple):
    """Rows with the least likely labels first. label : that they rather have. margin : 0 to 1, of probabilities."""

    row: NDArray[np.int64]
    label: NDArray[np.int64]
    margin: NDArray[np.float64]

    def take(self, some: NDArray[np.bool_]) -> LabelProbabilities:
        """Some of them, in this order."""
        return LabelProbabilities(self.row[some], self.label[some], self.margin[some])


def thresholds(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """How sure a head is of a class in its images on average, shape (c,); infinite for a class without images."""
    c = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=c)
    sums = np.bincount(labels, own, minlength=c)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)


def find_label_errors(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], sure: NDArray[np.float64]
) -> LabelProbabilities:
    """Labels that confident learning doubts (Northcutt, Jiang and Chuang 2021): it prunes by noise rate.

    An image counts as of the class whose probability is the largest of those that reach the class's threshold. These
    counts, the confident joint, say how many images of label i are of class j; so many, those with the largest
    margins p_j - p_i above 0, are named.

    Parameters
    ----------
    probabilities : shape (n, c), of images that the head was not trained on. labels : given ones, (n,).
    sure : see `thresholds`.
    """
    c = probabilities.shape[1]
    ranked = rank_labels(probabilities, labels)
    reached = np.where(probabilities >= sure, probabilities, -1.0)
    counted = reached.max(axis=1, initial=-1.0) >= 0
    joint = confusion_matrix(labels[counted], reached[counted].argmax(axis=1), c).astype(np.float64)
    counts = np.bincount(labels, minlength=c)
    joint *= (counts / np.maximum(joint.sum(axis=1), 1))[:, None]  # to all images, not those alone that are sure
    named = np.zeros(len(ranked.row), bool)
    for i, j in np.argwhere(np.round(joint) > 0).tolist():
        here = np.flatnonzero((labels[ranked.row] == i) & (ranked.label == j))
        named[here[: round(joint[i, j])]] = True
    return ranked.take(named)


def rank_labels(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> LabelProbabilities:
    """All rows whose label is not the likeliest one; parameters as of `find_label_errors`."""
    rather = probabilities.argmax(axis=1)
    margin = probabilities.max(axis=1, initial=0.0) - probabilities[np.arange(len(labels)), labels]
    found = np.flatnonzero(rather != labels)
    found = found[np.argsort(-margin[found], kind="stable")]
    return LabelProbabilities(found, rather[found], margin[found])


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
