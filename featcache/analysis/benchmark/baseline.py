"""`compare_with_baseline`: whether TF-IDF is enough, by paired tests of the other routes on the same texts."""

from __future__ import annotations

from dataclasses import dataclass

from featcache.analysis.benchmark.route_tests import ALPHA, RouteTests
from featcache.analysis.benchmark.routes import ROUTES
from featcache.metrics.significance import PairedDifference, holm

BASELINE = ROUTES["tfidf"]


@dataclass(frozen=True)
class BaselineTest:
    """The comparison of the other routes with TF-IDF.

    Attributes
    ----------
    best : str
        The route with the highest accuracy of those that are significantly better, else the one that may be the most
        accurate by its interval.
    gain : PairedDifference
        Accuracy of `best` minus that of TF-IDF.
    p : float
        p value of this difference after Holm's correction.
    """

    best: str
    gain: PairedDifference
    p: float

    @property
    def is_enough(self) -> bool:
        """Whether no route is significantly more accurate than TF-IDF."""
        return not (self.p < ALPHA and self.gain.difference > 0)


def compare_with_baseline(tests: RouteTests) -> BaselineTest | None:
    """Test the cached head and the routes that are judged against TF-IDF. None if TF-IDF did not run."""
    others = [tests.cached.route, *(other.route for other in tests.judged if other.route != BASELINE)]
    if BASELINE not in tests.right:
        return None
    gains = [tests.compare(BASELINE, other) for other in others]
    found = [
        BaselineTest(route, gain, p)
        for route, gain, p in zip(others, gains, holm([gain.p for gain in gains]), strict=True)
    ]
    better = [test for test in found if not test.is_enough]
    if better:
        return max(better, key=lambda test: test.gain.difference)
    return max(found, key=lambda test: test.gain.high)
