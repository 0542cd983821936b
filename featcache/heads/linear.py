"""`LinearHead`: softmax regression with an L2 penalty, solved to convergence."""

from __future__ import annotations

import numbers
import warnings
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, check_is_fitted, validate_data

from featcache.cache.lazy_arrays import CenteredMatrix, LazyRows
from featcache.heads.solvers.preconditioner import LowRankPreconditioner
from featcache.heads.solvers.softmax import BatchedProblem, CVSoftmaxProblem, Solution, solve_path

DTYPES = (np.float16, np.float32, np.float64)
"""Of features, which are not converted as a whole."""


class LinearHeadBase(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Parameters and solver of `LinearHead` and `OneVsRestHead`; see `LinearHead`."""

    def __init__(
        self,
        C: float = 1.0,
        *,
        class_weight: Any = None,
        max_iter: int = 1000,
        tol: float = 1e-8,
        device: str = "cpu",
    ) -> None:
        self.C = C
        self.class_weight = class_weight
        self.max_iter = max_iter
        self.tol = tol
        self.device = device

    def _check_parameters(self) -> None:
        for name in ("C", "tol", "max_iter"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Real) or isinstance(value, bool):
                raise ValueError(f"{name} must be a number; got {value!r}")
        if not 0 < self.C < np.inf:
            raise ValueError(f"C must be greater than 0 and finite; got {self.C}")

    def _solve(self, problem: BatchedProblem) -> Solution:
        """The minima; sets n_iter_ and warns with ConvergenceWarning if one was not reached."""
        preconditioner = LowRankPreconditioner.from_rows(problem.x, problem.weight)
        solution = next(solve_path(problem, preconditioner, [self.C], self.tol, self.max_iter, self.device))
        self.n_iter_ = int(solution.iterations.max())
        if not solution.converged.all():
            message = f"{type(self).__name__} stopped after {self.n_iter_} iterations before reaching tol={self.tol}"
            warnings.warn(f"{message}; raise max_iter, or lower C", ConvergenceWarning, stacklevel=3)
        return solution


class LinearHead(LinearHeadBase):
    """Softmax regression with an L2 penalty: a scikit-learn classifier.

    It minimizes, as `sklearn.linear_model.LogisticRegression` does,

        C * sum_i w_i * loss(x_i, y_i) + ||coef||^2 / 2,

    where loss is the cross-entropy in nats, of one logit for two classes and of c logits for c > 2. The intercept is
    not penalized. w_i is the weight of the sample times the weight of its class. The solver is described in
    `featcache.heads.solvers.softmax.solve_path`.

    Parameters
    ----------
    C : float, default 1.0
        Inverse strength of the penalty, greater than 0.
    class_weight : None, "balanced" or dict, default None
        Weights of the classes. "balanced": the sum of all weights / (c * the sum of those of the class).
    max_iter : int, default 1000
        Most iterations.
    tol : float, default 1e-8
        The solver stops when the objective is above its minimum by about this fraction or less.
    device : str, default "cpu"
        Where the passes over the rows are computed; on others than "cpu", such as "cuda", by PyTorch.

    Attributes
    ----------
    classes_ : ndarray, shape (c,)
        The classes.
    coef_ : ndarray of float64, shape (c, d), or (1, d) for two classes
        Weights.
    intercept_ : ndarray of float64, shape (c,), or (1,) for two classes
        Biases.
    n_features_in_ : int
        The number of features, d.
    n_iter_ : int
        Iterations of the solver.

    Examples
    --------
    >>> import numpy as np
    >>> from featcache import LinearHead
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1, 2], 20)
    >>> x = rng.normal(size=(60, 8)) + 3 * np.eye(3, 8)[y]
    >>> head = LinearHead(C=0.1).fit(x, y)
    >>> head.coef_.shape
    (3, 8)
    >>> head.predict(3 * np.eye(3, 8)).tolist()
    [0, 1, 2]
    """

    def fit(self, X: ArrayLike | LazyRows, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the weights.

        Parameters
        ----------
        X : array-like or LazyRows, shape (n, d)
            Features; they may be memory-mapped and larger than memory, see `featcache.cache.lazy_arrays`. float16 and
            float32 are computed in float32.
        y : array-like, shape (n,)
            Labels of two classes or more.
        sample_weight : array-like, shape (n,), optional
            Weights of the samples, not negative. None: 1 for each.

        Returns
        -------
        LinearHead
            This head.

        Raises
        ------
        ValueError
            Parameters out of range, features that are not finite, or fewer than two classes with weight.
        """
        self._check_parameters()
        if isinstance(X, LazyRows):
            check_consistent_length(X, y)
            x, y = validate_data(self, X, skip_check_array=True), np.asarray(y)
        else:  # finite values are checked block by block
            x, y = validate_data(self, X, y, dtype=list(DTYPES), ensure_all_finite=False)
        check_classification_targets(y)
        weight = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if self.class_weight is not None:
            weight = weight * self._class_weights(y, labels, weight)[labels]
        seen = self.classes_[np.unique(labels[weight > 0])].tolist()
        if len(seen) < 2:
            raise ValueError(f"LinearHead needs two classes or more with weight; found one class: {seen}")
        outputs = 1 if len(self.classes_) == 2 else len(self.classes_)
        problem = CVSoftmaxProblem(CenteredMatrix(x, weight), labels, weight, np.full(len(labels), -1), 1, outputs)
        solution = self._solve(problem)
        self.coef_, self.intercept_ = solution.coef[0], solution.intercept[0]
        return self

    def _class_weights(self, y: Any, labels: NDArray[np.int64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.class_weight != "balanced":
            weights: NDArray[np.float64] = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
            return weights
        sums = np.bincount(labels, weight)
        return np.where(sums > 0, weight.sum() / (np.count_nonzero(sums) * np.where(sums > 0, sums, 1)), 0)

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Logits, shape (n, c); for two classes the log-odds of the second, shape (n,).

        Parameters
        ----------
        X : array of shape (n, d)
            Features.
        """
        check_is_fitted(self)
        x = validate_data(self, X, dtype=[np.float32, np.float64], reset=False)
        logits = x @ self.coef_.T + self.intercept_
        return logits[:, 0] if logits.shape[1] == 1 else logits

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probabilities, shape (n, c).

        Parameters
        ----------
        X : array of shape (n, d)
            Features.
        """
        logits = self.decision_function(X)
        if logits.ndim == 1:
            return np.column_stack([expit(-logits), expit(logits)])
        return softmax(logits, axis=1)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Labels, shape (n,).

        Parameters
        ----------
        X : array of shape (n, d)
            Features.
        """
        logits = self.decision_function(X)
        index = (logits > 0).astype(np.int64) if logits.ndim == 1 else logits.argmax(axis=1)
        return self.classes_[index]

    @classmethod
    def from_weights(cls, coef: NDArray[Any], intercept: NDArray[Any], classes: NDArray[Any]) -> LinearHead:
        """A fitted head from the weights of a linear layer.

        Parameters
        ----------
        coef : ndarray, shape (c, d), or (1, d) for two classes
            Weights.
        intercept : ndarray, shape (c,), or (1,)
            Biases.
        classes : ndarray, shape (c,)
            The classes.
        """
        if len(coef) == 2:  # probabilities depend on the difference of two logits only
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        head = cls()
        head.coef_, head.intercept_ = coef.astype(np.float64), intercept.astype(np.float64)
        head.classes_, head.n_features_in_ = classes, coef.shape[1]
        return head
