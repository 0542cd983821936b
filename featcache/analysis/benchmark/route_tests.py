"""`RouteTests`: each route of a benchmark tested against the cached head, on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featcache.analysis.benchmark.outcomes import WARM, Comparison, Outcome
from featcache.metrics.significance import PairedDifference, holm, paired_difference

ALPHA = 0.05


@dataclass(frozen=True)
class Challenger:
    """A route compared with the cached head.

    Attributes
    ----------
    route : str
    accuracy : float
        Mean over the seeds.
    gain : float
        Accuracy minus that of the cached head, as a fraction.
    low, high : float
        95 % interval of the gain.
    p : float
        p value of the paired test after Holm's correction.
    p_alone : float
        p value before the correction.
    seconds : float
        Median time from the images to a saved model.
    cold_ratio, warm_ratio : float
        Those seconds divided by the time of the cached head, with and without the extraction.
    """

    route: str
    accuracy: float
    gain: float
    low: float
    high: float
    p: float
    p_alone: float
    seconds: float
    cold_ratio: float
    warm_ratio: float | None


class RouteTests:
    """Compares the routes on the images that all of them could read."""

    def __init__(self, comparison: Comparison, cached: Outcome, routes: Sequence[Outcome]) -> None:
        self.comparison, self.cached = comparison, cached
        self.split = "test" if all(outcome.test_right for outcome in routes) else "val"
        answers = {route.route: route.test_right if self.split == "test" else route.right for route in routes}
        self.without_predictions = [outcome for outcome in routes if not answers[outcome.route]]
        routes = [outcome for outcome in routes if answers[outcome.route]]
        read = [set(right) for outcome in routes for right in answers[outcome.route]]
        images = sorted(set.intersection(*read)) if read else []
        self.n, self.unread = len(images), len(set().union(*read)) - len(images)
        self.right = {
            outcome.route: np.array([[right[image] for image in images] for right in answers[outcome.route]])
            for outcome in routes
        }
        self.repeats = max(map(len, self.right.values()), default=0)
        self.challengers: list[Challenger] = []
        self.judged: list[Challenger] = []
        self.unfinished: list[Outcome] = []
        if self.n and cached in routes:
            self._test_rivals([outcome for outcome in routes if outcome is not cached])

    def _test_rivals(self, others: Sequence[Outcome]) -> None:
        """Test each other route against the cached head, and set aside those that were not trained long enough."""
        warm = self.comparison.outcome(WARM)
        pairs = [self.compare(self.cached.route, other.route) for other in others]
        for other, pair, p in zip(others, pairs, holm([pair.p for pair in pairs]), strict=True):
            cold_ratio = other.median_s / self.cached.median_s
            warm_ratio = other.median_s / warm.median_s if warm else None
            gain = (pair.difference, pair.low, pair.high, p, pair.p)
            accuracy = self.accuracy(other.route)
            self.challengers.append(Challenger(other.route, accuracy, *gain, other.median_s, cold_ratio, warm_ratio))
        better = {challenger.route for challenger in self.challengers if is_better(challenger)}
        self.unfinished = [other for other in others if other.unfinished and other.route not in better]
        unfinished = {other.route for other in self.unfinished}
        self.judged = [challenger for challenger in self.challengers if challenger.route not in unfinished]

    def compare(self, first: str, second: str) -> PairedDifference:
        """The accuracy of the second route minus that of the first one."""
        return paired_difference(self.right[first], self.right[second])

    def accuracy(self, route: str) -> float:
        return float(self.right[route].mean())


def is_better(challenger: Challenger) -> bool:
    """Whether a route is significantly more accurate than the cached head."""
    return challenger.p < ALPHA and challenger.gain > 0
