"""`select_features`: features that a linear head uses most, as Head2Toe does (Evci et al. 2022, arXiv 2201.03529)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.heads.solvers.path import Layer, OutOfTimeError, Stop
from featcache.heads.tuning.path_selection import GAIN, PATIENCE, CVSelection

FRACTIONS = tuple(2.0**-power for power in range(8))

Fit = Callable[[NDArray[np.bool_] | None, Sequence[float] | None], CVSelection]
"""The best head along a path, with the features that each problem may use, (k, d), and at these C; None: all."""
Refit = Callable[[CVSelection, NDArray[np.bool_] | None], Layer]
"""The same head fitted to all images."""


class SelectedFeatures(NamedTuple):
    """The best head, the same fitted to all images, and the fraction of the features that it uses."""

    selection: CVSelection
    layer: Layer
    fraction: float


def select_features(
    squares: NDArray[np.float64], fit: Fit, refit: Refit, Cs: Sequence[float], stop: Stop
) -> SelectedFeatures:
    """Choose the fraction of the features to use, on held-out images.

    The score of a feature is the norm of its coefficients over the classes in a head of all features. The features
    with the highest scores are kept, a head is fitted to them, and the fraction is varied. The paper uses a group lasso
    of one strength; here it is the L2 penalty that is best on held-out images. Each problem keeps features by its own
    coefficients, so that none has seen the images that it is scored on.

    Parameters
    ----------
    squares : ndarray, shape (d,)
        The variance of each feature, up to a common factor.
    fit, refit : callable
        Fit a head.
    Cs : sequence of float
        The path, from strong to weak penalties.
    stop : callable
        Whether the time is over.

    Returns
    -------
    SelectedFeatures
    """
    best, best_fraction, best_mask = fit(None, None), 1.0, None
    layer = refit(best, None)
    coef = np.concatenate([best.coef, layer.coef[None]])
    scores = np.linalg.norm(coef, axis=1) * np.sqrt(squares)  # (k, d), as if all features had the same variance
    start = max(0, list(Cs).index(float(best.values[0])) - 1)
    failures = 0
    for fraction in FRACTIONS[1:]:
        if stop() or round(fraction * scores.shape[1]) < 1:
            break
        mask = _highest(scores, fraction)
        try:
            selection = fit(mask, Cs[start:])
        except OutOfTimeError:
            break
        failures = 0 if selection.log_loss[0] < best.log_loss[0] * (1 - GAIN) else failures + 1
        if selection.log_loss[0] < best.log_loss[0]:
            best, best_fraction, best_mask = selection, fraction, mask
        if failures == PATIENCE:
            break
    return SelectedFeatures(best, layer if best_mask is None else refit(best, best_mask), best_fraction)


def _highest(scores: NDArray[np.float64], fraction: float) -> NDArray[np.bool_]:
    """The fraction of features with the highest scores in each problem, shape (k, d)."""
    k, d = scores.shape
    mask = np.zeros((k, d), np.bool_)
    order = np.argsort(-scores, axis=1, kind="stable")[:, : round(fraction * d)]
    np.put_along_axis(mask, order, True, axis=1)
    return mask
