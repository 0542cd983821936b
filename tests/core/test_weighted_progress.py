"""Steps count by the time that they are expected to take."""

from __future__ import annotations

from featcache.core.weighted_progress import WeightedProgress


def test_steps_count_by_their_seconds_and_their_own_progress() -> None:
    reports: list[tuple[str, int, int]] = []
    steps = WeightedProgress(lambda *report: reports.append(report), "work", {"read": 1, "fit": 7, "draw": 2})
    with steps.step("read"):
        pass
    with steps.step("fit") as progress:
        for done in (0, 1, 2):
            progress("fit strengths", done, 2)
        progress("fit strengths", 0, 0)  # of unknown length
    steps.end()  # nothing was drawn
    assert reports == [("work", done, 1000) for done in (0, 100, 450, 800, 1000)]


def test_nothing_is_reported_without_a_callback() -> None:
    steps = WeightedProgress(None, "work", {"read": 1})
    with steps.step("read") as progress:
        progress("read", 1, 2)
    steps.end()
