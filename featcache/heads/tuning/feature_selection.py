"""`select_features`: features that a linear head uses most, as Head2Toe does (Evci et al. 2022, arXiv 2201.03529)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.core.progress import StepProgress
from featcache.heads.solvers.dual_ridge import DualRidge, Kernel
from featcache.heads.solvers.path import OutOfTimeError, Stop
from featcache.heads.tuning.path_selection import GAIN, PATIENCE
from featcache.heads.tuning.strength_search import PENALTIES
from featcache.heads.tuning.tuning_data import TuningData
from featcache.metrics.calibration import fit_temperature, mean_log_loss

FRACTIONS = tuple(2.0**-power for power in range(8))

_START = 6  # the number of the strength to begin with
_IMAGES = 1000  # that the choice is made on


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
    d, deviation = x.shape[1], x.std(axis=0)
    x = x - x.mean(axis=0)
    rows = held_out.rows
    labels, weight = held_out.labels[rows], held_out.weight[rows]
    targets = np.eye(len(data.classes))[held_out.labels]
    ridge, kernel = DualRidge(targets, held_out.weight, held_out.fold, data.folds), Kernel.of(x)

    def log_loss(kernels: Sequence[Kernel], number: int) -> float:
        logits = ridge.held_out(kernels, PENALTIES[number])
        return mean_log_loss(logits / fit_temperature(logits, labels, weight), labels, weight)

    best, lowest = _search(partial(log_loss, [kernel] * data.folds), _START, stop)
    best_fraction, failures = 1.0, 0
    order = rank_features(ridge.coefs(kernel, PENALTIES[best], x), deviation)
    with StepProgress(data.progress, "fit shares of the features", len(FRACTIONS) - 1) as steps:
        for fraction in FRACTIONS[1:]:
            count = round(fraction * d)
            if stop() or count < 1 or failures == PATIENCE:
                break
            kernels = [Kernel.of(x[:, features[:count]]) for features in order[:-1]]
            try:
                number, value = _search(partial(log_loss, kernels), best, stop)
            except OutOfTimeError:
                break
            steps.advance()
            failures = 0 if value < lowest * (1 - GAIN) else failures + 1
            if value < lowest:
                best, lowest, best_fraction = number, value, fraction
    if best_fraction == 1:
        return SelectedFeatures(None, 1.0)
    mask = np.zeros(order.shape, np.bool_)
    np.put_along_axis(mask, order[:, : round(best_fraction * d)], True, axis=1)
    return SelectedFeatures(mask, best_fraction)


def rank_features(coefs: Iterable[NDArray[Any]], deviation: NDArray[Any]) -> NDArray[np.int64]:
    """The numbers of the features of each problem, from the highest score, (k, d); coefs : of each problem, (c, d)."""
    return np.stack([np.argsort(-np.linalg.norm(coef, axis=0) * deviation, kind="stable") for coef in coefs])


def _search(loss: Callable[[int], float], start: int, stop: Stop) -> tuple[int, float]:
    """The number of the best strength by a walk from `start`, and its loss."""
    best, lowest = start, loss(start)
    for step in (1, -1):
        number = best + step
        while 0 <= number < len(PENALTIES):
            if stop():
                raise OutOfTimeError
            value = loss(number)
            if value >= lowest:
                break
            best, lowest, number = number, value, number + step
    return best, lowest
