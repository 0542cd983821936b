"""Checks by heads on images that they were not fitted to: separable classes, label errors, overlapping classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from featcache._utils.formatting import plural
from featcache._utils.progress_bar import Progress
from featcache.analysis.doctor.findings import Check, Issue, IssueExample, Severity, name_row
from featcache.analysis.doctor.words import IMAGE_WORDS, Words
from featcache.cache.features import Features
from featcache.core.rng import content_order
from featcache.core.samples import Samples
from featcache.errors import HeadError
from featcache.heads.kinds import linear
from featcache.heads.predict import classify
from featcache.heads.solvers.closed_form import lda
from featcache.heads.tuning.tuning_data import TuningData
from featcache.metrics.classification import confusion_matrix
from featcache.metrics.significance import wilson_interval

MAX_LOGITS = 5_000_000  # images times classes of five folds; with more, one part is held out once
_MAX_LINEAR = 5_000  # images times classes; up to it a linear head takes hardly longer than LDA
SIGNIFICANT_Z = 3.0  # standard errors
ENOUGH, _FEW = 25, 10  # held-out images outside the most frequent class: they show whether a head learned anything
_OVERLAP = 0.2  # fraction of two classes' images that is confused; 0.5 if nothing distinguishes them
LEAST_LIKELY = "least likely labels"
_RANKED = 12  # least likely labels that are listed; of planted errors 1 in 50 has a lower rank
_CERTAIN_MARGIN, _MANY_CERTAIN = 0.8, 0.015  # fraction of images with such a margin; good photos 0, digits 0.7 %


def check_labels(
    train: Features | None,
    held_out: Sequence[Features],
    most: int,
    seed: int = 0,
    progress: Progress | None = None,
    words: Words = IMAGE_WORDS,
) -> list[Check]:
    """Whether features separate the classes, which labels are probably wrong, and which classes overlap.

    A head, see `head_for`, is fitted to the clean views of at most `most` train images, drawn by hash and seed, in
    folds without leaks. It predicts the train images that it was not fitted to, and at most `most` val and test images
    of its classes. Without train images of two classes the checks do not run.
    """
    names = ("classes", "labels", "overlap")
    if train is None:
        return [Check(name, f"not checked: no train {words.sample} has a label", ran=False) for name in names]
    if train.samples.multilabel:
        return [Check(name, f"not checked: {words.samples} have several labels", ran=False) for name in names]
    images = len(train.samples) + sum(len(others.samples) for others in held_out)
    train, classes = _draw(train, most, seed), train.samples.classes
    try:
        folds = 5 if len(train.samples) * len(classes) <= MAX_LOGITS else None
        rows, probabilities, y, estimator = leave_out(train, seed, folds, progress)
    except HeadError as error:
        return [Check(name, f"not checked: {error}", ran=False) for name in names]
    separable = _check_classes(probabilities, y, words)
    if separable.findings:
        reason = "not checked: the features do not separate the classes"
        return [separable, *(Check(name, reason, ran=False) for name in names[1:])]
    certain = thresholds(probabilities, y)
    doubted, unlikely = _label_examples(train.samples, rows, probabilities, y, certain)
    checked = len(y)
    for others in held_out:
        others = _draw(others, most, seed)
        others = others.take(np.flatnonzero(np.isin(others.y, train.y)))  # the head has no class without train images
        if not len(others.y):
            continue
        _, predicted = classify(estimator, others.lazy_view(0), len(classes))
        if predicted is not None:
            more = _label_examples(others.samples, np.arange(len(others.y)), predicted, others.y, certain)
            doubted, unlikely = doubted + more[0], unlikely + more[1]
            checked += len(others.y)
    for examples in (doubted, unlikely):
        examples.sort(key=lambda example: -(example.score or 0.0))
    pairs = overlaps(probabilities.argmax(axis=1), y, len(classes))
    return [
        separable,
        replace(_doubted(doubted, checked, images, words), rankings=_least_likely(unlikely, words)),
        Check(
            "overlap", f"{plural(len(pairs), 'pair')} of classes overlap", tuple(_overlap_issues(pairs, classes, words))
        ),
    ]


def _draw(features: Features, most: int, seed: int) -> Features:
    """At most so many images, drawn by hash and seed."""
    drawn = content_order(features.samples.sha256, seed, "examine")[:most]
    return features if len(drawn) == len(features.samples) else features.take(np.sort(drawn))


def _check_classes(probabilities: NDArray[np.float64], y: NDArray[np.int64], words: Words) -> Check:
    """Whether the head is better than the class frequencies."""
    explained, z = gain(probabilities, y)
    accuracy, most_frequent = float((probabilities.argmax(axis=1) == y).mean()), int(np.bincount(y).max())
    summary = (
        f"a head is right on {accuracy:.1%} of {len(y)} {words.samples} that it was not fitted to (the most frequent "
        f"class has {most_frequent / len(y):.0%}); its log-loss is {lower(explained)} than that of the class "
        "frequencies"
    )
    if z > SIGNIFICANT_Z:
        return Check("classes", summary)
    others = len(y) - most_frequent
    severity: Severity = "error" if others >= ENOUGH else "warning" if others >= _FEW else "note"
    remedy = f"Check {words.settings}, and whether the labels belong to the {words.samples}.{words.compare}"
    return Check("classes", summary, (Issue("no better than guessing", severity, summary, remedy),))


def _label_examples(
    samples: Samples,
    rows: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    y: NDArray[np.int64],
    certain: NDArray[np.float64],
) -> tuple[list[IssueExample], list[IssueExample]]:
    """Images whose label is probably wrong, and other images whose label is not the most likely one."""
    doubted, unlikely = find_label_errors(probabilities, y, certain), rank_labels(probabilities, y)
    others = ~np.isin(unlikely.row, doubted.row)

    def examples(labels: LabelProbabilities) -> list[IssueExample]:
        return [
            name_row(samples, int(rows[row]), suggested=samples.classes[label], score=margin)
            for row, label, margin in zip(*labels, strict=True)
        ]

    return examples(doubted), examples(unlikely.take(others))


def _least_likely(examples: list[IssueExample], words: Words) -> tuple[Issue, ...]:
    if not examples:
        return ()
    listed = tuple(examples[:_RANKED])
    first = f"; the {len(listed)} least likely ones are listed" if len(listed) < len(examples) else ""
    are = "is" if len(examples) == 1 else "are"
    what = f"{plural(len(examples), 'other label')} {are} not the most likely one{first}. They may well be right"
    remedy = f"Check these labels next ({words.show})."
    return (Issue(LEAST_LIKELY, "note", what, remedy, listed),)


def _doubted(examples: list[IssueExample], checked: int, images: int, words: Words = IMAGE_WORDS) -> Check:
    are = "is" if len(examples) == 1 else "are"
    limits = f"{checked} of {images} labels were checked" if checked < images else ""
    summary = (
        f"{len(examples)} of {plural(checked, 'label')} {are} probably wrong, by heads that were not fitted to the "
        f"{words.sample}"
    )
    if not examples:
        return Check("labels", summary, limits=limits)
    certain = sum((example.score or 0.0) >= _CERTAIN_MARGIN for example in examples)  # poor heads are rarely certain
    severity: Severity = "warning" if certain > max(2, _MANY_CERTAIN * checked) else "note"
    remedy = f"Check them in this order ({words.show}), correct the wrong ones, then run `featcache update`."
    return Check("labels", summary, (Issue("wrong labels", severity, summary, remedy, tuple(examples)),), limits=limits)


def _overlap_issues(pairs: Sequence[Overlap], classes: tuple[str, ...], words: Words) -> list[Issue]:
    if not pairs:
        return []
    worst = "; ".join(f"{classes[pair.first]} and {classes[pair.second]} {pair.fraction:.0%}" for pair in pairs[:5])
    are = "is" if len(pairs) == 1 else "are"
    what = f"{plural(len(pairs), 'pair')} of classes {are} often confused: {worst}"
    remedy = (
        f"Merge the classes, define their labels more clearly, or add {words.samples}. 50 % means no difference at all."
    )
    return [Issue("overlap", "note", what, remedy)]


class HeldOutProbabilities(NamedTuple):
    """Predictions of heads for m images that they were not fitted to.

    rows : indices of the images, (m,). probabilities : (m, c). y : labels, (m,). estimator : a head fitted to all
    images.
    """

    rows: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    y: NDArray[np.int64]
    estimator: BaseEstimator


def head_for(images: int, classes: int) -> str:
    """The head that finds label errors: linear on few images, and LDA, whose time is bounded, on more."""
    return "linear" if images * classes <= _MAX_LINEAR else "lda"


def leave_out(
    features: Features, seed: int = 0, folds: int | None = 5, progress: Progress | None = None
) -> HeldOutProbabilities:
    """Fit heads to the clean views, each without the fold that it predicts. Raises HeadError.

    The first fold alone chooses the strength of LDA if it is large, see `TuningData.tune_closed_form`.
    """
    samples = features.samples
    tuning = TuningData(features, "clean", folds=folds, seed=seed, progress=progress)
    head = head_for(len(samples), len(samples.classes))
    try:
        tuned = linear.tune(tuning) if head == "linear" else tuning.tune_closed_form(lda)
    except (ValueError, MemoryError, RuntimeError) as error:  # LinAlgError
        raise HeadError(f"{head} could not be fitted: {error}") from error
    rows = tuning.held_out.rows
    probabilities = np.zeros((len(rows), len(features.samples.classes)))
    probabilities[:, tuning.classes] = tuned.probabilities
    return HeldOutProbabilities(rows, probabilities, features.y[rows], tuned.estimator)


def lower(fraction: float) -> str:
    """ "12% lower": a reduction of the log-loss, before "than"."""
    return f"{fraction:.0%} lower" if fraction >= 0.005 else "not lower"


class LabelProbabilities(NamedTuple):
    """Rows whose label is not the most likely one, the least likely first.

    label : the most likely label. margin : its probability minus that of the given label, 0 to 1.
    """

    row: NDArray[np.int64]
    label: NDArray[np.int64]
    margin: NDArray[np.float64]

    def take(self, mask: NDArray[np.bool_]) -> LabelProbabilities:
        """The rows of a mask, in this order."""
        return LabelProbabilities(self.row[mask], self.label[mask], self.margin[mask])


def thresholds(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean probability of each class over its images, (c,); infinite for a class without images."""
    c = probabilities.shape[1]
    of_label = probabilities[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=c)
    sums = np.bincount(labels, of_label, minlength=c)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)


