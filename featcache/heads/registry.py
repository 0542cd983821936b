"""Heads: any classifier on features, made by name and fitted; `headfile` saves and loads them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, is_classifier

from featcache.cache.features import TrainingMatrix
from featcache.cache.lazy_arrays import LazyRows
from featcache.core.thresholds import decide
from featcache.errors import HeadError
from featcache.heads.linear import LinearHead
from featcache.heads.one_vs_rest import OneVsRestHead

# Short name -> class, parameters.
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("featcache.heads.linear.LinearHead", {}),
    "logreg": ("sklearn.linear_model.LogisticRegression", {"max_iter": 1000}),
    "svm": ("sklearn.svm.SVC", {}),
    "knn": ("sklearn.neighbors.KNeighborsClassifier", {"metric": "cosine", "algorithm": "brute"}),
    "ridge": ("sklearn.linear_model.RidgeClassifier", {}),
    "lda": ("sklearn.discriminant_analysis.LinearDiscriminantAnalysis", {"solver": "lsqr", "shrinkage": "auto"}),
    "centroid": ("sklearn.neighbors.NearestCentroid", {}),
    "forest": ("sklearn.ensemble.RandomForestClassifier", {"n_jobs": -1, "random_state": 0}),
}

_BLOCK = 8192  # rows that are predicted at a time


def make_head(name: str, parameters: Mapping[str, Any] | None = None) -> BaseEstimator:
    """An unfitted classifier.

    Parameters
    ----------
    name : a short name of `HEADS`, or a dotted path such as `sklearn.naive_bayes.GaussianNB`.
    parameters : of its constructor; they override the defaults.

    Raises
    ------
    HeadError : no such classifier, or no such parameter.
    """
    path, defaults = HEADS.get(name, (name, {}))
    module_name, _, class_name = path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise HeadError(
            f"there is no head {name!r}. Use {', '.join(HEADS)}, auto, sgd, head2toe, attention, imagenet:CLASS,..., "
            "or the dotted path of a scikit-learn classifier, such as sklearn.naive_bayes.GaussianNB."
        ) from error
    if not (inspect.isclass(cls) and issubclass(cls, BaseEstimator) and hasattr(cls, "predict")):
        raise HeadError(f"{name} is not a scikit-learn classifier")
    known = sorted(inspect.signature(cls).parameters)
    unknown = sorted(set(parameters or {}) - set(known))
    if unknown:
        raise HeadError(f"{name} has no parameter {unknown[0]!r}; it has {', '.join(known)}")
    try:
        estimator = cls(**{**defaults, **(parameters or {})})
    except (TypeError, ValueError) as error:
        raise HeadError(
            f"{name} cannot be made: {error}. Give its parameters, or pass an object from Python."
        ) from error
    if not is_classifier(estimator):
        raise HeadError(f"{name} is not a scikit-learn classifier")
    return estimator


def with_scaling(estimator: BaseEstimator, scaling: str) -> BaseEstimator:
    """A pipeline that first gives each feature mean 0 and variance 1 ("standard"), or each image length 1 ("l2")."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer, StandardScaler

    return make_pipeline({"standard": StandardScaler, "l2": Normalizer}[scaling](), estimator)


def fit_estimator(estimator: BaseEstimator, features: TrainingMatrix) -> None:
    """Fit on all rows, an image counting once where the estimator takes sample weights. Raises HeadError."""
    name = weight_parameter(estimator)
    x = features.x if isinstance(estimator, (LinearHead, OneVsRestHead)) else np.asarray(features.x, dtype=np.float32)
    try:
        estimator.fit(x, features.y, **({name: features.weights} if name else {}))
    except Exception as error:  # its parameters do not fit the data, or each other
        raise HeadError(f"{type(estimator).__name__} could not be fitted: {error}") from error


def weight_parameter(estimator: BaseEstimator) -> str | None:
    """What `fit` calls the sample weights."""
    name, last = _last_step(estimator)
    if name:
        inner = weight_parameter(last)
        return inner and f"{name}__{inner}"
    return "sample_weight" if "sample_weight" in inspect.signature(estimator.fit).parameters else None


def is_multilabel(estimator: BaseEstimator) -> bool:
    """Whether it gives several labels an image, as `OneVsRestHead` and `EachLabel` do, perhaps at a pipeline's end."""
    name, last = _last_step(estimator)
    return is_multilabel(last) if name else bool(getattr(last, "multilabel_", False))


def thresholds_of(estimator: BaseEstimator) -> NDArray[np.float64] | None:
    """From which probabilities on a classifier of several labels predicts them, shape (c,); None is 0.5 for each."""
    name, last = _last_step(estimator)
    return thresholds_of(last) if name else getattr(last, "thresholds_", None)


