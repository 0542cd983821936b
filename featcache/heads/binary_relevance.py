"""`BinaryRelevance`: any classifier of one label as one of several."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.dummy import DummyClassifier

from featcache.core.thresholds import decide
from featcache.heads.registry import weight_parameter


class BinaryRelevance(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier for each of c labels, which an image may have together.

    scikit-learn's OneVsRestClassifier takes no sample weights, and cannot be saved with a label that all images have.

    Parameters
    ----------
    estimator : a classifier with `predict_proba`.

    Attributes
    ----------
    estimators_ : c fitted ones. classes_ : 0 to c - 1.
    thresholds_ : (c,), see `featcache.core.thresholds.decide`; or None.
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
        for has in np.asarray(y, np.int64).T:
            if has.min() == has.max():
                constant = DummyClassifier(strategy="constant", constant=int(has[0]))
                self.estimators_.append(constant.fit(X[:1], has[:1]))
            else:
                self.estimators_.append(clone(self.estimator).fit(X, has, **weights))
        self.classes_, self.n_features_in_ = np.arange(len(self.estimators_)), X.shape[1]
        return self

    def predict_proba(self, X: NDArray[Any]) -> NDArray[np.float64]:
        """The probability of each label, shape (n, c)."""
        shares = (one.predict_proba(X)[:, one.classes_ == 1].sum(axis=1) for one in self.estimators_)
        return np.column_stack(list(shares)).astype(np.float64)

    def predict(self, X: NDArray[Any]) -> NDArray[np.int64]:
        """1 for the labels that are more probable than their thresholds, shape (n, c)."""
        return decide(self.predict_proba(X), self.thresholds_)