def find_label_errors(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], certain: NDArray[np.float64]
) -> LabelProbabilities:
    """Labels that confident learning (Northcutt, Jiang and Chuang 2021) calls wrong; it prunes by noise rate.

    An image counts as a member of the class with the highest probability among those that reach the class's threshold.
    These counts, the confident joint, give the number of images with label i that belong to class j. Of these pairs as
    many images are reported, those with the largest margins p_j - p_i above 0.

    probabilities : (n, c), of heads that were not fitted to the image. labels : given labels, (n,). certain : see
    `thresholds`.
    """
    c = probabilities.shape[1]
    ranked = rank_labels(probabilities, labels)
    reached = np.where(probabilities >= certain, probabilities, -1.0)
    counted = reached.max(axis=1, initial=-1.0) >= 0
    joint = confusion_matrix(labels[counted], reached[counted].argmax(axis=1), c).astype(np.float64)
    counts = np.bincount(labels, minlength=c)
    joint *= (counts / np.maximum(joint.sum(axis=1), 1))[:, None]  # scaled to all images of the label
    wrong = np.zeros(len(ranked.row), bool)
    for i, j in np.argwhere(np.round(joint) > 0).tolist():
        candidates = np.flatnonzero((labels[ranked.row] == i) & (ranked.label == j))
        wrong[candidates[: round(joint[i, j])]] = True
    return ranked.take(wrong)


