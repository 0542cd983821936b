"""Head2Toe: of the features of many layers, those that a linear head leans on, and a head of these alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from featcache.heads.tuning.path_selection import PATIENCE, RISE, CVSelection, OutOfTimeError, PathWeights

FRACTIONS = tuple(2.0**-power for power in range(8))

Fit = Callable[[NDArray[np.bool_] | None, Sequence[float] | None], CVSelection]
"""The best head along a path of strengths, of the features that each problem keeps, (k, d), at these C; None: all."""


def select_features(
    squares: NDArray[np.float64], fit: Fit, Cs: Sequence[float], stop: Callable[[], bool]
) -> tuple[CVSelection, float]:
    """The head of the fraction of features that left-out images prefer, and that fraction.

    As Evci et al. 2022 (arXiv 2201.03529): a head of all features gives each of them the norm of its coefficients over
    the classes as its score; the highest scores are kept, and a head is fitted to these alone; the fraction is swept.
    Theirs is a group lasso at one strength; here it is the L2 penalty that all images but those left out prefer. Each
    problem keeps features by its own coefficients, so none has seen the images that it is judged on.

    squares : the variance of each feature, up to a factor, shape (d,). Cs : the path, from strong to weak penalties.
    """
    best, kept = fit(None, None), 1.0
    scores = _scores(best.layers, np.sqrt(squares))
    start = max(0, list(Cs).index(best.value) - 1)
    risen = 0
    for fraction in FRACTIONS[1:]:
        if stop() or round(fraction * scores.shape[1]) < 1:
            break
        try:
            found = fit(_highest(scores, fraction), Cs[start:])
        except OutOfTimeError:
            break
        if found.log_loss < best.log_loss:
            best, kept, risen = found, fraction, 0
        elif found.log_loss > best.log_loss * (1 + RISE):
            risen += 1
        if risen == PATIENCE:
            break
    return best, kept


def _scores(layers: PathWeights, deviations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each feature in each problem, as if all were equally wide, shape (k, d)."""
    return np.linalg.norm(layers.coef, axis=1) * deviations


def _highest(scores: NDArray[np.float64], fraction: float) -> NDArray[np.bool_]:
    """The fraction of features with the highest scores in each problem, shape (k, d)."""
    k, d = scores.shape
    kept = np.zeros((k, d), np.bool_)
    order = np.argsort(-scores, axis=1, kind="stable")[:, : round(fraction * d)]
    np.put_along_axis(kept, order, True, axis=1)
    return kept
