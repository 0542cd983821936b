"""`LinearHead`: L2-regularised softmax regression, solved to convergence."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, softmax
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, check_is_fitted, validate_data

from featcache.cache.lazy_arrays import CenteredMatrix, LazyRows
from featcache.heads.linear_base import DTYPES, LinearHeadBase
from featcache.heads.solvers.softmax import CVSoftmaxProblem


class LinearHead(LinearHeadBase):
    """Softmax regression with an L2 penalty: a scikit-learn classifier.

    It minimises, as `sklearn.linear_model.LogisticRegression` does,

        C * sum_i w_i * loss(x_i, y_i) + ||coef||^2 / 2,

    where loss is the cross-entropy in nats, of one logit for two classes and of c logits for c > 2; the intercept
    is not penalised; w_i is the sample's weight times its class's. See `featcache.heads.solvers.softmax` for how.

    Parameters
    ----------
    C : inverse strength of the penalty, greater than 0.
    class_weight : None, "balanced" (all weights / (c * those of the class)), or a dict of class to weight.
    max_iter : the most iterations.
    tol : stop when the objective lies above its minimum by about this share or less.
    device : where the passes over the rows are made; other than "cpu", such as "cuda", by PyTorch.

    Attributes
    ----------
    classes_ : ndarray, shape (c,). coef_ : ndarray, shape (c, d), or (1, d) for two classes.
    intercept_ : ndarray, shape (c,) or (1,). n_iter_ : iterations.
    """

    def fit(self, X: ArrayLike | LazyRows, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit to X of shape (n, d) and labels y of shape (n,); float16 and float32 are worked on in float32.

        X may be memory-mapped and larger than memory, see `featcache.cache.lazy_arrays`.
        """
        self._check_strength()
        if isinstance(X, LazyRows):
            check_consistent_length(X, y)
            x, y = validate_data(self, X, skip_check_array=True), np.asarray(y)
        else:  # whether X is finite is found out block by block
            x, y = validate_data(self, X, y, dtype=list(DTYPES), ensure_all_finite=False)
        check_classification_targets(y)
        weight = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if self.class_weight is not None:
            weight = weight * self._by_class(y, labels, weight)[labels]
        seen = self.classes_[np.unique(labels[weight > 0])].tolist()
        if len(seen) < 2:
            raise ValueError(f"LinearHead needs two classes or more with weight; found one class: {seen}")
        outputs = 1 if len(self.classes_) == 2 else len(self.classes_)
        problem = CVSoftmaxProblem(CenteredMatrix(x, weight), labels, weight, np.full(len(labels), -1), 1, outputs)
        solution = self._solve(problem, weight)
        self.coef_, self.intercept_ = solution.coef[0], solution.intercept[0]
        return self

    def _by_class(self, y: Any, labels: NDArray[np.int64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.class_weight != "balanced":
            found: NDArray[np.float64] = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
            return found
        sums = np.bincount(labels, weight)
        return np.where(sums > 0, weight.sum() / (np.count_nonzero(sums) * np.where(sums > 0, sums, 1)), 0)

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
