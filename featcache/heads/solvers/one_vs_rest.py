"""`OneVsRestProblem`: a logistic regression for each of several labels, all solved together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.cache.lazy_arrays import BLOCK_BYTES, CenteredMatrix


class OneVsRestProblem:
    """c logistic regressions for each fold, on the same n rows; see `featcache.heads.solvers.softmax.BatchedProblem`.

    Problem f * c + l is that of label l without the rows of fold f; the last c problems hold out no rows. A problem in
    which all rows have the label, or none, learns nothing and stays at its initial odds.

    Parameters
    ----------
    x : CenteredMatrix
        The rows.
    labels : ndarray of uint8, shape (n, c)
        0 or 1.
    weight : ndarray, shape (n,)
        Of the rows, not negative.
    balance : ndarray, shape (c, 2)
        Weights of rows without and with each label.
    fold : ndarray of int64, shape (n,)
        -1 for rows that no problem holds out.
    folds : int
        The number of folds plus 1.
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
        weights = weight * (fold != np.arange(folds)[:, None])
        self._class_weights = np.tile(balance, (folds, 1)) * _weigh(labels, weights).reshape(-1, 2)
        self._learns = (self._class_weights.min(axis=1) > 0).astype(np.float64)

    def class_weights(self) -> NDArray[np.float64]:
        """The sum of the weights of rows without and with the label in each problem, shape (k, 2)."""
        return self._class_weights

    def weights(self, rows: slice, problem_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Weights of b rows in the a problems with these indices, shape (a, b)."""
        c = len(self._balance)
        balance = self._balance[problem_ids % c]
        without, difference = balance[:, :1], balance[:, 1:] - balance[:, :1]
        weights = self.weight[rows] * (self._fold[rows] != (problem_ids // c)[:, None])
        weights *= without + difference * self.targets(rows, problem_ids)
        weights *= self._learns[problem_ids, None]
        return weights

    def targets(self, rows: slice, problem_ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Whether b rows have the labels of the a problems with these indices, shape (a, b)."""
        return self._labels[rows].T[problem_ids % len(self._balance)]

    def to_device(self, move: Callable[[NDArray[Any]], Any]) -> OneVsRestProblem:
        """See `featcache.heads.solvers.softmax.BatchedProblem`."""
        problem = copy(self)
        for name in ("weight", "_labels", "_fold", "_balance", "_learns"):
            setattr(problem, name, move(getattr(self, name)))
        return problem


def _weigh(labels: NDArray[np.uint8], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum of the weights of rows without and with each label, exactly 0 if there are none; (f, n) to (f, c, 2)."""
    sums = np.zeros((len(weight), labels.shape[1], 2))
    step = max(1, BLOCK_BYTES // (8 * labels.shape[1]))
    for start in range(0, len(labels), step):
        has_label, block = labels[start : start + step].astype(np.float64), weight[:, start : start + step]
        sums[..., 0] += block @ (1 - has_label)
        sums[..., 1] += block @ has_label
    return sums


def balance_labels(class_weight: Any, labels: NDArray[np.uint8], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights of images without and with each label, shape (c, 2); see `OneVsRestHead`. Raises ValueError."""
    balance = np.ones((labels.shape[1], 2))
    if class_weight is None:
        return balance
    if class_weight == "balanced":
        sums = _weigh(labels, weight[None])[0]
        return np.where(sums > 0, weight.sum() / (2 * np.where(sums > 0, sums, 1)), 1)
    if not isinstance(class_weight, Mapping):
        raise ValueError(f"class_weight must be None, 'balanced' or a dict; got {class_weight!r}")
    for label, factor in class_weight.items():
        is_label = isinstance(label, (int, np.integer)) and 0 <= label < len(balance)
        if not (is_label and isinstance(factor, (int, float, np.number)) and 0 < factor < np.inf):
            raise ValueError(
                f"class_weight has {label!r}: {factor!r}; it takes labels 0 to {len(balance) - 1} and weights above 0"
            )
        balance[label, 1] = factor
    return balance
