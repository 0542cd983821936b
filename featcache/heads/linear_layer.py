"""The linear layer that a fitted classifier is, where it is one: features to logits."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from featcache.heads.linear import LinearHead
from featcache.heads.one_vs_rest import OneVsRestHead

LINEAR_HEADS = ("linear", "ridge", "lda", "centroid", "head2toe", "sgd", "logreg")
"""Heads, by short name, that are a linear layer once they are fitted to one label an image."""

FIT_ONE = f"Fit {', '.join(LINEAR_HEADS[:-1])} or {LINEAR_HEADS[-1]} (with --scaling standard, too)."
"""What to do where another head will not do."""

CERTAIN_LOGIT = 100.0
"""The logit of what is certain; -100 of what cannot be: exp(-100) is no probability, and float32 holds it still."""


class LinearWeights(NamedTuple):
    """Features (n, d) to logits (n, c): weight (c, d), bias (c,), float64."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    @property
    def learnt(self) -> NDArray[np.bool_]:
        """The logits that depend on a picture, shape (c,); of the others train said nothing."""
        return self.weight.any(axis=1) | (np.abs(self.bias) != CERTAIN_LOGIT)


def as_linear(estimator: BaseEstimator) -> LinearHead | OneVsRestHead | None:
    """The same classifier as a head of ours, with the probabilities that it had; None where it is no linear layer.

    Folded are scikit-learn's LogisticRegression and LinearDiscriminantAnalysis, one of them for each label, and what a
    StandardScaler does before. A classifier that has scores alone, or several sigmoids that are made to sum to 1, has
    no logits: RidgeClassifier, LinearSVC, SGDClassifier.
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
    if getattr(estimator, "multilabel_", False):  # EachLabel
        return _labels(estimator.estimators_, estimator.n_features_in_)
    if kind == "LinearDiscriminantAnalysis" or (kind == "LogisticRegression" and _is_softmax(estimator)):
        return LinearHead.from_weights(estimator.coef_, estimator.intercept_, estimator.classes_)
    return None


def layer(head: LinearHead | OneVsRestHead, n_classes: int) -> LinearWeights:
    """The logits of all classes, of which the head may know some: their softmax, or of several labels their sigmoid,
    is its probabilities.
    """
    coef, intercept = head.coef_, head.intercept_
    if isinstance(head, OneVsRestHead):
        return LinearWeights(coef, intercept)
    if len(coef) == 1:  # one logit z becomes (-z / 2, z / 2)
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    if len(coef) < n_classes:  # less their mean, of which softmax knows nothing, the largest logit is never below 0
        coef, intercept = coef - coef.mean(axis=0), intercept - intercept.mean()
    found = LinearWeights(np.zeros((n_classes, coef.shape[1])), np.full(n_classes, -CERTAIN_LOGIT))
    found.weight[head.classes_], found.bias[head.classes_] = coef, intercept
    return found


def _kind(estimator: Any) -> str:
    """The class of an estimator of scikit-learn, by name: that module need not be imported to know that it is not."""
    return type(estimator).__name__ if type(estimator).__module__.startswith("sklearn.") else ""


def _is_softmax(logistic: Any) -> bool:
    """Whether the probabilities are the softmax of its logits, or of two classes the sigmoid of its logit."""
    usual = getattr(logistic, "multi_class", "auto") in ("auto", "deprecated")  # an option until scikit-learn 1.8
    return usual and (logistic.solver != "liblinear" or len(logistic.coef_) == 1)


def _unscaled(head: LinearHead | OneVsRestHead, scaler: Any) -> LinearHead | OneVsRestHead:
    """The head for features that were not scaled."""
    coef = head.coef_ / scaler.scale_ if scaler.with_std else head.coef_
    intercept = head.intercept_ - coef @ scaler.mean_ if scaler.with_mean else head.intercept_
    if isinstance(head, OneVsRestHead):
        return OneVsRestHead.from_weights(coef, intercept)
    return LinearHead.from_weights(coef, intercept, head.classes_)


def _labels(members: list[Any], d: int) -> OneVsRestHead | None:
    """One logit from each member, constant for a label that all images of train have, or none."""
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
