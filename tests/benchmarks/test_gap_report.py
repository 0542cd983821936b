"""What benchmarks/gap.py says of its runs: goals that are reached, missed and not judged, by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import gap_report


def _run(route: str, wrong: int, cold_s: float, seed: int = 0, name: str = "digits", **more: Any) -> dict[str, Any]:
    """Of 200 images the first `wrong` ones are wrong."""
    fields = {
        "set": name,
        "backbone": "toy",
        "seed": seed,
        "route": route,
        "accuracy": 1 - wrong / 200,
        "n": 200,
        "wrong": [f"{image:03d}" for image in range(wrong)],
        "cold_s": cold_s,
        "warm_s": None,
        "size_bytes": 1,
        "first_s": {"last": 9.0},
    }
    return {**fields, **more}


def _goals(*runs: dict[str, Any]) -> list[dict[str, Any]]:
    (one,) = gap_report.summarise(runs)
    found: list[dict[str, Any]] = one["reached"]
    return found


@pytest.mark.parametrize(("wrong", "cold_s", "reached"), [(5, 5.0, True), (6, 5.0, False), (0, 5.1, False)])
def test_digits_want_half_a_point_at_a_twentieth_of_the_time(wrong: int, cold_s: float, reached: bool) -> None:
    """Four wrong of 200 by fine-tuning in 100 s: five are within half a point, six are not, 5.1 s are too many."""
    goal, *_ = _goals(_run("fine-tune", 4, 100.0), _run("all stages", wrong, cold_s))
    assert goal["reached"] is reached


def test_the_time_is_that_of_the_very_route_whose_accuracy_is_held_against() -> None:
    """LP-FT is better and quicker than fine-tuning: a cached route must be held against its time, too."""
    runs = [_run("fine-tune", 9, 200.0), _run("LP-FT", 2, 40.0), _run("all stages", 2, 5.0, cv_accuracy=0.9)]
    against_lpft, *plain = _goals(*runs)
    assert (against_lpft["reached"], against_lpft["route"]) == (False, "all stages (8.0 x)")
    assert "of LP-FT" in against_lpft["what"]
    assert [(goal["route"], goal["times_as_fast"], goal["reached"]) for goal in plain[:2]] == [
        ("all stages", 40.0, True)
    ] * 2
    assert plain[2]["what"].startswith("as accurate as fine-tune in as many epochs")


def test_cross_validation_chooses_without_val() -> None:
    cached = [_run("all stages", 0, 4.0, cv_accuracy=0.90), _run("Head2Toe", 8, 4.0, cv_accuracy=0.95)]
    lucky, honest = _goals(_run("fine-tune", 2, 100.0), *cached)
    assert (lucky["route"], lucky["reached"]) == ("all stages", True)
    assert (honest["route"], honest["reached"], honest["difference"]) == ("Head2Toe", False, pytest.approx(-0.03))


def test_rows_of_imagenet_and_networks_from_scratch_reach_nothing() -> None:
    goal, *_ = _goals(_run("fine-tune", 9, 100.0), _run(gap_report.OWN, 0, 1.0), _run("from scratch", 0, 1.0))
    assert (goal["route"], goal["reached"]) == ("none ran (0.0 x)", False)


def test_without_fine_tuning_nothing_is_judged() -> None:
    (goal,) = _goals(_run("all stages", 0, 4.0))
    assert goal["reached"] is None
    assert "not judged: cached routes against fine-tuning" in gap_report.describe(
        gap_report.summarise([_run("all stages", 0, 4.0)])
    )


def test_lpft_that_is_worse_is_a_miss() -> None:
    runs = [_run("fine-tune", 3, 100.0), _run("LP-FT", 4, 100.0)]
    goal = _goals(*runs)[-1]
    assert (goal["route"], goal["reached"], goal["difference"]) == ("LP-FT", False, pytest.approx(-0.005))
    assert "  MISSED: as accurate as fine-tune in as many epochs: LP-FT: -0.5 points" in gap_report.describe(
        gap_report.summarise(runs)
    )


def test_speed_is_compared_within_a_seed_and_accuracy_over_all() -> None:
    """The second seed ran on a machine of half the speed: the ratio is the same."""
    runs = [_run("fine-tune", 4, 100.0), _run("fine-tune", 6, 200.0, seed=1)]
    runs += [_run("all stages", 3, 5.0), _run("all stages", 5, 10.0, seed=1)]
    (one,) = gap_report.summarise(runs)
    assert one["routes"]["all stages"]["times_as_fast"] == 20.0
    assert one["routes"]["all stages"]["accuracy"] == pytest.approx(0.98)
    assert one["reached"][0]["difference"] == pytest.approx(0.005)
