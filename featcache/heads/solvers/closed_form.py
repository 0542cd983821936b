"""Linear classifiers with a closed form: ridge, linear discriminant analysis, nearest centroid.

One pass over the rows accumulates sums by fold; those of a problem are the sums of all folds but the one it holds out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.cache.lazy_arrays import CenteredMatrix, safe_mean_variance
from featcache.heads.solvers.path import OutOfTimeError, PathWeights, Stop, never


class SufficientStatistics(NamedTuple):
    """Of weighted rows: counts (c,), sums (c, d) by class, sums of rows scaled to length 1 (c, d), squares (d, d)."""

    counts: NDArray[np.float64]
    sums: NDArray[np.float64]
    directions: NDArray[np.float64]
    squares: NDArray[np.float64]


def accumulate(
    x: CenteredMatrix,
    labels: NDArray[np.int64],
    weight: NDArray[np.float64],
    fold: NDArray[np.int64],
    k: int,
    classes: int,
    stop: Stop = never,
) -> list[SufficientStatistics]:
    """The sums of k problems, see `softmax.CVSoftmaxProblem`; classes : their number.

    `stop` is called for each block. Raises OutOfTimeError.
    """
    d = len(x.mean)
    folds = [
        SufficientStatistics(*(np.zeros(shape) for shape in ((classes,), (classes, d), (classes, d), (d, d))))
        for _ in range(k)
    ]
    for rows, block in x:
        if stop():
            raise OutOfTimeError
        for number in np.unique(fold[rows]):
            index = np.flatnonzero(fold[rows] == number)
            x_fold, w = block[index], weight[rows][index].astype(block.dtype)
            one_hot = (labels[rows][index] == np.arange(classes)[:, None]) * w  # (c, b)
            sums = folds[number]  # rows that no problem holds out have fold -1, the last item
            sums.counts[:] += one_hot.sum(axis=1, dtype=np.float64)
            sums.sums[:] += one_hot @ x_fold
            lengths = np.sqrt(np.einsum("bd,bd->b", x_fold, x_fold))
            sums.directions[:] += (one_hot / np.maximum(lengths, np.finfo(block.dtype).tiny)) @ x_fold
            x_fold *= np.sqrt(w)[:, None]
            sums.squares[:] += x_fold.T @ x_fold
    total = SufficientStatistics(*(sum(arrays) for arrays in zip(*folds, strict=True)))
    return [SufficientStatistics(*(a - b for a, b in zip(total, sums, strict=True))) for sums in folds[:-1]] + [total]


class _Decomposition(NamedTuple):
    """Of one problem. priors : fractions of the classes, (c,). center : mean of the rows, (d,).

    values, vectors : eigenvalues and eigenvectors of the covariance, (d,), (d, d). between : class means minus the
    center, (c, d).
    """

    priors: NDArray[np.float64]
    center: NDArray[np.float64]
    values: NDArray[np.float64]
    vectors: NDArray[np.float64]
    between: NDArray[np.float64]


class EigenDecompositions:
    """The eigendecomposition of the covariance of each problem, which gives ridge and LDA for all strengths.

    Parameters
    ----------
    statistics : sequence of SufficientStatistics
        Of each problem.
    mean : ndarray, shape (d,)
        The mean that was subtracted from the rows.
    """

    def __init__(self, statistics: Sequence[SufficientStatistics], mean: NDArray[Any]) -> None:
        self._statistics, self._mean = statistics, mean.astype(np.float64)
        self._decompositions: list[_Decomposition] = []

    def decompose(self, stop: Stop = never) -> None:
        """Decompose the problems that are not decomposed yet, so that a call after an interrupted one continues.

        `stop` is called before each problem; one takes seconds if there are many features. Raises OutOfTimeError.
        """
        for sums in self._statistics[len(self._decompositions) :]:
            if stop():
                raise OutOfTimeError
            total = sums.counts.sum()
            center = sums.sums.sum(axis=0) / total
            values, vectors = np.linalg.eigh(sums.squares / total - np.outer(center, center))
            counts = np.where(sums.counts > 0, sums.counts, 1)
            between = sums.sums / counts[:, None] - center
            between[sums.counts == 0] = 0
            self._decompositions.append(
                _Decomposition(sums.counts / total, center, np.maximum(values, 0), vectors, between)
            )

    @property
    def scale(self) -> float:
        """The mean variance of the features; 1 if all are constant."""
        self.decompose()
        return safe_mean_variance(float(self._decompositions[-1].values.mean()), self._mean)

    def ridge(self, strengths: Sequence[float]) -> Iterator[PathWeights]:
        """Least squares to targets of 1 for the true class and -1 for others, like RidgeClassifier of scikit-learn.

        The penalty of the mean squared error is strength * scale * ||coef||^2.
        """
        return self._path(strengths, _ridge)

    def lda(self, strengths: Sequence[float]) -> Iterator[PathWeights]:
        """Linear discriminant analysis; strength * scale is added to the variance within the classes."""
        return self._path(strengths, _discriminant)

    def _path(self, strengths: Sequence[float], solve: Any) -> Iterator[PathWeights]:
        self.decompose()
        rotated = [item.between @ item.vectors for item in self._decompositions]
        for strength in strengths:
            layers = []
            for (priors, center, values, vectors, between), means in zip(self._decompositions, rotated, strict=True):
                whitened = (means / (values + strength * self.scale)) @ vectors.T  # (covariance + ridge)^-1 @ means
                coef, offset = solve(priors, between, whitened)
                layers.append(_layer(coef, offset - coef @ (center + self._mean)))
            yield PathWeights(strength, np.stack([coef for coef, _ in layers]), np.stack([b for _, b in layers]))


def _ridge(
    priors: NDArray[np.float64], _between: NDArray[np.float64], whitened: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    coef: NDArray[np.float64] = 2 * priors[:, None] * whitened
    return coef, 2 * priors - 1


def _discriminant(
    priors: NDArray[np.float64], between: NDArray[np.float64], whitened: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The covariance within classes is the total one minus that of the class means, of rank c - 1 (Woodbury)."""
    products = between @ whitened.T
    coef = np.asarray(np.linalg.solve(np.eye(len(priors)) - products * priors, whitened), np.float64)
    offset = np.log(np.maximum(priors, 1e-9)) - np.einsum("cd,cd->c", coef, between) / 2
    absent, most = priors == 0, int(priors.argmax())  # nothing is known of a class without images but that it is rare
    coef[absent], offset[absent] = coef[most], offset[most] + np.log(1e-9)
    return coef, offset


def nearest_centroid(statistics: Sequence[SufficientStatistics], mean: NDArray[Any]) -> Iterator[PathWeights]:
    """Logits of a row minus the mean: its projections on the mean direction of each class; a path of one member."""
    layers = []
    for sums in statistics:
        lengths = np.linalg.norm(sums.directions, axis=1, keepdims=True)
        coef = sums.directions / np.maximum(lengths, np.finfo(float).tiny)
        layers.append(_layer(coef, -coef @ mean.astype(np.float64)))
    yield PathWeights(0.0, np.stack([coef for coef, _ in layers]), np.stack([b for _, b in layers]))


def _layer(coef: NDArray[np.float64], offset: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One logit for two classes."""
    return (coef[1:] - coef[:1], offset[1:] - offset[:1]) if len(coef) == 2 else (coef, offset)
