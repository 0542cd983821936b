"""`select_features`: features that a linear head uses most, as Head2Toe does (Evci et al. 2022, arXiv 2201.03529)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from featcache.core.progress import StepProgress
from featcache.heads.solvers.path import OutOfTimeError, Stop
from featcache.heads.tuning.path_selection import GAIN, PATIENCE, HeldOut
from featcache.heads.tuning.strength_search import PENALTIES
from featcache.heads.tuning.tuning_data import TuningData
from featcache.metrics.calibration import fit_temperature, mean_log_loss

FRACTIONS = tuple(2.0**-power for power in range(8))

_START = 6  # the number of the strength to begin with
_IMAGES = 1000  # that the choice is made on
_TINY = float(np.finfo(np.float32).tiny)


class SelectedFeatures(NamedTuple):
    """The features that each problem may use, (k, d), and what fraction of all they are. None: all features."""

    mask: NDArray[np.bool_] | None
    fraction: float


def select_features(data: TuningData, stop: Stop) -> SelectedFeatures:
    """Choose the fraction of the features to use by ridge on held-out images.

    The score of a feature is the norm of its coefficients over the classes in a ridge head of all features, as if all
    features had the same variance. The features with the highest scores are kept, and ridge is fitted to them. Each
    problem keeps features by its own coefficients, so that none has seen the images that it is scored on.

    The paper uses a group lasso of one strength; here it is the L2 penalty that is best on held-out images. Both are
    fitted to clean views of 1,000 images or fewer, in the space of these images.

    Parameters
    ----------
    data : TuningData
        The training images, with one label each.
    stop : callable
        Whether the time is over.

    Returns
    -------
    SelectedFeatures
        Those with the least log-loss. The search ends when two fractions in a row gain less than 1 %.

    Raises
    ------
    OutOfTimeError
    """
    x, held_out = data.sample(_IMAGES)
    ridge, d, deviation = DualRidge(held_out, data.folds), x.shape[1], x.std(axis=0)
    x = x - x.mean(axis=0)
    kernel = Kernel.of(x)
    best, best_fraction, failures = ridge.search([kernel] * data.folds, _START, stop), 1.0, 0
    order = rank_features(ridge.coefs(kernel, PENALTIES[best.number], x), deviation)
    with StepProgress(data.progress, "fit shares of the features", len(FRACTIONS) - 1) as steps:
        for fraction in FRACTIONS[1:]:
            count = round(fraction * d)
            if stop() or count < 1 or failures == PATIENCE:
                break
            kernels = [Kernel.of(x[:, features[:count]]) for features in order[:-1]]
            try:
                result = ridge.search(kernels, best.number, stop)
            except OutOfTimeError:
                break
            steps.advance()
            failures = 0 if result.log_loss < best.log_loss * (1 - GAIN) else failures + 1
            if result.log_loss < best.log_loss:
                best, best_fraction = result, fraction
    if best_fraction == 1:
        return SelectedFeatures(None, 1.0)
    mask = np.zeros(order.shape, np.bool_)
    np.put_along_axis(mask, order[:, : round(best_fraction * d)], True, axis=1)
    return SelectedFeatures(mask, best_fraction)


def rank_features(coefs: Iterable[NDArray[Any]], deviation: NDArray[Any]) -> NDArray[np.int64]:
    """The numbers of the features of each problem, from the highest score, (k, d); coefs : of each problem, (c, d)."""
    return np.stack([np.argsort(-np.linalg.norm(coef, axis=0) * deviation, kind="stable") for coef in coefs])


class Kernel(NamedTuple):
    """Inner products of m images, (m, m), and how many features they are of."""

    products: NDArray[np.float64]
    width: int

    @classmethod
    def of(cls, x: NDArray[np.float32]) -> Kernel:
        """Of rows of shape (m, d)."""
        return cls((x @ x.T).astype(np.float64), x.shape[1])


class _Fit(NamedTuple):
    """A strength by its number, and its log-loss on held-out images."""

    number: int
    log_loss: float


class DualRidge:
    """Ridge in the space of m images: problem f holds out fold f, the last one none.

    A penalty is a strength times the mean variance of a feature, as of `RegularizedCovariances`.
    """

    def __init__(self, held_out: HeldOut, folds: int) -> None:
        self._labels, self._weight, self._fold = held_out.labels, held_out.weight, held_out.fold
        self._targets = np.eye(int(self._labels.max()) + 1)[self._labels]
        self._train = [np.flatnonzero(self._fold != number) for number in range(folds + 1)]

    def search(self, kernels: Sequence[Kernel], start: int, stop: Stop) -> _Fit:
        """The best strength by a walk from `start`; kernels : of the problems that hold out a fold."""
        best = _Fit(start, self._log_loss(kernels, PENALTIES[start]))
        for step in (1, -1):
            number = best.number + step
            while 0 <= number < len(PENALTIES):
                if stop():
                    raise OutOfTimeError
                result = _Fit(number, self._log_loss(kernels, PENALTIES[number]))
                if result.log_loss >= best.log_loss:
                    break
                best, number = result, number + step
        return best

    def coefs(self, kernel: Kernel, strength: float, x: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """Coefficients of each problem, (c, d)."""
        for train in self._train:
            yield self._fit(kernel, train, strength)[0].T.astype(np.float32) @ x[train]

    def _log_loss(self, kernels: Sequence[Kernel], strength: float) -> float:
        logits, rows = [], []
        for number, (kernel, train) in enumerate(zip(kernels, self._train, strict=False)):
            rows.append(np.flatnonzero(self._fold == number))
            coef, offset, centered = self._fit(kernel, train, strength)
            logits.append(centered[rows[-1]] @ coef + offset)
        place, values = np.concatenate(rows), np.concatenate(logits)
        y, weight = self._labels[place], self._weight[place]
        return mean_log_loss(values / fit_temperature(values, y, weight), y, weight)

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
