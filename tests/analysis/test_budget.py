"""The estimated time of a run from its progress, with a clock that the test sets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache._utils.formatting import human_duration
from featcache.analysis.benchmark.budget import (
    Budget,
    BudgetUsage,
    OverBudgetError,
    ProgressEstimator,
    SkippedRun,
    TimeEstimate,
)

IMAGES = {"train": 200, "val": 60, "test": 30}
EXTRACT = {"task": "extract", "views": 4}
FROZEN = {"task": "finetune", "mode": "head", "recipe": {"epochs": 10}}
FINETUNE = {"task": "finetune", "mode": "all", "recipe": {"epochs": 10}}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def ignore(_what: str, _done: int, _total: int) -> None:
    """A progress callback."""


def test_an_extraction_is_foreseen_by_views_of_which_a_training_image_has_more() -> None:
    clock = Clock()
    estimator = ProgressEstimator(EXTRACT, IMAGES, clock)
    assert estimator.left_s("hash", 290) is None
    assert estimator.left_s("extract", 10) is None  # the first batch is slow, and starts the clock
    clock.now += 4
    assert estimator.left_s("extract", 18) is None  # 40 views in 4 s, which is too early to tell
    clock.now += 2
    assert estimator.left_s("extract", 22) == pytest.approx((1090 - 110) / 10)  # 60 views in 6 s; 200 x 5 + 90 in all
    assert estimator.settled  # a tenth of 1090
    assert estimator.left_s("extract", 30) is None


def test_views_of_val_come_after_those_of_train_one_an_image() -> None:
    clock = Clock()
    estimator = ProgressEstimator(EXTRACT, {"train": 2, "val": 100, "test": 0}, clock)
    estimator.left_s("extract", 2)
    clock.now += 10
    assert estimator.left_s("extract", 3) == pytest.approx(990.0)  # 11 of 110 views, the last one in 10 s


@pytest.mark.parametrize(("task", "epoch", "test"), [(FROZEN, 260.0, 30.0), (FINETUNE, 220.0, 10.0)])
def test_a_training_is_settled_by_its_first_epoch_with_its_evaluation(
    task: dict[str, Any], epoch: float, test: float
) -> None:
    """An image that is only evaluated costs a third where all layers learn, and as much where they do not."""
    clock = Clock()
    estimator = ProgressEstimator(task, IMAGES, clock)
    assert estimator.left_s("epoch 1", 20) is None
    clock.now += 9
    assert estimator.left_s("epoch 1", 200) == pytest.approx((10 * epoch + test - 200) * 9 / 180)
    assert not estimator.settled
    assert estimator.left_s("val", 60) is None
    clock.now += 6
    left = estimator.left_s("epoch 2", 20)
    assert left == pytest.approx((10 * epoch + test - epoch - 20) * 15 / epoch)
    assert estimator.settled


def test_a_single_epoch_is_settled_where_it_ends() -> None:
    clock = Clock()
    estimator = ProgressEstimator({**FROZEN, "recipe": {"epochs": 1}}, IMAGES, clock)
    estimator.left_s("epoch 1", 100)
    clock.now += 10
    assert estimator.left_s("epoch 1", 200) == pytest.approx(9.0)  # 60 of val and 30 of test
    assert estimator.settled


@given(st.floats(0.01, 100), st.integers(2, 50))
def test_of_an_even_pace_the_forecast_is_right_from_first_to_last(rate: float, epochs: int) -> None:
    clock = Clock()
    estimator = ProgressEstimator({**FROZEN, "recipe": {"epochs": epochs}}, IMAGES, clock)
    end = clock.now + (epochs * 260 + 30) * rate
    for done in range(0, 201, 20):
        left = estimator.left_s("epoch 1", done)
        assert left is None or clock.now + left == pytest.approx(end)
        clock.now += 20 * rate
    clock.now = 100 + (260 + 20) * rate
    assert clock.now + (estimator.left_s("epoch 2", 20) or 0.0) == pytest.approx(end)


def test_fitting_a_head_is_not_foreseen() -> None:
    estimator = ProgressEstimator({"task": "fit-head"}, IMAGES, Clock())
    assert estimator.left_s("extract", 1) is None
    assert estimator.left_s("epoch 1", 1) is None


def _first_epoch(budget: Budget, clock: Clock, task: dict[str, Any], seconds: float, since_s: float = 0.0) -> None:
    report = budget.enforce(task, IMAGES, since_s, ignore)
    clock.now += 10  # imports
    report("epoch 1", 0, 200)
    for done in range(20, 201, 20):
        clock.now += seconds / 10
        report("epoch 1", done, 200)
    clock.now += seconds * 20 / 200  # val, a third of 60
    report("val", 60, 60)
    report("epoch 2", 0, 200)


def test_a_run_that_would_not_end_is_stopped_within_its_first_epoch_where_that_is_clear() -> None:
    clock = Clock()
    budget = Budget(100.0, clock=clock)
    with pytest.raises(OverBudgetError) as caught:
        _first_epoch(budget, clock, FINETUNE, 50.0)
    # 50 s for 200 of 2210 images: 552.5 s after imports; known after two batches of 5 s
    assert caught.value.expected.seconds == pytest.approx(562.5)
    assert clock.now == 100 + 10 + 5


def test_a_run_that_nearly_fits_gets_its_first_epoch() -> None:
    clock = Clock()
    budget = Budget(500.0, clock=clock)
    with pytest.raises(OverBudgetError) as caught:
        _first_epoch(budget, clock, FINETUNE, 50.0)
    assert clock.now == 100 + 10 + 55
    assert caught.value.expected.seconds == pytest.approx(562.5)


def test_a_run_that_fits_goes_on_and_is_not_stopped_later() -> None:
    clock = Clock()
    budget = Budget(570.0, clock=clock)
    _first_epoch(budget, clock, FINETUNE, 50.0)
    slow = Budget(570.0, clock=clock)
    report = slow.enforce(FINETUNE, IMAGES, 0.0, ignore)
    report("epoch 1", 0, 200)
    clock.now += 50
    report("epoch 1", 200, 200)
    report("epoch 2", 20, 200)
    clock.now += 5000
    report("epoch 3", 20, 200)
    assert slow.left_s == 0.0


def test_what_came_before_the_order_counts_into_the_run() -> None:
    clock = Clock()
    budget = Budget(100.0, already_s=40.0, clock=clock)
    assert (budget.spent_s, budget.left_s) == (40.0, 60.0)
    clock.now += 30
    with pytest.raises(OverBudgetError) as caught:
        _first_epoch(budget, clock, FINETUNE, 50.0, since_s=40.0)
    assert caught.value.expected.seconds == pytest.approx(30 + 562.5)


def test_progress_is_passed_on() -> None:
    seen: list[tuple[str, int, int]] = []
    Budget(1.0, clock=Clock()).enforce(EXTRACT, IMAGES, 0.0, lambda *step: seen.append(step))("hash", 1, 290)
    assert seen == [("hash", 1, 290)]


def test_trainings_of_all_layers_are_expected_to_take_what_one_took() -> None:
    budget = Budget(100.0)
    assert budget.expect("finetune") is None
    budget.expected["frozen"] = TimeEstimate(30.0)
    assert [budget.expect(route) for route in ("frozen", "lpft", "scratch", "cached")] == [
        (30.0, False), (30.0, True), (30.0, True), None]  # fmt: skip
    budget.expected["lpft"] = TimeEstimate(40.0)
    assert [budget.expect(route) for route in ("finetune", "scratch", "lpft", "cached")] == [
        (40.0, False), (40.0, False), (40.0, False), None]  # fmt: skip
    budget.expected["finetune"] = TimeEstimate(45.0)
    assert budget.expect("finetune") == (45.0, False)


def test_a_run_of_which_nothing_is_known_when_the_time_is_up_is_stopped() -> None:
    clock = Clock()
    report = Budget(20.0, clock=clock).enforce(FINETUNE, IMAGES, 0.0, ignore)
    clock.now += 19
    report("hash", 64, 290)
    clock.now += 2
    with pytest.raises(OverBudgetError) as caught:
        report("hash", 128, 290)
    assert caught.value.expected == (21.0, True)


def test_a_curve_is_not_stopped() -> None:
    clock = Clock()
    report = Budget(20.0, clock=clock).enforce({"task": "curve"}, IMAGES, 0.0, ignore)
    clock.now += 30
    report("curve", 1, 7)


def test_what_was_left_out_in_words_and_as_json() -> None:
    assert str(SkippedRun("finetune", 0, 540.0, 240.0)) == "fine-tune (takes about 9 minutes, 4 minutes left)"
    assert str(SkippedRun("scratch", 0, 90.0, 60.0)) == "from scratch (takes about 90 seconds, 60 seconds left)"
    assert str(SkippedRun("scratch", 0, 90.0, 60.0, least=True)) == (
        "from scratch (takes at least 90 seconds, 60 seconds left)"
    )
    assert str(SkippedRun("cached", 0, 90.0, 1.0)) == "cached head (takes about 90 seconds, 1 second left)"
    assert str(SkippedRun("cached", 0, 90.0, 0.0)) == "cached head (no time was left)"
    assert str(SkippedRun("lpft", 0, None, 0.0)) == "LP-FT (needs the cached head)"
    usage = BudgetUsage(600.0, 10.5, (SkippedRun("lpft", 1, None, 0.0),))
    assert usage.to_dict() == {
        "budget_s": 600.0,
        "spent_s": 10.5,
        "left_out": [{"route": "lpft", "seed": 1, "predicted_s": None, "left_s": 0.0, "least": False}],
    }


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0 seconds"), (1.0, "1 second"), (4.21, "4.2 seconds"), (9.96, "10 seconds"), (13.4, "13 seconds"),
     (119.4, "119 seconds"), (119.6, "2 minutes"), (240, "4 minutes"), (545, "9.1 minutes"), (700, "12 minutes"),
     (7170, "2 hours"), (9000, "2.5 hours"), (100_000, "28 hours"), (200_000, "2.3 days"), (1e7, "116 days")],
)  # fmt: skip
def test_durations_as_people_say_them(seconds: float, words: str) -> None:
    assert human_duration(seconds) == words
