"""`self_train`: a head that also learns from samples without a label, if cross-validation says that it helps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache._utils.blockwise import iter_blocks
from featcache._utils.results import Result
from featcache.cache.features import Features
from featcache.cache.lazy_arrays import BLOCK_BYTES, CenteredMatrix, LazyRows
from featcache.core.progress import StepProgress
from featcache.core.rng import content_order, content_words
from featcache.core.samples import join_groups
from featcache.core.splitting import plan_folds
from featcache.errors import HeadError
from featcache.heads.held_out import HeldOutPredictions
from featcache.heads.linear import LinearHead
from featcache.heads.predict import classify
from featcache.heads.solvers.closed_form import RegularizedCovariances, SufficientStatistics, accumulate, lda
from featcache.heads.solvers.path import Layer, PathWeights
from featcache.heads.solvers.row_space import RowSpace
from featcache.heads.training_data import FitOptions, Fitted, TrainingData
from featcache.heads.tuning.path_selection import HeldOut, select_on_path, two_sided
from featcache.metrics.calibration import mean_log_loss
from featcache.metrics.significance import paired_difference

STRENGTH = 2.0
"""Of the penalty of LDA, as a multiple of the mean variance of a feature. Few labels cannot choose it; from 1 to 5 the
mean accuracy on the sets of `benchmarks/labels.py` is the same within half a point."""

WEIGHT = 0.3
"""Of a sample without a label, where one with a label has 1."""

MAX_LABELED, MAX_UNLABELED = 5_000, 20_000
"""Samples with a label above which it is not tried, and samples without one that are used at most."""

_LEAST = 1e-3  # probability, where log-losses are compared
_AXES, _AXES_SAMPLES = 400, 1000  # principal axes that features are projected on, and samples that they are found by


@dataclass(frozen=True)
class SelfTraining(Result):
    """What became of the samples without a label.

    Attributes
    ----------
    used : bool
        Whether the head is the self-trained one: it is more accurate on held-out training samples than the head without
        these samples, or as accurate with a lower log-loss.
    plain, self_trained : float
        Accuracies of both heads on held-out training samples.
    plain_log_loss, self_trained_log_loss : float
        Their log-losses, in nats.
    gain, low, high : float
        The difference of the accuracies, and its 95 % interval.
    held_out : int
        How many training samples were held out in turn.
    samples : int
        Samples without a label that the self-trained head learned from.
    unlabeled : int
        All readable samples without a label.
    copies : int
        Those that were left out because val or test has a copy of them, or a sample of their group.
    """

    used: bool
    plain: float
    self_trained: float
    plain_log_loss: float
    self_trained_log_loss: float
    gain: float
    low: float
    high: float
    held_out: int
    samples: int
    unlabeled: int
    copies: int

    def __str__(self) -> str:
        gain = f"{100 * self.gain:+.1f} points"
        if not self.gain:
            gain += f" and a {'lower' if self.used else 'higher'} log-loss"
        verdict = f"self-training: {gain}" if self.used else f"self-training does not help: {gain}"
        used = f"{self.samples:,} of {self.unlabeled:,} unlabeled samples {'used' if self.used else 'tried'}"
        copies = f" ({self.copies:,} left out: val or test has a copy, or their group)" if self.copies else ""
        return (
            f"{verdict} (CV {self.plain:.2f} -> {self.self_trained:.2f} on {self.held_out:,} samples, 95 % interval "
            f"{100 * self.low:+.1f} to {100 * self.high:+.1f}), {used}{copies}"
        ) + ("" if self.used else "; the head is the one without them")


def self_train(
    fitted: Fitted, data: TrainingData, options: FitOptions, fit: Callable[[TrainingData, FitOptions], Fitted]
) -> Fitted:
    """The head that also learned from the samples without a label, or `fitted` if that one is no better.

    The teacher is linear discriminant analysis, with a fixed shrinkage, on the samples with a label. Its predictions of
    all samples without one, also the doubtful ones, are the labels that the same method is then fitted to, together
    with the true labels (self-training: Scudder 1965, "Probability of error of some adaptive pattern-recognition
    machines"; a round of classification EM: Celeux and Govaert 1992). A covariance within the classes that comes from
    many samples is what few labels lack.

    Cross-validation compares it with the head without these samples, whose settings are chosen anew without each fold,
    so that no choice was made on the samples that are held out. Each fold has a teacher of its own, and samples without
    a label that are copies of those held out, or share their group, are left out.

    Parameters
    ----------
    fitted : Fitted
        The head of the samples with a label.
    data : TrainingData
        With `unlabeled`.
    options : FitOptions
        How `fitted` was fitted.
    fit : callable
        fit(data, options) fits such a head to other training samples.

    Raises
    ------
    HeadError
        Features of samples without a label are not finite.
    """
    train, classes = data.train, np.unique(data.train.y)
    if len(train.samples) > MAX_LABELED:
        return _not_tried(fitted, f"it is for few labels, {MAX_LABELED:,} or fewer, not for {len(train.samples):,}")
    pool = _Pool.of_data(data, options.seed)
    if not len(pool.keys):
        return _not_tried(fitted, "val or test has a copy of each sample without a label, or its group")
    labels = np.searchsorted(classes, train.y)
    fold, folds = plan_folds(labels, len(classes), train.samples.split_keys, options.cv, options.seed)
    rows = np.flatnonzero(fold >= 0)
    plain = _cross_validate(data, fold, options, fit)
    if plain is None:
        return _not_tried(fitted, "there are too few labels to fit a head without each fold")
    try:
        students = _fit_students(train, labels, fold, folds, pool, options)
    except ValueError as error:
        raise HeadError(f"the head could not learn from samples without a label: {error}") from error
    selection = select_on_path([students.weights], students.held_out)
    probabilities = np.zeros_like(plain)
    probabilities[:, classes] = selection.probabilities(multilabel=False)
    result = _compare(plain, probabilities, train.y[rows], pool)
    if not result.used:
        return replace(fitted, self_training=result)
    of_label = np.sort(probabilities[np.arange(len(rows)), train.y[rows]])
    (coef, intercept), temperature = students.layer, float(selection.temperature[0])
    return replace(
        fitted,
        estimator=LinearHead.from_weights(coef / temperature, intercept / temperature, classes),
        uncalibrated=LinearHead.from_weights(coef, intercept, classes),
        name="lda",
        selection=fitted.selection and replace(fitted.selection, temperature=temperature),
        held_out=fitted.held_out and replace(fitted.held_out, probability=of_label),
        held_out_predictions=HeldOutPredictions(rows, probabilities.argmax(axis=1), probabilities),
        self_training=result,
    )


def _not_tried(fitted: Fitted, reason: str) -> Fitted:
    return replace(fitted, notes=(*fitted.notes, f"self-training was not tried: {reason}"))


def _cross_validate(
    data: TrainingData,
    fold: NDArray[np.int64],
    options: FitOptions,
    fit: Callable[[TrainingData, FitOptions], Fitted],
) -> NDArray[np.float64] | None:
    """Probabilities of the held-out samples, (m, c), by heads that chose their settings without them; None if the
    others are too few."""
    train, quiet = data.train, replace(options, progress=None)
    probabilities = np.zeros((len(fold), len(train.samples.classes)))
    numbers = np.unique(fold[fold >= 0])
    with StepProgress(options.progress, "fit folds", len(numbers)) as steps:
        for number in numbers:
            others, held_out = (train.take(np.flatnonzero(mask)) for mask in (fold != number, fold == number))
            try:
                estimator = fit(replace(data, train=others, val=held_out, test=None, unlabeled=None), quiet).estimator
            except HeadError:
                return None
            predicted = classify(estimator, held_out.lazy_view(0), probabilities.shape[1]).probabilities
            if predicted is None:
                raise AssertionError("the heads that auto compares have probabilities")
            probabilities[fold == number] = predicted
            steps.advance()
    return probabilities[fold >= 0]


class _Pool(NamedTuple):
    """Samples without a label to learn from.

    features : of m samples. keys : (m, 8 bytes as a word), equal for what must not be on both sides of a split.
    train_keys : those of train. total : all readable samples without a label. copies : those of val or test.
    """

    features: Features
    keys: NDArray[np.uint64]
    train_keys: NDArray[np.uint64]
    total: int
    copies: int

    @classmethod
    def of_data(cls, data: TrainingData, seed: int) -> _Pool:
        """Without copies of val and test, and at most `MAX_UNLABELED`, drawn by content."""
        assert data.unlabeled is not None
        parts = [part.samples for part in (data.train, data.val, data.test, data.unlabeled) if part]
        contents = np.concatenate([samples.contents for samples in parts])
        groups = [name for samples in parts for name in samples.groups or [""] * len(samples)]
        ends = np.cumsum([len(samples) for samples in parts])[:-1]
        train, *others, own = np.split(content_words(join_groups(contents, groups)), ends)
        rows = np.flatnonzero(~np.isin(own, np.concatenate(others)))
        copies = len(own) - len(rows)
        if len(rows) > MAX_UNLABELED:
            drawn = content_order(data.unlabeled.samples.sha256[rows], seed, "self-training")[:MAX_UNLABELED]
            rows = np.sort(rows[drawn])
        return cls(data.unlabeled.take(rows), own[rows], train, len(own), copies)


class _Students(NamedTuple):
    """weights : of each fold, for projected features. held_out : projected. layer : of all samples, for features."""

    weights: PathWeights
    held_out: HeldOut
    layer: Layer


def _fit_students(
    train: Features, labels: NDArray[np.int64], fold: NDArray[np.int64], folds: int, pool: _Pool, options: FitOptions
) -> _Students:
    """Fit the teacher and the student of each fold, and those of all samples. Raises ValueError."""
    axes = _principal_axes(train, pool.features, options.seed)
    flat = train.flatten(options.view_use)
    views, c = len(flat.y) // len(labels), int(labels.max()) + 1
    x = CenteredMatrix(_project(axes, flat.x), flat.weights)
    sums = accumulate(x, np.repeat(labels, views), flat.weights, np.repeat(fold, views), folds + 1, c)
    others = CenteredMatrix(_project(axes, pool.features.lazy_view(0)), np.ones(len(pool.keys)))
    others.recentre(x.mean)
    raw = others.take(np.arange(len(pool.keys))) + x.mean
    width = train.x.shape[2]
    teachers, last = _solve(sums, x.mean, width)
    layers = [*(Layer(*pair) for pair in zip(teachers.coef, teachers.intercept, strict=True)), last]
    for number, layer in enumerate(layers):
        guessed = two_sided(raw @ layer.coef.T + layer.intercept).argmax(axis=1)
        copies = np.isin(pool.keys, pool.train_keys[fold == number])
        weight = np.where(copies, 0.0, WEIGHT)
        extra = accumulate(others, guessed, weight, np.full(len(weight), -1), 1, c)[0]
        sums[number] = SufficientStatistics(*(a + b for a, b in zip(sums[number], extra, strict=True)))
    weights, last = _solve(sums, x.mean, width)
    clean = CenteredMatrix(_project(axes, train.lazy_view(0)), np.ones(len(labels)))
    return _Students(weights, HeldOut.from_views(clean, labels, fold, np.ones(len(labels))), axes.expand(last))


def _solve(sums: Sequence[SufficientStatistics], mean: NDArray[Any], width: int) -> tuple[PathWeights, Layer]:
    """LDA of each fold, and of all samples."""
    covariances = RegularizedCovariances(sums, mean, width)
    return next(iter(covariances.path(_balanced_lda, [STRENGTH]))), covariances.refit(_balanced_lda, STRENGTH)


def _balanced_lda(
    priors: NDArray[np.float64], between: NDArray[np.float64], whitened: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """LDA for classes that are equally frequent: those among few, perhaps suggested, labels say little, and wrong
    predictions of the teacher would add up."""
    coef, offset = lda(priors, between, whitened)
    return coef, offset - np.log(np.where(priors > 0, priors, 1.0))


def _principal_axes(train: Features, unlabeled: Features, seed: int) -> RowSpace:
    """The axes along which clean views vary most, of at most so many samples, half of them from train."""
    parts: list[NDArray[np.float32]] = []
    for features, most in ((train, _AXES_SAMPLES // 2), (unlabeled, _AXES_SAMPLES)):
        drawn = np.sort(content_order(features.samples.sha256, seed, "axes")[: most - len(parts[0]) if parts else most])
        parts.append(np.asarray(features.lazy_view(0)[drawn], np.float32))
    x = np.concatenate(parts)
    if not np.isfinite(x).all():
        raise ValueError("its features are not finite")
    mean = x.mean(axis=0)
    _, _, axes = np.linalg.svd(x - mean, full_matrices=False)
    return RowSpace(np.ascontiguousarray(axes[:_AXES].T), mean)


def _project(axes: RowSpace, x: NDArray[Any] | LazyRows) -> NDArray[np.float32]:
    """A block of rows at a time."""
    blocks = iter_blocks(x.shape[0], 4 * x.shape[1], BLOCK_BYTES)
    return np.concatenate([np.asarray(axes.project(x[rows]), np.float32) for rows in blocks])


def _compare(
    plain: NDArray[np.float64],
    self_trained: NDArray[np.float64],
    y: NDArray[np.int64],
    pool: _Pool,
) -> SelfTraining:
    """Which probabilities of held-out samples, (m, c), are better."""
    right = [probabilities.argmax(axis=1) == y for probabilities in (plain, self_trained)]
    losses = [_log_loss(probabilities, y) for probabilities in (plain, self_trained)]
    difference = paired_difference(right[0][None], right[1][None])
    return SelfTraining(
        used=difference.difference > 0 or (difference.difference == 0 and losses[1] < losses[0]),
        plain=float(right[0].mean()),
        self_trained=float(right[1].mean()),
        plain_log_loss=losses[0],
        self_trained_log_loss=losses[1],
        gain=difference.difference,
        low=difference.low,
        high=difference.high,
        held_out=len(y),
        samples=len(pool.keys),
        unlabeled=pool.total,
        copies=pool.copies,
    )


def _log_loss(probabilities: NDArray[np.float64], y: NDArray[np.int64]) -> float:
    """Of probabilities of `_LEAST` or more: a single sample must not decide alone."""
    return mean_log_loss(np.log(np.maximum(probabilities, _LEAST)), y, np.ones(len(y)))
