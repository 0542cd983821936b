"""`LinearHead`: L2-regularised softmax regression, solved to convergence."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logsumexp, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data


class LinearHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Softmax regression with an L2 penalty: a scikit-learn classifier.

    It minimises, as `sklearn.linear_model.LogisticRegression` does,

        C * sum_i w_i * loss(x_i, y_i) + ||coef||^2 / 2,

    where loss is the cross-entropy in nats, of one logit for two classes and of c logits for c > 2; the intercept
    is not penalised. Full-batch L-BFGS (Liu and Nocedal 1989) works on features that are centred and scaled by
    one number: the optimum is the same, the way there much shorter.

    Parameters
    ----------
    C : inverse strength of the penalty, greater than 0.
    max_iter : the most iterations.
    tol : stop when no component of the gradient exceeds tol * min(1, objective), both per unit of weight.

    Attributes
    ----------
    classes_ : ndarray, shape (c,). coef_ : ndarray, shape (c, d), or (1, d) for two classes.
    intercept_ : ndarray, shape (c,) or (1,). n_iter_ : iterations.
    """

    def __init__(self, C: float = 1.0, *, max_iter: int = 1000, tol: float = 1e-6) -> None:
        self.C = C
        self.max_iter = max_iter
        self.tol = tol

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit to X of shape (n, d) and labels y of shape (n,); float16 and float32 are worked on in float32."""
        if not self.C > 0:
            raise ValueError(f"C must be greater than 0; got {self.C}")
        x, y = validate_data(self, X, y, dtype=[np.float32, np.float64])
        check_classification_targets(y)
        weight = _check_sample_weight(sample_weight, x, dtype=x.dtype)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"LinearHead needs two classes or more; found one class: {self.classes_.tolist()}")
        mean = np.average(x, axis=0, weights=weight)
        x = x - mean
        total = float(weight.sum(dtype=np.float64))
        spread = float(weight @ np.einsum("nd,nd->n", x, x)) / total  # mean squared distance from the mean
        scale = np.sqrt(spread) or 1.0
        x /= scale
        penalty = 1 / (self.C * total * scale**2)  # of the scaled coefficients, per unit of weight
        outputs = 1 if len(self.classes_) == 2 else len(self.classes_)
        theta, self.n_iter_ = _minimise(x, labels, weight / total, penalty, outputs, self.max_iter, self.tol)
        self.coef_ = theta[:, :-1] / scale
        self.intercept_ = theta[:, -1] - self.coef_ @ mean.astype(np.float64)
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


def _minimise(
    x: NDArray[Any],
    labels: NDArray[np.int64],
    weight: NDArray[Any],
    penalty: float,
    outputs: int,
    max_iter: int,
    tol: float,
) -> tuple[NDArray[np.float64], int]:
    """Minimise sum_i weight_i loss_i + penalty/2 ||coef||^2 from zero.

    x : (n, d), centred. weight : (n,), sums to 1. Returns theta (outputs, d + 1), the intercept last, and the
    number of iterations.
    """
    d = x.shape[1]
    target = np.zeros((len(x), outputs), dtype=x.dtype)
    if outputs == 1:
        target[:, 0] = labels
    else:
        target[np.arange(len(x)), labels] = 1

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        theta = flat.reshape(outputs, d + 1)
        coef = theta[:, :-1]
        logits = x @ coef.T.astype(x.dtype) + theta[:, -1].astype(x.dtype)
        if outputs == 1:
            # -log p(y): log_expit(z) is log of the sigmoid
            losses = -np.where(target[:, 0] > 0, log_expit(logits[:, 0]), log_expit(-logits[:, 0]))
            residual = expit(logits) - target
        else:
            losses = logsumexp(logits, axis=1) - logits[np.arange(len(x)), labels]
            residual = softmax(logits, axis=1) - target
        residual *= weight[:, None]
        gradient = np.empty_like(theta)
        gradient[:, :-1] = residual.T @ x + penalty * coef
        gradient[:, -1] = residual.sum(axis=0, dtype=np.float64)
        loss = float(weight.astype(np.float64) @ losses) + penalty / 2 * float(np.vdot(coef, coef))
        return loss, gradient.ravel()

    flat, limit, iterations = np.zeros(outputs * (d + 1)), tol, 0
    while True:
        options = {"maxiter": max_iter - iterations, "gtol": limit, "ftol": 0.0, "maxcor": 20}
        result = minimize(objective, flat, jac=True, method="L-BFGS-B", options=options)
        flat, iterations = result.x, iterations + result.nit
        wanted = tol * min(1.0, float(result.fun))
        if result.nit == 0 or iterations >= max_iter or np.abs(result.jac).max() <= wanted:
            break
        limit = wanted  # separable data: the objective is far below 1, and so must the gradient be
    if iterations >= max_iter:
        warnings.warn(
            f"LinearHead stopped after max_iter={max_iter} iterations before reaching tol={tol}; raise max_iter",
            ConvergenceWarning,
            stacklevel=3,
        )
    return flat.reshape(outputs, d + 1), iterations
