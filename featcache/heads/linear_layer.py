"""`as_linear`: the linear layer, features to logits, that a fitted classifier is equal to."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from featcache.heads.linear import LinearHead
from featcache.heads.one_vs_rest import OneVsRestHead

CERTAIN_LOGIT = 100.0
"""The logit of a certain class, and -100 of an impossible one: float32 still holds exp(-100)."""


class LinearWeights(NamedTuple):
    """Features (n, d) to logits (n, c): weight (c, d), bias (c,), float64."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    @property
    def depends_on_input(self) -> NDArray[np.bool_]:
        """The logits that depend on the input, shape (c,); train had no information about the others."""
        return self.weight.any(axis=1) | (np.abs(self.bias) != CERTAIN_LOGIT)


def as_linear(estimator: BaseEstimator) -> LinearHead | OneVsRestHead | None:
    """A head of featcache with the same probabilities; None if the classifier is not a linear layer.

    Converted are LogisticRegression and LinearDiscriminantAnalysis of scikit-learn, also one for each label, and a
    StandardScaler before them. A classifier without probabilities, or whose probabilities are several normalized
    sigmoids, has no logits: RidgeClassifier, LinearSVC, SGDClassifier.
    """
    if isinstance(estimator, (LinearHead, OneVsRestHead)):
        return estimator
    kind = _kind(estimator)
    if kind == "Pipeline":
        *before, (_, last) = estimator.steps
        head = as_linear(last)
        for _, step in reversed(before):
            head = _unscaled(head, step) if head is not None and _kind(step) == "StandardScaler" else None
        return head
    if getattr(estimator, "multilabel_", False):  # BinaryRelevance
        return _labels(estimator.estimators_, estimator.n_features_in_)
    if kind == "LinearDiscriminantAnalysis" or (kind == "LogisticRegression" and _is_softmax(estimator)):
        return LinearHead.from_weights(estimator.coef_, estimator.intercept_, estimator.classes_)
    return None


def layer(head: LinearHead | OneVsRestHead, n_classes: int) -> LinearWeights:
    """Weights for the logits of all classes, of which the head may have seen some only.

    The softmax of these logits, or with several labels their sigmoid, gives the probabilities of the head.
    """
    coef, intercept = head.coef_, head.intercept_
    if isinstance(head, OneVsRestHead):
        return LinearWeights(coef, intercept)
    if len(coef) == 1:  # one logit z becomes (-z / 2, z / 2)
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    if len(coef) < n_classes:  # softmax ignores the mean; without it the largest logit is never below 0
        coef, intercept = coef - coef.mean(axis=0), intercept - intercept.mean()
    weights = LinearWeights(np.zeros((n_classes, coef.shape[1])), np.full(n_classes, -CERTAIN_LOGIT))
    weights.weight[head.classes_], weights.bias[head.classes_] = coef, intercept
    return weights


def _kind(estimator: Any) -> str:
    """Name of the class of a scikit-learn estimator, else ""; its module need not be imported for this."""
    return type(estimator).__name__ if type(estimator).__module__.startswith("sklearn.") else ""


def _is_softmax(logistic: Any) -> bool:
    """Whether its probabilities are the softmax of its logits, or with two classes the sigmoid of its logit."""
    is_multinomial = getattr(logistic, "multi_class", "auto") in (
        "auto",
        "deprecated",
    )  # until sklearn 1.8
    return is_multinomial and (logistic.solver != "liblinear" or len(logistic.coef_) == 1)


def _unscaled(head: LinearHead | OneVsRestHead, scaler: Any) -> LinearHead | OneVsRestHead:
    """The head for features that were not scaled, from one for scaled features."""
    coef = head.coef_ / scaler.scale_ if scaler.with_std else head.coef_
    intercept = head.intercept_ - coef @ scaler.mean_ if scaler.with_mean else head.intercept_
    if isinstance(head, OneVsRestHead):
        return OneVsRestHead.from_weights(coef, intercept)
    return LinearHead.from_weights(coef, intercept, head.classes_)


def _labels(members: list[Any], d: int) -> OneVsRestHead | None:
    """One logit of each member; it is constant for a label that all training images have, or none."""
    coef, intercept = np.zeros((len(members), d)), np.zeros(len(members))
    for label, member in enumerate(members):
        if _kind(member) == "DummyClassifier":
            intercept[label] = CERTAIN_LOGIT if member.constant == 1 else -CERTAIN_LOGIT
            continue
        head = as_linear(member)
        if head is None:
            return None
        coef[label], intercept[label] = head.coef_[0], head.intercept_[0]
    return OneVsRestHead.from_weights(coef, intercept)
