"""`LinearHead`: L2-regularised softmax regression, solved to convergence."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, check_is_fitted, validate_data

from featcache.blocks import Centred, Rows
from featcache.lbfgs import Objective, minimise


class LinearHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Softmax regression with an L2 penalty: a scikit-learn classifier.

    It minimises, as `sklearn.linear_model.LogisticRegression` does,

        C * sum_i w_i * loss(x_i, y_i) + ||coef||^2 / 2,

    where loss is the cross-entropy in nats, of one logit for two classes and of c logits for c > 2; the intercept
    is not penalised. Full-batch L-BFGS works on features that are centred and scaled by one number: the optimum
    is the same, the way there much shorter.

    Parameters
    ----------
    C : inverse strength of the penalty, greater than 0.
    max_iter : the most iterations.
    tol : stop when the gradient says that the objective is within this share of its minimum.

    Attributes
    ----------
    classes_ : ndarray, shape (c,). coef_ : ndarray, shape (c, d), or (1, d) for two classes.
    intercept_ : ndarray, shape (c,) or (1,). n_iter_ : iterations.
    """

    def __init__(self, C: float = 1.0, *, max_iter: int = 1000, tol: float = 1e-6) -> None:
        self.C = C
        self.max_iter = max_iter
        self.tol = tol

    def fit(self, X: ArrayLike | Rows, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit to X of shape (n, d) and labels y of shape (n,); float16 and float32 are worked on in float32.

        X may be memory-mapped and larger than memory, see `featcache.blocks`.
        """
        if not self.C > 0:
            raise ValueError(f"C must be greater than 0; got {self.C}")
        if isinstance(X, Rows):
            check_consistent_length(X, y)
            x, y = validate_data(self, X, skip_check_array=True), np.asarray(y)
        else:  # whether X is finite is found out block by block
            kinds = [np.float16, np.float32, np.float64]
            x, y = validate_data(self, X, y, dtype=kinds, ensure_all_finite=False)
        check_classification_targets(y)
        weight = _check_sample_weight(sample_weight, x, dtype=np.float64)
        self.classes_, labels = np.unique(y, return_inverse=True)
        seen = self.classes_[np.unique(labels[weight > 0])].tolist()
        if len(seen) < 2:
            raise ValueError(f"LinearHead needs two classes or more with weight; found one class: {seen}")
        total = float(weight.sum())
        centred = Centred(x, weight)
        penalty = 1 / (self.C * total * centred.spread**2)  # of the scaled coefficients, per unit of weight
        outputs = 1 if len(self.classes_) == 2 else len(self.classes_)
        objective = _objective(centred, labels, weight / total, penalty, outputs)
        shares = np.bincount(labels, weight) / total
        start = np.zeros((outputs, x.shape[1] + 1))  # the best without any coefficients
        start[:, -1] = np.log(shares[1] / shares[0]) if outputs == 1 else np.log(np.maximum(shares, 1e-9))
        # The penalty curves the objective by at least `penalty` in every coefficient. The intercept has none, but
        # where the penalty is strong the probabilities stay near the shares, whose curvature is at least the smallest.
        curvature = min(penalty, float(shares[shares > 0].min()) / 2)

        def done(value: float, gradient: NDArray[np.float64]) -> bool:
            return float(gradient @ gradient) / (2 * curvature) <= self.tol * value

        found = minimise(objective, start.ravel(), done, self.max_iter)
        self.n_iter_ = found.iterations
        if not found.converged:
            said = f"LinearHead stopped after {found.iterations} iterations before reaching tol={self.tol}"
            warnings.warn(f"{said}; raise max_iter, or lower C", ConvergenceWarning, stacklevel=2)
        theta = found.x.reshape(outputs, -1)
        self.coef_ = theta[:, :-1] / centred.spread
        self.intercept_ = theta[:, -1] - self.coef_ @ centred.mean.astype(np.float64)
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Logits, shape (n, c); for two classes the log-odds of the second, shape (n,)."""
        check_is_fitted(self)
        x = validate_data(self, X, dtype=[np.float32, np.float64], reset=False)
        logits = x @ self.coef_.T + self.intercept_
        return logits[:, 0] if logits.shape[1] == 1 else logits

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probabilities, shape (n, c)."""
        logits = self.decision_function(X)
        if logits.ndim == 1:
            return np.column_stack([expit(-logits), expit(logits)])
        return softmax(logits, axis=1)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Labels, shape (n,)."""
        logits = self.decision_function(X)
        index = (logits > 0).astype(np.int64) if logits.ndim == 1 else logits.argmax(axis=1)
        return self.classes_[index]

    @classmethod
    def from_weights(cls, coef: NDArray[Any], intercept: NDArray[Any], classes: NDArray[Any]) -> LinearHead:
        """A fitted head from the weights of a linear layer: coef (c, d), or (1, d) for two classes."""
        if len(coef) == 2:  # two logits say no more than their difference
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        head = cls()
        head.coef_, head.intercept_ = coef.astype(np.float64), intercept.astype(np.float64)
        head.classes_, head.n_features_in_ = classes, coef.shape[1]
        return head


def _objective(
    centred: Centred, labels: NDArray[np.int64], weight: NDArray[np.float64], penalty: float, outputs: int
) -> Objective:
    """sum_i weight_i loss_i + penalty/2 ||coef||^2, as a function of the flat (outputs, d + 1), intercept last.

    coef is that of features scaled to a spread of 1. weight : (n,), sums to 1.
    """
    dtype, scale = centred.mean.dtype, centred.spread

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        theta = flat.reshape(outputs, -1)
        coef, intercept = (theta[:, :-1] / scale).astype(dtype), theta[:, -1].astype(dtype)
        loss, gradient = 0.0, np.zeros_like(theta)
        for rows, x in centred:
            losses, residual = _cross_entropy(x @ coef.T + intercept, labels[rows])
            residual *= weight[rows, None].astype(dtype)
            loss += float(weight[rows] @ losses)
            gradient[:, :-1] += residual.T @ x
            gradient[:, -1] += residual.sum(axis=0, dtype=np.float64)
        gradient[:, :-1] = gradient[:, :-1] / scale + penalty * theta[:, :-1]
        return loss + penalty / 2 * float(np.vdot(theta[:, :-1], theta[:, :-1])), gradient.ravel()

    return objective


def _cross_entropy(logits: NDArray[Any], labels: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Losses (n,) in nats and their derivatives by the logits (n, outputs).

    Both come from the margins to the own class, so that small ones keep all their digits in float32.
    """
    if logits.shape[1] == 1:
        sign = (1 - 2 * labels).astype(logits.dtype)
        margin = sign * logits[:, 0]
        return np.logaddexp(0, margin), (sign * expit(margin))[:, None]
    rows = np.arange(len(logits))
    margins = logits - logits[rows, labels][:, None]
    top = margins.max(axis=1)  # 0 where the own class leads
    odds = np.exp(margins - top[:, None])
    own = odds[rows, labels]
    odds[rows, labels] = 0
    others = odds.sum(axis=1)
    losses = np.where(top > 0, top + np.log(own + others), np.log1p(others))
    odds[rows, labels] = -others
    return losses, odds / (own + others)[:, None]
