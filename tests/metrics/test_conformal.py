"""Conformal sets: known quantiles, and coverage of exchangeable samples."""

from __future__ import annotations

import numpy as np
import pytest

from featcache.metrics.conformal import evaluate_sets, least_samples, lower_quantile
from featcache.metrics.significance import wilson_interval


@pytest.mark.parametrize(("share", "rank"), [(0.9, 10), (0.95, 5), (0.99, 1), (0.8, 20), (0.5, 50)])
def test_quantile_is_the_score_of_a_known_rank(share: float, rank: int) -> None:
    """Of 99 scores, with the new one 100 ranks, which are equally probable."""
    assert lower_quantile(np.arange(1.0, 100.0), share) == rank


@pytest.mark.parametrize("share", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_least_samples_is_where_a_quantile_begins_to_exist(share: float) -> None:
    least = least_samples(share)
    assert lower_quantile(np.zeros(least), share) == 0
    assert lower_quantile(np.zeros(least - 1), share) == -np.inf


def test_coverage_over_many_draws_is_the_requested_one() -> None:
    """Probabilities of the true labels of 39 and of one more sample, drawn from one distribution."""
    rng, share, draws = np.random.default_rng(0), 0.9, 20_000
    scores = rng.beta(3, 1, (draws, 40))
    reached = [new >= lower_quantile(np.sort(old), share) for *old, new in scores]
    assert abs(np.mean(reached) - 0.9) < 4 * np.sqrt(0.9 * 0.1 / draws)  # (39 + 1) * 0.1 is a whole number


def test_figures_of_sets() -> None:
    sets = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1], [1, 1, 1]], bool)
    figures = evaluate_sets(sets, np.array([0, 1, 0, 0, 2]), 0.9)
    assert (figures.coverage, figures.mean_size, figures.empty, figures.n) == (0.6, 1.6, 0.2, 5)
    assert (figures.low, figures.high) == wilson_interval(3, 5)
    assert str(figures).startswith("sets with a coverage of 90%: 60.0% hold the true label")
    assert str(figures).endswith("1.60 labels on average, 20% of them empty")
