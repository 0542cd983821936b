"""scikit-learn classifiers: made by name, fitted, and what the last step of a pipeline is."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, is_classifier

from featcache.cache.features import TrainingMatrix
from featcache.errors import HeadError
from featcache.heads.linear import LinearHead
from featcache.heads.one_vs_rest import OneVsRestHead
from featcache.heads.registry import HeadSpec, find_head, unknown_head


def make_estimator(spec: HeadSpec, parameters: Mapping[str, Any] | None = None, path: str = "") -> BaseEstimator:
    """An unfitted classifier.

    Parameters
    ----------
    spec : HeadSpec
        A kind of head that has an estimator.
    parameters : mapping, optional
        Of the constructor; they override the defaults of the spec.
    path : str
        Dotted path of another class than that of the spec.

    Raises
    ------
    HeadError
        There is no such classifier, or it has no such parameter.
    """
    name = path or spec.name
    estimator_class = _import_class(path or spec.estimator or "", name)
    if not (
        inspect.isclass(estimator_class)
        and issubclass(estimator_class, BaseEstimator)
        and hasattr(estimator_class, "predict")
    ):
        raise HeadError(f"{name} is not a scikit-learn classifier")
    allowed = sorted(inspect.signature(estimator_class).parameters)
    unknown = sorted(set(parameters or {}) - set(allowed))
    if unknown:
        raise HeadError(f"{name} has no parameter {unknown[0]!r}; it has {', '.join(allowed)}")
    try:
        estimator = estimator_class(**{**spec.defaults, **(parameters or {})})
    except (TypeError, ValueError) as error:
        raise HeadError(
            f"{name} cannot be made: {error}. Give its parameters, or pass an object from Python."
        ) from error
    if not is_classifier(estimator):
        raise HeadError(f"{name} is not a scikit-learn classifier")
    return estimator


def check_head(head: str) -> None:
    """Raise HeadError for a name that no head has, or whose head needs other features than the penultimate layer."""
    spec = find_head(head)
    if spec.feature_maps or spec.argument:
        raise HeadError(f"the head {head} does not work on the penultimate layer of any network. Use another head.")
    if isinstance(spec.estimator, str):
        make_estimator(spec)


def _import_class(path: str, name: str) -> Any:
    module_name, _, class_name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise unknown_head(name) from error


def with_scaling(estimator: BaseEstimator, scaling: str) -> BaseEstimator:
    """A pipeline that first scales features to mean 0 and variance 1 ("standard"), or images to length 1 ("l2")."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer, StandardScaler

    return make_pipeline({"standard": StandardScaler, "l2": Normalizer}[scaling](), estimator)


def fit_estimator(estimator: BaseEstimator, features: TrainingMatrix) -> None:
    """Fit to all rows; each image has a weight of 1 if the estimator takes sample weights. Raises HeadError."""
    name = weight_parameter(estimator)
    x = features.x if isinstance(estimator, (LinearHead, OneVsRestHead)) else np.asarray(features.x, dtype=np.float32)
    try:
        estimator.fit(x, features.y, **({name: features.weights} if name else {}))
    except Exception as error:  # parameters that contradict the data, or each other
        raise HeadError(f"{type(estimator).__name__} could not be fitted: {error}") from error


def weight_parameter(estimator: BaseEstimator) -> str | None:
    """The name of the parameter of `fit` that takes sample weights."""
    name, last = last_step(estimator)
    if name:
        inner = weight_parameter(last)
        return inner and f"{name}__{inner}"
    return "sample_weight" if "sample_weight" in inspect.signature(estimator.fit).parameters else None


def is_multilabel(estimator: BaseEstimator) -> bool:
    """Whether a classifier, or the last step of a pipeline, predicts several labels an image."""
    name, last = last_step(estimator)
    return is_multilabel(last) if name else bool(getattr(last, "multilabel_", False))


def thresholds_of(estimator: BaseEstimator) -> NDArray[np.float64] | None:
    """The probabilities above which a classifier of several labels predicts them, shape (c,); None: 0.5 for each."""
    name, last = last_step(estimator)
    return thresholds_of(last) if name else getattr(last, "thresholds_", None)


def set_thresholds(estimator: BaseEstimator, thresholds: NDArray[np.float64] | None) -> None:
    """Set the probabilities above which a fitted classifier of several labels predicts them, see `thresholds_of`."""
    name, last = last_step(estimator)
    if name:
        set_thresholds(last, thresholds)
    else:
        last.thresholds_ = thresholds


def last_step(estimator: BaseEstimator) -> tuple[str, BaseEstimator]:
    """Name and estimator of the last step of a pipeline; "" and the estimator itself if it is not a pipeline."""
    if hasattr(estimator, "steps"):
        from sklearn.pipeline import Pipeline  # 20 ms, which other heads do not need

        if isinstance(estimator, Pipeline):
            name, last = estimator.steps[-1]
            return str(name), last
    return "", estimator
