"""The expected time of a doctor is in proportion to the price of its head and of a pass over the features."""

from __future__ import annotations

import pytest

from featcache.analysis.doctor.costs import expected_seconds
from featcache.analysis.doctor.doctor import MAX_IMAGES


@pytest.mark.parametrize(("n", "classes"), [(40, 2), (240, 2), (5_000, 81), (20_000, 200), (100_000, 1_000)])
def test_all_steps_but_the_head_take_less_time_than_it_or_than_a_few_seconds(n: int, classes: int) -> None:
    checked = min(n, MAX_IMAGES)
    seconds = expected_seconds(n * 1280, checked, checked, 0, 1280, classes, imports=False, with_images=False)
    head = seconds.pop("labels")
    assert sum(seconds.values()) < max(head, 1.0)


def test_the_time_does_not_grow_with_the_square_of_the_images() -> None:
    few, many = (
        sum(expected_seconds(n * 64, n, n, 0, 64, 10, imports=False, with_images=False).values())
        for n in (10_000, 50_000)
    )
    assert many < 6 * few
