"""`RowSpace`: fewer rows than features span a smaller space, in which linear heads have the same solutions."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.cache.lazy_arrays import LazyRows
from featcache.heads.solvers.path import Layer

_LARGEST = 0.75  # rows, as a fraction of the features; with more the decomposition costs as much as it saves
_MAX_BYTES = 2**29  # of the rows, which are read as a whole
_MAX_PRODUCTS = 2**34  # of the decomposition, n * n * d: some seconds


def is_smaller(n: int, d: int, itemsize: int = 4) -> bool:
    """Whether the space of n rows of d features is much smaller than d, and can be computed in seconds."""
    return n <= _LARGEST * d and n * d * itemsize <= _MAX_BYTES and n * n * d <= _MAX_PRODUCTS


class RowSpace(NamedTuple):
    """An orthonormal basis of the space that rows minus a mean span.

    A penalty of ||coef||^2 keeps the coefficients in this space: any part outside it changes no logit of the rows and
    only adds to the penalty. So a head for projected rows, expanded again, is that for the rows themselves.

    basis : shape (d, r), r <= d. mean : of the rows, shape (d,).
    """

    basis: NDArray[Any]
    mean: NDArray[Any]

    @classmethod
    def from_rows(cls, x: NDArray[Any] | LazyRows) -> RowSpace | None:
        """The space of rows of shape (n, d); None if it is not much smaller than d, or does not fit in memory."""
        dtype = np.float64 if x.dtype == np.float64 else np.float32
        if not is_smaller(len(x), x.shape[1], np.dtype(dtype).itemsize):
            return None
        rows = np.asarray(x[:], dtype)
        mean = rows.mean(axis=0, dtype=np.float64).astype(dtype)
        return cls(np.linalg.qr((rows - mean).T)[0], mean)

    def project(self, x: NDArray[Any] | LazyRows) -> NDArray[Any]:
        """Rows of shape (m, d) in this space, shape (m, r)."""
        return (np.asarray(x[:], self.mean.dtype) - self.mean) @ self.basis

    def expand(self, layer: Layer) -> Layer:
        """The layer for features, from one for projected features."""
        coef = layer.coef @ self.basis.T.astype(np.float64)
        return Layer(coef, layer.intercept - coef @ self.mean.astype(np.float64))

    def project_layer(self, layer: Layer) -> Layer:
        """The layer for projected features that gives the rows the same logits as one for features."""
        coef = layer.coef @ self.basis.astype(np.float64)
        return Layer(coef, layer.intercept + layer.coef @ self.mean.astype(np.float64))