def set_thresholds(estimator: BaseEstimator, thresholds: NDArray[np.float64] | None) -> None:
    """Let a fitted classifier of several labels predict them from these probabilities on, see `thresholds_of`."""
    name, last = _last_step(estimator)
    if name:
        set_thresholds(last, thresholds)
    else:
        last.thresholds_ = thresholds


def _last_step(estimator: BaseEstimator) -> tuple[str, BaseEstimator]:
    """Name and estimator of a pipeline's step that learns; "" and the estimator itself where it is no pipeline."""
    if hasattr(estimator, "steps"):
        from sklearn.pipeline import Pipeline  # 20 ms, which no other head waits for

        if isinstance(estimator, Pipeline):
            name, last = estimator.steps[-1]
            return str(name), last
    return "", estimator


def classify(
    estimator: BaseEstimator, x: NDArray[Any] | LazyRows, n_classes: int, *, views: int = 1, multilabel: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
    """The classes of images with `views` rows each, features of shape (n * views, d), read once.

    Returns
    -------
    predicted : class indices, shape (n,), int64; of several labels 0 or 1, (n, c).
    probabilities : shape (n, c), 0 for a class that the training data lacked; None where the estimator has none.

    Raises
    ------
    HeadError
    """
    predicted, shares = [], []
    with _predicting(estimator):
        has_shares = multilabel or hasattr(estimator, "predict_proba")
        for block in _blocks(x):
            if not multilabel:
                predicted.append(np.asarray(estimator.predict(block), dtype=np.int64))
            if has_shares:
                shares.append(np.asarray(estimator.predict_proba(block), dtype=np.float64))
        if multilabel:
            thresholds = thresholds_of(estimator)
            several = _several(np.concatenate(shares), n_classes, thresholds)
            return average_views(*several, views, n_classes, thresholds)
        guesses = np.concatenate(predicted)
        if not 0 <= guesses.min(initial=0) <= guesses.max(initial=0) < n_classes:
            raise ValueError("it names classes that there are not")
        if not has_shares:
            return average_views(guesses, None, views, n_classes)
        found = np.concatenate(shares)
        full = np.zeros((len(found), n_classes))
        with np.errstate(invalid="ignore", divide="ignore"):
            full[:, np.asarray(estimator.classes_, dtype=np.int64)] = found / found.sum(
                axis=1, keepdims=True
            )  # float32
        _require_finite(full)
    return average_views(guesses, full, views, n_classes)


def _several(
    shares: NDArray[np.float64], n_classes: int, thresholds: NDArray[np.float64] | None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    if shares.shape[1:] != (n_classes,):
        raise ValueError(f"it gives probabilities of shape {shares.shape} for {n_classes} labels")
    _require_finite(shares)
    return decide(shares, thresholds), shares


def _require_finite(probabilities: NDArray[np.float64]) -> None:
    """Raise ValueError for probabilities that are no numbers, as LabelSpreading gives far from all training images."""
    bad = int(np.count_nonzero(~np.isfinite(probabilities).all(axis=1)))
    if bad:
        raise ValueError(
            f"its probabilities for {bad} of {len(probabilities)} images are not finite numbers. Give other parameters "
            "(-p), scale the features (--scaling standard), or use another head."
        )


def average_views(
    predicted: NDArray[np.int64],
    probabilities: NDArray[np.float64] | None,
    views: int,
    n_classes: int,
    thresholds: NDArray[np.float64] | Sequence[float] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
    """Of `views` rows an image, image by image: the mean probabilities and their first class; votes where none are.

    predicted : shape (n * views,); of several labels (n * views, c). probabilities : (n * views, c). thresholds :
    of several labels, see `featcache.core.thresholds.decide`. Returns the same with n rows.
    """
    if views == 1:
        return predicted, probabilities
    if probabilities is None:
        votes = np.eye(n_classes)[predicted].reshape(-1, views, n_classes).sum(axis=1)
        return votes.argmax(axis=1), None
    mean = probabilities.reshape(-1, views, n_classes).mean(axis=1)
    return decide(mean, thresholds) if predicted.ndim == 2 else mean.argmax(axis=1), mean


@contextmanager
def _predicting(estimator: BaseEstimator) -> Iterator[None]:
    """Whatever goes wrong inside comes from the estimator: its parameters do not fit the data, or its file lies."""
    try:
        yield
    except Exception as error:
        raise HeadError(f"{type(estimator).__name__} could not predict: {error}") from error


def _blocks(x: NDArray[Any] | LazyRows) -> Iterator[NDArray[np.float32]]:
    """Some thousand rows at a time, so that memory does not grow with n; one block where there are none."""
    for start in range(0, max(1, len(x)), _BLOCK):
        yield np.asarray(x[start : start + _BLOCK], dtype=np.float32)
