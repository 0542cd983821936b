"""Linear classifiers that have a closed form: ridge, linear discriminant analysis, nearest centroid.

One pass gathers moments by fold; a problem's moments are those of all folds but its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.cache.lazy_arrays import CenteredMatrix, safe_mean_variance
from featcache.heads.tuning.path_selection import OutOfTimeError, PathWeights


class SufficientStatistics(NamedTuple):
    """Of weighted rows: counts (c,), sums (c, d) by class, sums of rows of length 1 (c, d), squares (d, d)."""

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
    stop: Callable[[], bool] = lambda: False,
) -> list[SufficientStatistics]:
    """The moments of k problems, see `softmax.CVSoftmaxProblem`; x are the rows less the mean of all.

    Raises OutOfTimeError where `stop`, asked at each block, says so.
    """
    d = len(x.mean)
    parts = [
        SufficientStatistics(*(np.zeros(shape) for shape in ((classes,), (classes, d), (classes, d), (d, d))))
        for _ in range(k)
    ]
    for rows, block in x:
        if stop():
            raise OutOfTimeError
        for number in np.unique(fold[rows]):
            here = np.flatnonzero(fold[rows] == number)
            some, w = block[here], weight[rows][here].astype(block.dtype)
            one_hot = (labels[rows][here] == np.arange(classes)[:, None]) * w  # (c, b)
            part = parts[number]  # those that no problem leaves out have fold -1, the last place
            part.counts[:] += one_hot.sum(axis=1, dtype=np.float64)
            part.sums[:] += one_hot @ some
            lengths = np.sqrt(np.einsum("bd,bd->b", some, some))
            part.directions[:] += (one_hot / np.maximum(lengths, np.finfo(block.dtype).tiny)) @ some
            some *= np.sqrt(w)[:, None]
            part.squares[:] += some.T @ some
    whole = SufficientStatistics(*(sum(arrays) for arrays in zip(*parts, strict=True)))
    return [SufficientStatistics(*(a - b for a, b in zip(whole, part, strict=True))) for part in parts[:-1]] + [whole]


class _Part(NamedTuple):
    """Of a problem. shares : of the classes, (c,). centre : (d,). values, vectors : of the covariance, (d,), (d, d).

    between : class means less the centre, (c, d).
    """

    shares: NDArray[np.float64]
    centre: NDArray[np.float64]
    values: NDArray[np.float64]
    vectors: NDArray[np.float64]
    between: NDArray[np.float64]


class EigenDecompositions:
    """The eigendecomposition of each problem's covariance, from which every strength of ridge and LDA follows.

    Parameters
    ----------
    mean : of the rows that were centred, shape (d,).
    """

    def __init__(self, moments: Sequence[SufficientStatistics], mean: NDArray[Any]) -> None:
        self._moments, self._mean = moments, mean.astype(np.float64)
        self._parts: list[_Part] = []

    def decompose(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Decompose what is not decomposed yet: a call that was stopped is not lost.

        `stop` is asked before each problem, of which one takes seconds where features are wide. Raises OutOfTimeError.
        """
        for part in self._moments[len(self._parts) :]:
            if stop():
                raise OutOfTimeError
            total = part.counts.sum()
            centre = part.sums.sum(axis=0) / total
            values, vectors = np.linalg.eigh(part.squares / total - np.outer(centre, centre))
            counts = np.where(part.counts > 0, part.counts, 1)
            between = part.sums / counts[:, None] - centre
            between[part.counts == 0] = 0
            self._parts.append(_Part(part.counts / total, centre, np.maximum(values, 0), vectors, between))

    @property
    def scale(self) -> float:
        """The mean variance of a feature; 1 where all are constant."""
        self.decompose()
        return safe_mean_variance(float(self._parts[-1].values.mean()), self._mean)

    def ridge(self, strengths: Sequence[float]) -> Iterator[PathWeights]:
        """Least squares to targets of 1 for the own class and -1 for others, as scikit-learn's RidgeClassifier.

        The penalty of the mean squared error is strength * scale * ||coef||^2.
        """
        return self._path(strengths, _ridge)

    def lda(self, strengths: Sequence[float]) -> Iterator[PathWeights]:
        """Linear discriminant analysis; strength * scale is added to the variance within the classes."""
        return self._path(strengths, _discriminant)

    def _path(self, strengths: Sequence[float], solve: Any) -> Iterator[PathWeights]:
        self.decompose()
        rotated = [part.between @ part.vectors for part in self._parts]
        for strength in strengths:
            layers = []
            for (shares, centre, values, vectors, between), inside in zip(self._parts, rotated, strict=True):
                whitened = (inside / (values + strength * self.scale)) @ vectors.T  # (covariance + ridge)^-1 of means
                coef, offset = solve(shares, between, whitened)
                layers.append(_layer(coef, offset - coef @ (centre + self._mean)))
            yield PathWeights(strength, np.stack([coef for coef, _ in layers]), np.stack([b for _, b in layers]))


def _ridge(
    shares: NDArray[np.float64], _between: NDArray[np.float64], whitened: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    coef: NDArray[np.float64] = 2 * shares[:, None] * whitened
    return coef, 2 * shares - 1


def _discriminant(
    shares: NDArray[np.float64], between: NDArray[np.float64], whitened: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The covariance within the classes is the whole one less that of their means, of rank c - 1 (Woodbury)."""
    spread = between @ whitened.T
    coef = np.asarray(np.linalg.solve(np.eye(len(shares)) - spread * shares, whitened), np.float64)
    offset = np.log(np.maximum(shares, 1e-9)) - np.einsum("cd,cd->c", coef, between) / 2
    absent, most = shares == 0, int(shares.argmax())  # of what was never seen only that it is rare is known
    coef[absent], offset[absent] = coef[most], offset[most] + np.log(1e-9)
    return coef, offset


def nearest_centroid(moments: Sequence[SufficientStatistics], mean: NDArray[Any]) -> Iterator[PathWeights]:
    """A row less the mean of all, along each class's mean direction, as nearest by cosine: a path of one."""
    layers = []
    for part in moments:
        lengths = np.linalg.norm(part.directions, axis=1, keepdims=True)
        coef = part.directions / np.maximum(lengths, np.finfo(float).tiny)
        layers.append(_layer(coef, -coef @ mean.astype(np.float64)))
    yield PathWeights(0.0, np.stack([coef for coef, _ in layers]), np.stack([b for _, b in layers]))


def _layer(coef: NDArray[np.float64], offset: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One logit for two classes."""
    return (coef[1:] - coef[:1], offset[1:] - offset[:1]) if len(coef) == 2 else (coef, offset)
