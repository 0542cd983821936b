"""`DualRidge`: ridge in the space of the images, for many choices of features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

_TINY = float(np.finfo(np.float32).tiny)


class Kernel(NamedTuple):
    """Inner products of m images, (m, m), and how many features they are of."""

    products: NDArray[np.float64]
    width: int

    @classmethod
    def of(cls, x: NDArray[np.float32]) -> Kernel:
        """Of rows of shape (m, d)."""
        return cls((x @ x.T).astype(np.float64), x.shape[1])


class DualRidge:
    """Least squares with an L2 penalty on m images: problem f holds out fold f, the last one none.

    A penalty is a strength times the mean variance of a feature, as of `RegularizedCovariances`.

    targets : (m, c). weight : of the images, (m,). fold : (m,); -1 is in all problems. folds : their number.
    """

    def __init__(
        self, targets: NDArray[np.float64], weight: NDArray[np.float64], fold: NDArray[np.int64], folds: int
    ) -> None:
        self._targets, self._weight, self._fold = targets, weight, fold
        self._train = [np.flatnonzero(fold != number) for number in range(folds + 1)]

    def held_out(self, kernels: Sequence[Kernel], strength: float) -> NDArray[np.float64]:
        """What the problems predict for the images that they hold out, in the order of the images, (h, c).

        kernels : of each problem that holds out a fold.
        """
        result = np.full(self._targets.shape, np.nan)
        for number, (kernel, train) in enumerate(zip(kernels, self._train, strict=False)):
            rows = np.flatnonzero(self._fold == number)
            coef, offset, centered = self._fit(kernel, train, strength)
            result[rows] = centered[rows] @ coef + offset
        return result[self._fold >= 0]

    def coefs(self, kernel: Kernel, strength: float, x: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """Coefficients of each problem, (c, d); x : the rows of the kernel, (m, d)."""
        for train in self._train:
            yield self._fit(kernel, train, strength)[0].T.astype(np.float32) @ x[train]

    def _fit(
        self, kernel: Kernel, train: NDArray[np.int64], strength: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Dual coefficients (t, c), offset (c,), and the products of all images with those of train, centered."""
        weight = self._weight[train] / self._weight[train].sum()
        means = kernel.products[:, train] @ weight
        centered = kernel.products[:, train] - means[:, None] - means[train] + means[train] @ weight
        offset = weight @ self._targets[train]
        penalty = strength * max(float(weight @ centered[train, np.arange(len(train))]), _TINY) / kernel.width
        matrix = centered[train]
        matrix[np.diag_indices_from(matrix)] += penalty / weight
        factor = cho_factor(matrix, overwrite_a=True, check_finite=False)
        return cho_solve(factor, self._targets[train] - offset, check_finite=False), offset, centered