def rank_labels(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> LabelProbabilities:
    """All rows whose label is not the most likely one; parameters as in `find_label_errors`."""
    likely = probabilities.argmax(axis=1)
    margin = probabilities.max(axis=1, initial=0.0) - probabilities[np.arange(len(labels)), labels]
    rows = np.flatnonzero(likely != labels)
    rows = rows[np.argsort(-margin[rows], kind="stable")]
    return LabelProbabilities(rows, likely[rows], margin[rows])


class Overlap(NamedTuple):
    """Two classes that are confused.

    fraction : part of their images that got the label of the other class. low : lower end of its 95 % interval.
    """

    first: int
    second: int
    fraction: float
    low: float


def overlaps(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> list[Overlap]:
    """Pairs of classes with significantly (95 %) more than a fifth confused images, the worst first."""
    counts = confusion_matrix(labels, predicted, classes)
    pairs = []
    for a, b in np.argwhere(np.triu(counts + counts.T, 1)).tolist():
        confused = int(counts[a, b] + counts[b, a])
        total = confused + int(counts[a, a] + counts[b, b])
        low, _ = wilson_interval(confused, total)
        if low > _OVERLAP:
            pairs.append(Overlap(a, b, confused / total, low))
    return sorted(pairs, key=lambda pair: -pair.low)


def gain(probabilities: NDArray[np.float64], labels: NDArray[np.int64], other: Any = None) -> tuple[float, float]:
    """How much better one head is than another: relative reduction of the log-loss, and z of the difference.

    other : probabilities (n, c) of the other head for the same images; None takes the class frequencies.
    """
    rows, smallest = np.arange(len(labels)), 1e-12
    if other is None:
        other = np.tile(np.bincount(labels, minlength=probabilities.shape[1]) / len(labels), (len(labels), 1))
    before = -np.log(np.maximum(other[rows, labels], smallest))
    less = before + np.log(np.maximum(probabilities[rows, labels], smallest))
    error = max(float(less.std()), 1e-9) / np.sqrt(len(less))
    return float(less.mean() / max(float(before.mean()), smallest)), float(less.mean()) / error
