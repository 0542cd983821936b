"""`LowRankPreconditioner`: the leading eigenvectors of the covariance of features, from a sample of their rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.cache.lazy_arrays import CenteredMatrix

_RANK = 64  # with 16 the solver takes five times as many iterations, with 256 a sixth fewer
_OVERSAMPLING, _ITERATIONS = 8, 2
_ROWS = 2  # of the sample, for each feature


class LowRankPreconditioner(NamedTuple):
    """Leading eigenvectors of a covariance, shape (d, r), their eigenvalues (r,), and the mean of the d - r others."""

    vectors: NDArray[np.float64]
    values: NDArray[np.float64]
    rest: float

    @classmethod
    def from_rows(cls, x: CenteredMatrix, weight: NDArray[np.float64]) -> LowRankPreconditioner:
        """Randomized subspace iteration (Halko, Martinsson and Tropp 2011) on equally spaced rows."""
        n, d = len(weight), len(x.mean)
        rows = np.unique(np.linspace(0, n - 1, min(n, _ROWS * d)).astype(np.int64))
        fractions = weight[rows] / max(float(weight[rows].sum()), np.finfo(float).tiny)
        sample = x.take(rows) * np.sqrt(fractions)[:, None].astype(x.mean.dtype)
        rank = min(d, _RANK)
        basis = np.random.default_rng(0).standard_normal((d, min(d, rank + _OVERSAMPLING)))
        for _ in range(_ITERATIONS):  # bases in float64: `solve` subtracts projections on them
            basis = np.linalg.qr((sample.T @ (sample @ basis.astype(sample.dtype))).astype(np.float64))[0]
        projected = (sample @ basis.astype(sample.dtype)).astype(np.float64)
        values, inside = np.linalg.eigh(projected.T @ projected)
        values, vectors = np.maximum(values[-rank:], 0), basis @ inside[:, -rank:]
        rest = max(float(np.vdot(sample, sample) - values.sum()), 0.0) / (d - rank) if d > rank else values[0]
        return cls(vectors, values, rest)

    def solve(self, gradient: NDArray[Any], scale: NDArray[Any], ridge: NDArray[Any]) -> NDArray[Any]:
        """(scale * covariance + ridge * identity)^-1 times each row of (..., d); scale, ridge : (...)."""
        outside = 1 / (scale * self.rest + ridge)[..., None]
        inside = 1 / (scale[..., None] * self.values + ridge[..., None])
        solution = gradient * outside + ((gradient @ self.vectors) * (inside - outside)) @ self.vectors.T
        return solution.astype(gradient.dtype)
