"""`OneVsRestHead`: a logistic regression for each of several labels, all solved together."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from sklearn.utils.validation import (
    _check_sample_weight,
    check_consistent_length,
    check_is_fitted,
    validate_data,
)

from featcache.cache.lazy_arrays import CenteredMatrix, LazyRows
from featcache.core.thresholds import decide
from featcache.heads.linear import DTYPES, LinearHeadBase
from featcache.heads.solvers.one_vs_rest import OneVsRestProblem, balance_labels


class OneVsRestHead(LinearHeadBase):
    """Logistic regression with an L2 penalty for each of c labels; an image can have several.

    For each label it minimizes the objective of `LinearHead` for two classes: images without and with the label.

    Parameters
    ----------
    C : float, default 1.0
        Inverse strength of the penalty, greater than 0.
    class_weight : None, "balanced" or dict
        "balanced": for each label, images with and without it have the same total weight. A dict has the weight of
        images with a label, by its index.
    max_iter, tol, device
        See `LinearHead`.

    Attributes
    ----------
    classes_ : ndarray, shape (c,)
        0 to c - 1.
    coef_ : ndarray, shape (c, d)
        Weights.
    intercept_ : ndarray, shape (c,)
        Biases.
    n_iter_ : int
        Iterations, the most of all labels.
    thresholds_ : ndarray, shape (c,), optional
        Probabilities above which labels are predicted; None: 0.5 for each.
    """

    multilabel_ = True
    thresholds_: NDArray[np.float64] | None = None

    def fit(self, X: ArrayLike | LazyRows, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit to X of shape (n, d), which may be memory-mapped, and labels y of shape (n, c), 0 or 1."""
        self._check_parameters()
        if isinstance(X, LazyRows):
            x = validate_data(self, X, skip_check_array=True)
        else:  # finite values are checked block by block
            x = validate_data(self, X, dtype=list(DTYPES), ensure_all_finite=False)
        check_consistent_length(x, y)
        labels = np.asarray(y)
        if labels.ndim != 2 or not labels.shape[1] or not np.isin(labels, (0, 1)).all():
            raise ValueError("y must have a column of 0 and 1 for each label")
        labels = labels.astype(np.uint8)
        weight = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
        balance = balance_labels(self.class_weight, labels, weight)
        problem = OneVsRestProblem(CenteredMatrix(x, weight), labels, weight, balance, np.full(len(labels), -1), 1)
        solution = self._solve(problem)
        self._set_weights(solution.coef[:, 0], solution.intercept[:, 0])
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Log-odds of each label, shape (n, c)."""
        check_is_fitted(self)
        x = validate_data(self, X, dtype=[np.float32, np.float64], reset=False)
        logits: NDArray[np.float64] = x @ self.coef_.T + self.intercept_
        return logits

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """The probability of each label, shape (n, c)."""
        return expit(self.decision_function(X))

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """1 for labels whose probability is above its threshold, else 0, shape (n, c)."""
        if self.thresholds_ is None:
            return (self.decision_function(X) > 0).astype(np.int64)
        return decide(self.predict_proba(X), self.thresholds_)

    def _set_weights(self, coef: NDArray[Any], intercept: NDArray[Any]) -> None:
        self.coef_, self.intercept_ = coef.astype(np.float64), intercept.astype(np.float64)
        self.classes_, self.n_features_in_, self.thresholds_ = np.arange(len(coef)), coef.shape[1], None

    @classmethod
    def from_weights(cls, coef: NDArray[Any], intercept: NDArray[Any]) -> OneVsRestHead:
        """A fitted head from coef (c, d) and intercept (c,), of any dtype."""
        head = cls()
        head._set_weights(coef, intercept)
        return head
