"""Computations over large matrices, a block of rows at a time, so that memory does not grow with their size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


def iter_blocks(n_rows: int, row_bytes: int, block_bytes: int) -> Iterator[slice]:
    """Consecutive slices over `n_rows` rows; each holds at most `block_bytes`, but at least one row."""
    step = max(1, block_bytes // max(1, row_bytes))
    yield from (slice(start, min(n_rows, start + step)) for start in range(0, n_rows, step))


def iter_similarities(
    x: NDArray[np.float32], rows: NDArray[np.int64], block_bytes: int, others: NDArray[np.float32] | None = None
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Inner products of some rows with all rows, or with those of another matrix.

    Parameters
    ----------
    x : ndarray, shape (n, d), float32
        With rows of length 1, see `unit_rows`, the inner products are cosines.
    rows : ndarray, shape (m,), int64
        Row numbers.
    block_bytes : int
        The most bytes of one block.
    others : ndarray, shape (k, d), float32, optional
        The rows to compare with. Default: x.

    Yields
    ------
    block : slice
        A part of `rows`.
    similarities : ndarray, shape (b, k), float32
        Inner products of `x[rows[block]]` with each of the other rows. The caller may change it.
    """
    others = x if others is None else others
    for block in iter_blocks(len(rows), x.itemsize * len(others), block_bytes):
        yield block, x[rows[block]] @ others.T


def unit_rows(x: NDArray[Any]) -> NDArray[np.float32]:
    """The rows of x, shape (n, d), scaled to length 1; rows of zeros stay as they are."""
    x = np.asarray(x, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def nearest_columns(similarities: NDArray[Any], k: int) -> NDArray[np.int64]:
    """The columns of the k largest values of each row, largest first: shape (b, k)."""
    columns = np.argpartition(-similarities, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(similarities, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1)


class RunningMoments:
    """Mean and standard deviation of each column, updated a block of rows at a time.

    The update is that of Chan, Golub and LeVeque (1983, "Algorithms for computing the sample variance"). All arithmetic
    is in float64.

    Attributes
    ----------
    n : int
        Rows so far.
    mean : ndarray, shape (d,)
    squares : ndarray, shape (d,)
        Sum of the squared distances from the mean.
    """

    def __init__(self, d: int) -> None:
        self.n = 0
        self.mean: NDArray[np.float64] = np.zeros(d)
        self.squares: NDArray[np.float64] = np.zeros(d)

    def update(self, block: NDArray[Any]) -> None:
        """Add rows, shape (b, d), b of 1 or more."""
        block = np.asarray(block, np.float64)
        mean = block.mean(axis=0)
        weight = len(block) / (self.n + len(block))
        difference = mean - self.mean
        self.squares = self.squares + ((block - mean) ** 2).sum(axis=0) + self.n * weight * difference**2
        self.mean = self.mean + weight * difference
        self.n += len(block)

    @property
    def deviation(self) -> NDArray[np.float64]:
        """Standard deviation of each column, shape (d,)."""
        return np.sqrt(self.squares / self.n)
