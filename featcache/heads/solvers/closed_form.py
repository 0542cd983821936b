"""Linear classifiers with a closed form: ridge, linear discriminant analysis, nearest centroid.

One pass over the rows accumulates sums by fold; those of a problem are the sums of all folds but the one it holds out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array

from featcache._utils.environment import available_memory_bytes
from featcache.cache.lazy_arrays import CenteredMatrix, safe_mean_variance
from featcache.heads.solvers.path import Layer, OutOfTimeError, PathWeights, Stop, never

MAX_WIDTH = 3072
"""Features of which the matrices of all problems take a gigabyte, and their factorizations seconds."""

_FACTORIZATIONS = 16  # in the search of a strength

Solve = Callable[
    [NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]
]
"""Fractions of the classes (c,), class means minus the center (c, d), and the regularized inverse covariance times
these, (c, d), to a layer for rows minus the center: coef (c, d) and offset (c,)."""


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
            places = labels[rows][index], np.arange(len(index))
            lengths = np.maximum(np.sqrt(np.einsum("bd,bd->b", x_fold, x_fold)), np.finfo(block.dtype).tiny)
            sums = folds[number]  # rows that no problem holds out have fold -1, the last item
            sums.counts[:] += np.bincount(places[0], w, minlength=classes)
            sums.sums[:] += csr_array((w, places), shape=(classes, len(index))) @ x_fold
            sums.directions[:] += csr_array((w / lengths, places), shape=(classes, len(index))) @ x_fold
            x_fold *= np.sqrt(w)[:, None]
            sums.squares[:] += x_fold.T @ x_fold
    total = SufficientStatistics(*(sum(arrays) for arrays in zip(*folds, strict=True)))
    return [SufficientStatistics(*(a - b for a, b in zip(total, sums, strict=True))) for sums in folds[:-1]] + [total]


class _Covariance(NamedTuple):
    """Of one problem. priors : fractions of the classes, (c,). center : mean of the rows, (d,).

    matrix : the covariance of the rows, (d, d). between : class means minus the center, (c, d).
    """

    priors: NDArray[np.float64]
    center: NDArray[np.float64]
    matrix: NDArray[np.float64]
    between: NDArray[np.float64]

    @classmethod
    def from_sums(cls, sums: SufficientStatistics) -> _Covariance:
        """From the sums over the rows of a problem."""
        total = sums.counts.sum()
        center = sums.sums.sum(axis=0) / total
        between = sums.sums / np.where(sums.counts > 0, sums.counts, 1)[:, None] - center
        between[sums.counts == 0] = 0
        return cls(sums.counts / total, center, sums.squares / total - np.outer(center, center), between)

    def whiten(self, ridge: float) -> NDArray[np.float64]:
        """(covariance + ridge * identity)^-1 @ between, shape (c, d)."""
        penalized = self.matrix.copy()
        penalized[np.diag_indices_from(penalized)] += ridge
        factor = cho_factor(penalized, overwrite_a=True, check_finite=False)
        return np.asarray(cho_solve(factor, self.between.T, check_finite=False).T)


class ClassDirections(NamedTuple):
    """Inner products with the class means, in the metric of the regularized inverse covariance within the classes.

    layer : of rows, from the center of all of them; one output a class. products : of the class means, (c, c). priors :
    fractions of the classes, (c,).
    """

    layer: Layer
    products: NDArray[np.float64]
    priors: NDArray[np.float64]


class RegularizedCovariances:
    """The covariance of each problem, whose regularized inverse gives ridge and LDA.

    Parameters
    ----------
    statistics : sequence of SufficientStatistics
        Of each problem; the last one sees all rows.
    mean : ndarray, shape (d,)
        The mean that was subtracted from the rows.
    width : int, optional
        The number of features, if the rows are those of a basis of fewer. None: d.
    """

    def __init__(
        self, statistics: Sequence[SufficientStatistics], mean: NDArray[Any], width: int | None = None
    ) -> None:
        self._covariances = [_Covariance.from_sums(sums) for sums in statistics]
        self._mean = mean.astype(np.float64)
        variance = max(float(np.trace(self._covariances[-1].matrix)), 0.0) / (width or len(mean))
        self.scale = safe_mean_variance(variance, mean)
        """The mean variance of the features; 1 if all are constant."""
        self._whitened: dict[tuple[int, float], NDArray[np.float64]] = {}

    def path(
        self, solve: Solve, strengths: Sequence[float], stop: Stop = never, folds: int | None = None
    ) -> Iterator[PathWeights]:
        """The solutions of the problems that hold a fold out, for one strength after the other.

        Parameters
        ----------
        solve : Solve
            `ridge` or `lda`.
        strengths : sequence of float
            The penalty is strength * scale.
        stop : callable
            Whether the time is over; called before each problem.
        folds : int, optional
            Only the problems that hold out the first so many folds. None: all of them.

        Raises
        ------
        OutOfTimeError
        """
        numbers = range(len(self._covariances) - 1)[:folds]
        for place, strength in enumerate(strengths):
            try:
                layers = [self._layer(solve, number, strength, stop) for number in numbers]
            except np.linalg.LinAlgError:  # the penalty is less than the rounding errors of the covariance
                if not place:
                    raise
                return
            yield PathWeights(
                strength, np.stack([layer.coef for layer in layers]), np.stack([layer.intercept for layer in layers])
            )

    def refit(self, solve: Solve, strength: float) -> Layer:
        """The solution of the problem that sees all rows."""
        return self._layer(solve, len(self._covariances) - 1, strength, never)

    def class_directions(self, strength: float) -> Iterator[ClassDirections]:
        """Of each problem, see `ClassDirections`."""
        for number, covariance in enumerate(self._covariances):
            whitened = self._whiten(number, strength, never)
            coef, _ = lda(covariance.priors, covariance.between, whitened)
            intercept = -coef @ (covariance.center + self._mean)
            yield ClassDirections(Layer(coef, intercept), covariance.between @ coef.T, covariance.priors)

    def _whiten(self, number: int, strength: float, stop: Stop) -> NDArray[np.float64]:
        if (number, strength) not in self._whitened:  # ridge and LDA of a strength share it
            if stop():
                raise OutOfTimeError
            self._whitened[number, strength] = self._covariances[number].whiten(strength * self.scale)
        return self._whitened[number, strength]

    def _layer(self, solve: Solve, number: int, strength: float, stop: Stop) -> Layer:
        covariance = self._covariances[number]
        coef, offset = solve(covariance.priors, covariance.between, self._whiten(number, strength, stop))
        return _layer(coef, offset - coef @ (covariance.center + self._mean))


def estimate_s(n: int, d: int, problems: int) -> float:
    """The time of sums and factorizations for n rows of d features, in seconds.

    0 for few features; infinity if the matrices do not fit in memory.
    """
    if d <= MAX_WIDTH:
        return 0.0
    if 2 * problems * 8 * d * d > available_memory_bytes():
        return math.inf
    matrix = np.eye(512) + 1 / 512
    started = time.perf_counter()
    np.linalg.cholesky(matrix)
    products_per_s = 512**3 / 3 / (time.perf_counter() - started)
    return (n * d * d + _FACTORIZATIONS * d**3 / 3) / products_per_s


def ridge(
    priors: NDArray[np.float64], _between: NDArray[np.float64], whitened: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least squares to targets of 1 for the true class and -1 for others, like RidgeClassifier of scikit-learn.

    The penalty of the mean squared error is strength * scale * ||coef||^2.
    """
    coef: NDArray[np.float64] = 2 * priors[:, None] * whitened
    return coef, 2 * priors - 1


