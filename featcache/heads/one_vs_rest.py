"""`OneVsRestHead`: for each of several labels whether an image has it, all solved together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
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

from featcache.cache.lazy_arrays import BLOCK_BYTES, CenteredMatrix, LazyRows
from featcache.core.thresholds import decide
from featcache.heads.linear_base import DTYPES, LinearHeadBase


class OneVsRestProblem:
    """c logistic regressions for each of some folds, on the same n rows: problem f * c + l is that of label l without
    the rows of fold f; those of the last f leave out none. See `featcache.heads.solvers.softmax.BatchedProblem`.

    A problem that sees a label on all rows or on none has nothing to learn, and stays at the odds that it starts from.

    Parameters
    ----------
    labels : (n, c), uint8, 0 or 1. weight : (n,), of the rows, not negative. balance : (c, 2), of those without and of
    those with a label. fold : (n,), int64, or -1 for rows that no problem leaves out. folds : one more than there are.
    """

    outputs = 1

    def __init__(
        self,
        x: CenteredMatrix,
        labels: NDArray[np.uint8],
        weight: NDArray[np.float64],
        balance: NDArray[np.float64],
        fold: NDArray[np.int64],
        folds: int,
    ) -> None:
        self.x, self.weight = x, weight
        self.k = folds * len(balance)
        self._labels, self._fold, self._balance = labels, fold, balance
        here = weight * (fold != np.arange(folds)[:, None])
        self._shares = np.tile(balance, (folds, 1)) * _weigh(labels, here).reshape(-1, 2)
        self._learns = (self._shares.min(axis=1) > 0).astype(np.float64)

    def shares(self) -> NDArray[np.float64]:
        """The weight without and with the label in each problem, shape (k, 2)."""
        return self._shares

    def weights(self, rows: slice, which: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of b rows in the a problems `which`, shape (a, b)."""
        c = len(self._balance)
        without, more = self._balance[which % c, :1], self._balance[which % c, 1:] - self._balance[which % c, :1]
        found = self.weight[rows] * (self._fold[rows] != (which // c)[:, None])
        found *= without + more * self.targets(rows, which)
        found *= self._learns[which, None]
        return found

    def targets(self, rows: slice, which: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Whether b rows have the labels of the a problems `which`, shape (a, b)."""
        return self._labels[rows].T[which % len(self._balance)]

    def moved(self, move: Callable[[NDArray[Any]], Any]) -> OneVsRestProblem:
        """See `featcache.heads.solvers.softmax.BatchedProblem`."""
        there = copy(self)
        for name in ("weight", "_labels", "_fold", "_balance", "_learns"):
            setattr(there, name, move(getattr(self, name)))
        return there


def _weigh(labels: NDArray[np.uint8], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weight of rows without and with each label, exactly 0 where there are none; (f, n) to (f, c, 2)."""
    found = np.zeros((len(weight), labels.shape[1], 2))
    step = max(1, BLOCK_BYTES // (8 * labels.shape[1]))
    for start in range(0, len(labels), step):
        has, some = labels[start : start + step].astype(np.float64), weight[:, start : start + step]
        found[..., 0] += some @ (1 - has)
        found[..., 1] += some @ has
    return found


def balance_labels(class_weight: Any, labels: NDArray[np.uint8], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much images without and with each label count, shape (c, 2); see `OneVsRestHead`."""
    counts = np.ones((labels.shape[1], 2))
    if class_weight is None:
        return counts
    if class_weight == "balanced":
        sums = _weigh(labels, weight[None])[0]
        return np.where(sums > 0, weight.sum() / (2 * np.where(sums > 0, sums, 1)), 1)
    if not isinstance(class_weight, Mapping):
        raise ValueError(f"class_weight must be None, 'balanced' or a dict; got {class_weight!r}")
    for label, factor in class_weight.items():
        known = isinstance(label, (int, np.integer)) and 0 <= label < len(counts)
        if not (known and isinstance(factor, (int, float, np.number)) and 0 < factor < np.inf):
            raise ValueError(
                f"class_weight has {label!r}: {factor!r}; it takes labels 0 to {len(counts) - 1} and weights above 0"
            )
        counts[label, 1] = factor
    return counts


class OneVsRestHead(LinearHeadBase):
    """Logistic regression with an L2 penalty for each of c labels, which an image may have together.

    For each label it minimises what `LinearHead` does for two classes: that the image lacks it, and that it has it.

    Parameters
    ----------
    C : inverse strength of the penalty, greater than 0.
    class_weight : None, "balanced" (of each label, images with and without it count as much), or a dict of label to the
        weight of images that have it.
    max_iter, tol, device : see `LinearHead`.

    Attributes
    ----------
    classes_ : 0 to c - 1. coef_ : ndarray, shape (c, d). intercept_ : (c,). n_iter_ : the most of a label.
    thresholds_ : (c,), the probabilities above which labels are predicted; None is 0.5 for each.
    """

    multilabel_ = True
    thresholds_: NDArray[np.float64] | None = None

    def fit(self, X: ArrayLike | LazyRows, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit to X of shape (n, d), perhaps memory-mapped, and labels y of shape (n, c), 0 or 1."""
        self._check_strength()
        if isinstance(X, LazyRows):
            x = validate_data(self, X, skip_check_array=True)
        else:  # whether X is finite is found out block by block
            x = validate_data(self, X, dtype=list(DTYPES), ensure_all_finite=False)
        check_consistent_length(x, y)
        labels = np.asarray(y)
        if labels.ndim != 2 or not labels.shape[1] or not np.isin(labels, (0, 1)).all():
            raise ValueError("y must have a column of 0 and 1 for each label")
        labels = labels.astype(np.uint8)
        weight = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
        balance = balance_labels(self.class_weight, labels, weight)
        problems = OneVsRestProblem(CenteredMatrix(x, weight), labels, weight, balance, np.full(len(labels), -1), 1)
        found = self._solve(problems, weight)
        self._set(found.coef[:, 0], found.intercept[:, 0])
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
        """1 for the labels that are more probable than their thresholds, shape (n, c)."""
        if self.thresholds_ is None:
            return (self.decision_function(X) > 0).astype(np.int64)
        return decide(self.predict_proba(X), self.thresholds_)

    def _set(self, coef: NDArray[Any], intercept: NDArray[Any]) -> None:
        self.coef_, self.intercept_ = coef.astype(np.float64), intercept.astype(np.float64)
        self.classes_, self.n_features_in_, self.thresholds_ = np.arange(len(coef)), coef.shape[1], None

    @classmethod
    def from_weights(cls, coef: NDArray[Any], intercept: NDArray[Any]) -> OneVsRestHead:
        """A fitted head from coef (c, d) and intercept (c,)."""
        head = cls()
        head._set(coef, intercept)
        return head
