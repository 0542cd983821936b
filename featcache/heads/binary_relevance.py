"""`BinaryRelevance`: several labels with any classifier of scikit-learn."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.dummy import DummyClassifier

from featcache.core.thresholds import decide
from featcache.heads.estimators import weight_parameter


class BinaryRelevance(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier for each of c labels; an image can have several.

    OneVsRestClassifier of scikit-learn takes no sample weights, and cannot be saved if all images have some label.

    Parameters
    ----------
    estimator : estimator
        A classifier with `predict_proba`.

    Attributes
    ----------
    estimators_ : list
        c fitted classifiers; a DummyClassifier for a label that all images have, or none.
    classes_ : ndarray, shape (c,)
        0 to c - 1.
    thresholds_ : ndarray, shape (c,), optional
        See `featcache.core.thresholds.decide`.
    """

    multilabel_ = True
    thresholds_: NDArray[np.float64] | None = None

    def __init__(self, estimator: BaseEstimator) -> None:
        self.estimator = estimator

    def fit(self, X: NDArray[Any], y: NDArray[Any], sample_weight: NDArray[Any] | None = None) -> Self:
        """Fit to X of shape (n, d) and labels y of shape (n, c), 0 or 1."""
        name = weight_parameter(self.estimator)
        weights = {name: sample_weight} if name and sample_weight is not None else {}
        self.estimators_, self.thresholds_ = [], None
        for label in np.asarray(y, np.int64).T:
            if label.min() == label.max():
                constant = DummyClassifier(strategy="constant", constant=int(label[0]))
                self.estimators_.append(constant.fit(X[:1], label[:1]))
            else:
                self.estimators_.append(clone(self.estimator).fit(X, label, **weights))
        self.classes_, self.n_features_in_ = np.arange(len(self.estimators_)), X.shape[1]
        return self

    def predict_proba(self, X: NDArray[Any]) -> NDArray[np.float64]:
        """The probability of each label, shape (n, c)."""
        columns = [fitted.predict_proba(X)[:, fitted.classes_ == 1].sum(axis=1) for fitted in self.estimators_]
        return np.column_stack(columns).astype(np.float64)

    def predict(self, X: NDArray[Any]) -> NDArray[np.int64]:
        """1 for labels whose probability is above its threshold, else 0, shape (n, c)."""
        return decide(self.predict_proba(X), self.thresholds_)
