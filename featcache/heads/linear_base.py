"""`LinearHeadBase`: what `LinearHead` and `OneVsRestHead` share: their parameters, and how they are solved."""

from __future__ import annotations

import numbers
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning

from featcache.heads.solvers.preconditioner import LowRankPreconditioner
from featcache.heads.solvers.softmax import BatchedProblem, Solution, solve_path

DTYPES = (np.float16, np.float32, np.float64)  # of features, as they are taken


class LinearHeadBase(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier with an L2 penalty of strength 1 / C; see `LinearHead` for the parameters."""

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

    def _check_strength(self) -> None:
        for name in ("C", "tol", "max_iter"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Real) or isinstance(value, bool):
                raise ValueError(f"{name} must be a number; got {value!r}")
        if not 0 < self.C < np.inf:
            raise ValueError(f"C must be greater than 0 and finite; got {self.C}")

    def _solve(self, problems: BatchedProblem, weight: NDArray[np.float64]) -> Solution:
        """The minima, and a ConvergenceWarning where one was not reached; sets n_iter_. weight : of the rows, (n,)."""
        spectrum = LowRankPreconditioner.of(problems.x, weight)
        found = next(solve_path(problems, spectrum, [self.C], self.tol, self.max_iter, self.device))
        self.n_iter_ = int(found.iterations.max())
        if not found.converged.all():
            said = f"{type(self).__name__} stopped after {self.n_iter_} iterations before reaching tol={self.tol}"
            warnings.warn(f"{said}; raise max_iter, or lower C", ConvergenceWarning, stacklevel=3)
        return found
