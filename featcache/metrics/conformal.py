"""Conformal prediction: sets of labels that hold the true one as often as requested.

The score of a sample is the probability that a model gives to its true label, and the model was not trained on the
sample. A set has all labels whose probability is at least a low quantile of these scores (Sadinle et al. 2019, "Least
ambiguous set-valued classifiers with bounded error levels"; the quantile is that of Vovk et al. 2005). Were the
probabilities exact, no sets with this coverage would be smaller. If the coverage is below the accuracy, some are empty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featcache._utils.results import Result
from featcache.metrics.significance import wilson_interval

COVERAGES = (0.8, 0.9, 0.95, 0.99)
"""Those of reports."""


@dataclass(frozen=True)
class SetFigures(Result):
    """How good sets of labels are on samples that chose nothing.

    Attributes
    ----------
    requested : float
        The requested coverage, 0 to 1.
    coverage : float
        The share of sets that hold the true label.
    low, high : float
        The 95 % interval of `coverage` (Wilson).
    mean_size : float
        Labels in a set, on average.
    empty : float
        The share of sets without labels.
    n : int
        The number of samples.
    """

    requested: float
    coverage: float
    low: float
    high: float
    mean_size: float
    empty: float
    n: int

    def __str__(self) -> str:
        empty = f", {self.empty:.0%} of them empty" if self.empty else ""
        return (
            f"sets with a coverage of {self.requested:.0%}: {self.coverage:.1%} hold the true label "
            f"(95 % interval {self.low:.1%} to {self.high:.1%}), {self.mean_size:.2f} labels on average{empty}"
        )


def lower_quantile(scores: NDArray[np.floating], share: float) -> float:
    """A limit that a new score reaches with probability `share` or more, if all scores are exchangeable.

    Parameters
    ----------
    scores : ndarray, shape (m,)
        Ascending.
    share : float
        Above 0, below 1.

    Returns
    -------
    float
        One of the scores; minus infinity if there are too few of them: fewer than 1 / (1 - share) - 1.

    Examples
    --------
    Of nine scores the lowest is reached by nine of ten new ones.

    >>> lower_quantile(np.arange(1.0, 10.0), 0.9)
    1.0
    >>> lower_quantile(np.arange(1.0, 9.0), 0.9)
    -inf
    """
    rank = int(np.floor((len(scores) + 1) * (1 - share) + 1e-9))  # 1 - 0.9 is a little less than a tenth
    return float(scores[rank - 1]) if rank else -np.inf


def least_samples(share: float) -> int:
    """How many scores `lower_quantile` needs.

    Examples
    --------
    >>> least_samples(0.9), least_samples(0.95)
    (9, 19)
    """
    return int(np.ceil(1 / (1 - share) - 1e-9)) - 1


def evaluate_sets(sets: NDArray[np.bool_], y: NDArray[np.int64], requested: float) -> SetFigures:
    """Figures of sets.

    Parameters
    ----------
    sets : ndarray, shape (n, c)
        Whether each label is in the set of a sample; n is 1 or more.
    y : ndarray, shape (n,)
        Indices of the true labels.
    requested : float
        The requested coverage.

    Examples
    --------
    >>> sets = np.array([[True, False], [True, True], [False, False], [False, True]])
    >>> figures = evaluate_sets(sets, np.array([0, 0, 0, 0]), 0.5)
    >>> figures.coverage, figures.mean_size, figures.empty
    (0.5, 1.0, 0.25)
    """
    n, sizes = len(sets), sets.sum(axis=1)
    covered = int(sets[np.arange(n), y].sum())
    low, high = wilson_interval(covered, n)
    return SetFigures(requested, covered / n, low, high, float(sizes.mean()), float(np.mean(sizes == 0)), n)
