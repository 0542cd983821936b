"""`LowRankPreconditioner`: the directions in which features spread most, from a sample of their rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.cache.lazy_arrays import CenteredMatrix

_RANK = 64  # 16 directions leave five times as many iterations to the solver, 256 save one in six
_SPARE, _ROUNDS = 8, 2
_ROWS = 2  # sampled, for each feature


class LowRankPreconditioner(NamedTuple):
    """Leading eigenvectors of a covariance, shape (d, r), their eigenvalues (r,), and the mean of the d - r others."""

    vectors: NDArray[np.float64]
    values: NDArray[np.float64]
    rest: float

    @classmethod
    def of(cls, centred: CenteredMatrix, weight: NDArray[np.float64]) -> LowRankPreconditioner:
        """Randomised subspace iteration (Halko, Martinsson and Tropp 2011) on rows at equal distances."""
        n, d = len(weight), len(centred.mean)
        rows = np.unique(np.linspace(0, n - 1, min(n, _ROWS * d)).astype(np.int64))
        shares = weight[rows] / max(float(weight[rows].sum()), np.finfo(float).tiny)
        sample = centred.take(rows) * np.sqrt(shares)[:, None].astype(centred.mean.dtype)
        rank = min(d, _RANK)
        basis = np.random.default_rng(0).standard_normal((d, min(d, rank + _SPARE)))
        for _ in range(_ROUNDS):  # bases in float64: `times_inverse` takes differences of what they span
            basis = np.linalg.qr((sample.T @ (sample @ basis.astype(sample.dtype))).astype(np.float64))[0]
        part = (sample @ basis.astype(sample.dtype)).astype(np.float64)
        values, inside = np.linalg.eigh(part.T @ part)
        values, vectors = np.maximum(values[-rank:], 0), basis @ inside[:, -rank:]
        rest = max(float(np.vdot(sample, sample) - values.sum()), 0.0) / (d - rank) if d > rank else values[0]
        return cls(vectors, values, rest)

    def times_inverse(self, gradient: NDArray[Any], scale: NDArray[Any], ridge: NDArray[Any]) -> NDArray[Any]:
        """(scale * covariance + ridge * identity)^-1 times each row of (..., d); scale, ridge : (...)."""
        outside = 1 / (scale * self.rest + ridge)[..., None]
        inside = 1 / (scale[..., None] * self.values + ridge[..., None])
        found = gradient * outside + ((gradient @ self.vectors) * (inside - outside)) @ self.vectors.T
        return found.astype(gradient.dtype)
