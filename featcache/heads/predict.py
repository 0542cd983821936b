"""`classify` and `evaluate`: predictions of any fitted classifier, averaged over views, and their figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from featcache.cache.features import Features
from featcache.cache.lazy_arrays import LazyRows
from featcache.core.thresholds import decide
from featcache.errors import HeadError
from featcache.heads.estimators import thresholds_of
from featcache.heads.held_out import HeldOutScores
from featcache.heads.training_data import Fitted, TrainingData
from featcache.metrics.classification import Accuracy
from featcache.metrics.conformal import COVERAGES, SetFigures, evaluate_sets, least_samples
from featcache.metrics.multilabel import LabelAccuracy, evaluate_labels, judge

_BLOCK = 8192  # rows that are predicted at a time


class Predictions(NamedTuple):
    """What a classifier predicts of n images.

    predicted : class indices, shape (n,), int64; with several labels 0 or 1, shape (n, c).
    probabilities : shape (n, c), 0 for a class that the training data lacked; None if the classifier has none.
    """

    predicted: NDArray[np.int64]
    probabilities: NDArray[np.float64] | None


def classify(
    estimator: BaseEstimator, x: NDArray[Any] | LazyRows, n_classes: int, *, views: int = 1, multilabel: bool = False
) -> Predictions:
    """The classes of images, from features that are read once.

    Parameters
    ----------
    estimator : estimator
        A fitted classifier.
    x : ndarray or LazyRows, shape (n * views, d)
        Features, `views` rows of each image.
    n_classes : int
        The number of classes, c.
    views : int, default 1
        Rows of each image; their probabilities are averaged.
    multilabel : bool, default False
        Whether an image can have several labels.

    Returns
    -------
    Predictions

    Raises
    ------
    HeadError
        The classifier fails, or its predictions are not classes or not finite.
    """
    predicted, probabilities = [], []
    with _predicting(estimator):
        has_probabilities = multilabel or hasattr(estimator, "predict_proba")
        for block in _blocks(x):
            if not multilabel:
                predicted.append(np.asarray(estimator.predict(block), dtype=np.int64))
            if has_probabilities:
                probabilities.append(np.asarray(estimator.predict_proba(block), dtype=np.float64))
        if multilabel:
            thresholds = thresholds_of(estimator)
            labels = _check_labels(np.concatenate(probabilities), n_classes)
            return average_views(decide(labels, thresholds), labels, views, n_classes, thresholds)
        classes = np.concatenate(predicted)
        if not 0 <= classes.min(initial=0) <= classes.max(initial=0) < n_classes:
            raise ValueError("it predicts classes that do not exist")
        if not has_probabilities:
            return average_views(classes, None, views, n_classes)
        full = _all_classes(np.concatenate(probabilities), estimator.classes_, n_classes)
    return average_views(classes, full, views, n_classes)


def average_views(
    predicted: NDArray[np.int64],
    probabilities: NDArray[np.float64] | None,
    views: int,
    n_classes: int,
    thresholds: NDArray[np.float64] | Sequence[float] | None = None,
) -> Predictions:
    """Combine the rows of each image: the mean of their probabilities, and its class; without probabilities, a vote.

    Parameters
    ----------
    predicted : ndarray, shape (n * views,), or (n * views, c) with several labels
        Predictions of rows.
    probabilities : ndarray, shape (n * views, c), optional
        Probabilities of rows.
    views : int
        Rows of each image.
    n_classes : int
        The number of classes, c.
    thresholds : sequence of float, shape (c,), optional
        Of several labels, see `featcache.core.thresholds.decide`.

    Returns
    -------
    Predictions
        Of n images.
    """
    if views == 1:
        return Predictions(predicted, probabilities)
    if probabilities is None:
        votes = np.eye(n_classes)[predicted].reshape(-1, views, n_classes).sum(axis=1)
        return Predictions(votes.argmax(axis=1), None)
    mean = probabilities.reshape(-1, views, n_classes).mean(axis=1)
    return Predictions(decide(mean, thresholds) if predicted.ndim == 2 else mean.argmax(axis=1), mean)


def _check_labels(probabilities: NDArray[np.float64], n_classes: int) -> NDArray[np.float64]:
    """The probabilities of several labels, if they are finite and have the right shape. Raises ValueError."""
    if probabilities.shape[1:] != (n_classes,):
        raise ValueError(f"it gives probabilities of shape {probabilities.shape} for {n_classes} labels")
    _require_finite(probabilities)
    return probabilities


def _all_classes(probabilities: NDArray[np.float64], classes: NDArray[Any], n_classes: int) -> NDArray[np.float64]:
    """Probabilities of the classes that a classifier has seen as probabilities of all, shape (n, c)."""
    full = np.zeros((len(probabilities), n_classes))
    with np.errstate(invalid="ignore", divide="ignore"):
        # they were float32: their sum is not exactly 1
        full[:, np.asarray(classes, dtype=np.int64)] = probabilities / probabilities.sum(axis=1, keepdims=True)
    _require_finite(full)
    return full


def _require_finite(probabilities: NDArray[np.float64]) -> None:
    """Raise ValueError for NaN or infinity, which LabelSpreading gives far from all training images."""
    bad = int(np.count_nonzero(~np.isfinite(probabilities).all(axis=1)))
    if bad:
        raise ValueError(
            f"its probabilities for {bad} of {len(probabilities)} samples are not finite numbers. Give other "
            "parameters (-p), scale the features (--scaling standard), or use another head."
        )


@contextmanager
def _predicting(estimator: BaseEstimator) -> Iterator[None]:
    """Errors inside come from the estimator: parameters that do not suit the data, or a wrong file."""
    try:
        yield
    except Exception as error:
        raise HeadError(f"{type(estimator).__name__} could not predict: {error}") from error


def _blocks(x: NDArray[Any] | LazyRows) -> Iterator[NDArray[np.float32]]:
    """Some thousand rows at a time, so that memory does not grow with n; one empty block if there are no rows."""
    for start in range(0, max(1, len(x)), _BLOCK):
        yield np.asarray(x[start : start + _BLOCK], dtype=np.float32)


@dataclass(frozen=True)
class Evaluation:
    """Predictions of a head, and their figures.

    val, test : predictions; test is None if the cache has no test images.
    accuracy, test_accuracy : their figures.
    before : figures of val without the temperature, if the head has one.
    at_half : figures of val at thresholds of 0.5, if the head has other thresholds.
    sets : figures of sets of labels on val, for each of `featcache.metrics.conformal.COVERAGES` that the held-out
        samples suffice for.
    """

    val: Predictions
    accuracy: Accuracy | LabelAccuracy
    test: Predictions | None = None
    test_accuracy: Accuracy | LabelAccuracy | None = None
    before: Accuracy | LabelAccuracy | None = None
    at_half: LabelAccuracy | None = None
    sets: tuple[SetFigures, ...] = ()


def evaluate(fitted: Fitted, data: TrainingData, tta: int = 0) -> Evaluation:
    """Predict val and test, from the clean view averaged with `tta` augmented ones. Raises HeadError, CacheError."""
    val = _predict_split(fitted.estimator, data.val, tta)
    test = _predict_split(fitted.estimator, data.test, tta) if data.test is not None else None
    at_half = None
    if fitted.thresholds is not None and val.probabilities is not None:
        at_half = evaluate_labels(data.val.y, val.probabilities, data.val.samples.classes)
    return Evaluation(
        val,
        _judge(val, data.val),
        test,
        _judge(test, data.test) if test is not None and data.test is not None else None,
        evaluate_head(fitted.uncalibrated, data.val, tta) if fitted.uncalibrated is not None else None,
        at_half,
        () if tta else _evaluate_sets(fitted.held_out, val, data.val),  # the scores are of the clean view
    )


def _evaluate_sets(
    held_out: HeldOutScores | None, predictions: Predictions, features: Features
) -> tuple[SetFigures, ...]:
    probabilities = predictions.probabilities
    if held_out is None or probabilities is None or not len(features.y):
        return ()
    return tuple(
        evaluate_sets(probabilities >= held_out.set_threshold(coverage), features.y, coverage)
        for coverage in COVERAGES
        if least_samples(coverage) <= len(held_out.probability)
    )


def evaluate_head(estimator: BaseEstimator, features: Features, tta: int = 0) -> Accuracy | LabelAccuracy:
    """Figures of a head on one split, see `evaluate`. Raises HeadError, CacheError."""
    return _judge(_predict_split(estimator, features, tta), features)


def _judge(predictions: Predictions, features: Features) -> Accuracy | LabelAccuracy:
    return judge(features.y, *predictions, features.samples.classes)


def _predict_split(estimator: BaseEstimator, features: Features, tta: int) -> Predictions:
    samples = features.samples
    x = features.with_views(tta).flatten().x if tta else features.lazy_view(0)
    return classify(estimator, x, len(samples.classes), views=1 + tta, multilabel=samples.multilabel)