def lda(
    priors: NDArray[np.float64], between: NDArray[np.float64], whitened: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Linear discriminant analysis; strength * scale is added to the variance within the classes.

    The covariance within classes is the total one minus that of the class means, of rank c - 1 (Woodbury).
    """
    products = between @ whitened.T
    coef = np.asarray(np.linalg.solve(np.eye(len(priors)) - products * priors, whitened), np.float64)
    offset = np.log(np.maximum(priors, 1e-9)) - np.einsum("cd,cd->c", coef, between) / 2
    absent, most = priors == 0, int(priors.argmax())  # nothing is known of a class without images but that it is rare
    coef[absent], offset[absent] = coef[most], offset[most] + np.log(1e-9)
    return coef, offset


def nearest_centroid(sums: SufficientStatistics, mean: NDArray[Any]) -> Layer:
    """Logits of a row minus the mean: its projections on the mean direction of each class."""
    lengths = np.linalg.norm(sums.directions, axis=1, keepdims=True)
    coef = sums.directions / np.maximum(lengths, np.finfo(float).tiny)
    return _layer(coef, -coef @ mean.astype(np.float64))


def _layer(coef: NDArray[np.float64], offset: NDArray[np.float64]) -> Layer:
    """One logit for two classes."""
    return Layer(coef[1:] - coef[:1], offset[1:] - offset[:1]) if len(coef) == 2 else Layer(coef, offset)
