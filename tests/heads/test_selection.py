"""Several tuned heads compared on the same held-out images."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from scipy.linalg import cho_factor

from caches import cache_of, clouds
from featcache.cache.features import Features
from featcache.errors import HeadError
from featcache.heads.registry import HEADS, HeadSpec
from featcache.heads.solvers import closed_form
from featcache.heads.solvers.path import OutOfTimeError
from featcache.heads.tuning.selection import select
from featcache.heads.tuning.tuning_data import TunedHead, TuningData
from featcache.metrics.significance import paired_test
from tuned import AUTO, TUNED, try_to_tune

NAMES = ("a", "b", "c")


@pytest.fixture
def train(tmp_path: Path) -> Features:
    x, y = clouds(90, 3, views=2)
    return cache_of(tmp_path / "c.h5", (x, y), (x[:3, 0], y[:3])).features("train")


def specs(names: Iterable[str] = AUTO) -> list[HeadSpec]:
    return [HEADS.get(name) for name in names]


class Fixed:
    """Heads whose predictions of held-out images are given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, clock: list[float] | None = None) -> None:
        self.clock = clock or [0.0]
        monkeypatch.setattr("featcache.heads.tuning.selection.time.perf_counter", lambda: self.clock[0])
        self.wrong: dict[str, int] = {}
        self.took: dict[str, float] = {}

    def specs(self) -> list[HeadSpec]:
        """Those that have predictions, in this order."""
        return [HeadSpec(name, tune=self[name]) for name in self.wrong]

    def __getitem__(self, name: str) -> Any:
        def tune(tuning: Any, stop: Any) -> TunedHead | None:
            self.clock[0] += self.took.get(name, 0)
            y = tuning.held_out.labels
            right = np.where(np.arange(len(y)) < self.wrong[name], (y + 1) % 3, y)
            return (
                None if stop() and name == "knn" else TunedHead(name, "s", (), np.eye(3)[right] * 0.9 + 0.1 / 3, None)
            )

        return tune


def tuning(n: int = 60) -> Any:
    held_out = SimpleNamespace(labels=np.arange(n) % 3, rows=np.arange(n), weight=np.ones(n))
    return SimpleNamespace(held_out=held_out, classes=np.arange(3), folds=5, multilabel=False)


def test_the_most_accurate_wins_and_the_others_are_told_apart_from_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = Fixed(monkeypatch)
    fixed.wrong = {"ridge": 3, "linear": 2, "lda": 40}
    tuned, selection = select(tuning(), fixed.specs(), NAMES)
    assert (tuned.estimator, selection.chosen.head, selection.folds, selection.images) == ("linear", "linear", 5, 60)
    assert [item.head for item in selection.candidates] == ["linear", "ridge", "lda"]
    assert [item.accuracy.accuracy for item in selection.candidates] == [58 / 60, 57 / 60, 20 / 60]
    assert [item.p for item in selection.candidates] == [
        1.0,
        paired_test(np.arange(60) > 1, np.arange(60) > 2).p,
        pytest.approx(2**-37),
    ]
    assert "linear and ridge differ by no more than noise (McNemar p >= 0.05)" in str(selection)
    assert [item["head"] for item in selection.to_dict()["entrants"]] == ["linear", "ridge", "lda"]


def test_what_the_budget_leaves_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = Fixed(monkeypatch)
    fixed.wrong, fixed.took = {"ridge": 3, "linear": 2, "lda": 1}, {"ridge": 4, "linear": 7}
    _, selection = select(tuning(), fixed.specs(), NAMES, 10.0)
    assert [item.head for item in selection.candidates] == ["linear", "ridge"]
    assert [item.seconds for item in selection.candidates] == [7, 4]
    assert selection.skipped == (("lda", "the budget was spent"),)
    assert str(selection).endswith("lda was left out: the budget was spent")


@pytest.mark.parametrize("name", ["ridge", "lda"])
def test_factorizations_end_with_the_budget(name: str, train: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of five problems are factorized, then the time is up; a later call goes on with the fourth."""
    data, answers, factorize = TuningData(train), iter([False, False, False, True]), Mock(side_effect=cho_factor)
    monkeypatch.setattr("featcache.heads.solvers.closed_form.cho_factor", factorize)
    data.statistics()
    with pytest.raises(OutOfTimeError):
        try_to_tune(name, data, lambda: next(answers))
    assert (next(answers, None), factorize.call_count) == (None, 3)
    tuned = try_to_tune("lda", data, lambda: False)
    assert tuned is not None
    assert factorize.call_count == 5 * len(tuned.trials) + 1  # and that of all images, at the strength that was chosen


def test_wide_features_leave_time_for_the_heads_that_are_fast_on_few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds as on 244 images of 1,280 features and two busy cores, where each factorization is shared by lda and
    ridge; a head that says that it would take too long is left out, and the time it leaves is for the next one."""
    fixed = Fixed(monkeypatch)
    fixed.wrong = dict.fromkeys((*AUTO, "slow", "last"), 3)
    fixed.took = {"centroid": 0.9, "lda": 6.5, "ridge": 0.5, "slow": 40.0, "linear": 2.0, "last": 7.0}
    heads = [
        HeadSpec(name, tune=fixed[name], estimate_s=lambda _, name=name: fixed.took[name])
        for name in ("centroid", "lda", "ridge", "slow", "linear", "last")
    ]
    heads[-1] = replace(heads[-1], estimate_s=None)
    _, selection = select(tuning(), heads, NAMES, 10.0)
    assert [item.head for item in selection.candidates] == ["centroid", "lda", "ridge", "linear", "last"]
    assert selection.skipped == (("slow", "it would take about 40 s, and 2 s are left"),)
    assert "slow was left out: it would take about 40 s, and 2 s are left" in str(selection)


def test_gathering_moments_ends_with_the_budget(train: Features) -> None:
    with pytest.raises(OutOfTimeError):
        try_to_tune("centroid", TuningData(train), lambda: True)


def test_a_head_that_fails_on_its_device_leaves_the_others(train: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr("featcache.heads.tuning.tuning_data.solve_path", full)
    _, selection = select(TuningData(train), specs(["linear", "centroid"]), train.samples.classes)
    assert [item.head for item in selection.candidates] == ["centroid"]
    assert selection.skipped == (("linear", "it failed (CUDA out of memory)"),)


def test_the_first_head_is_fitted_however_short_the_budget(train: Features) -> None:
    _, selection = select(TuningData(train), specs(), train.samples.classes, -1.0)
    assert [item.head for item in selection.candidates] == [AUTO[0]]
    assert selection.skipped == tuple((name, "the budget was spent") for name in ("centroid", "ridge", "linear"))


@pytest.mark.parametrize(
    ("memory", "reason"),
    [
        (1e15, r"it would take about [\d,]+ s, and \d+ s are left"),
        (10.0, "its matrices of all pairs of features do not"),
    ],
)
def test_closed_forms_of_too_many_features_are_left_out(
    memory: float, reason: str, train: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last head is fitted nevertheless."""
    monkeypatch.setattr(closed_form, "MAX_WIDTH", 1)
    monkeypatch.setattr(closed_form, "_FACTORIZATIONS", 1e12)
    monkeypatch.setattr(closed_form, "available_memory_bytes", lambda: memory)
    _, selection = select(TuningData(train), specs(), train.samples.classes, 5.0)
    assert [item.head for item in selection.candidates] == ["linear"]
    assert [name for name, _ in selection.skipped] == ["lda", "centroid", "ridge"]
    assert all(re.match(reason, why) for _, why in selection.skipped)


def test_a_slow_head_neither_keeps_cheap_ones_out_nor_overruns(train: Features) -> None:
    """Each pass of linear takes 50 ms, so its path about 4 s: it is left out within the budget."""
    data = TuningData(train)
    quick = data.rows.loss_and_gradient

    def slow(*arguments: Any, **named: Any) -> Any:
        time.sleep(0.05)
        return quick(*arguments, **named)

    vars(data.rows)["loss_and_gradient"] = slow
    started = time.perf_counter()
    _, selection = select(data, specs(), train.samples.classes, 1.0)
    assert time.perf_counter() - started < 3
    assert {item.head for item in selection.candidates} == {"centroid", "ridge", "lda"}
    ((name, reason),) = selection.skipped
    assert name == "linear"
    match = re.fullmatch(r"it would take about (\d+) s, and [01] s are left", reason)
    assert match
    assert 4 <= int(match[1]) <= 12  # 80 passes


def test_a_search_that_the_budget_cuts_short_does_not_win(train: Features) -> None:
    """A pass becomes slow after it was timed: linear ends in the budget, and the complete heads are compared."""
    data = TuningData(train)
    quick, passes = data.rows.loss_and_gradient, []

    def slower(*arguments: Any, **named: Any) -> Any:
        passes.append(1)
        time.sleep(0.0 if len(passes) < 20 else 0.1)
        return quick(*arguments, **named)

    vars(data.rows)["loss_and_gradient"] = slower
    started = time.perf_counter()
    _, selection = select(data, specs(), train.samples.classes, 2.0)
    assert time.perf_counter() - started < 6
    assert {item.head for item in selection.candidates} == {"centroid", "ridge", "lda"}
    assert selection.skipped in (
        (("linear", "its search was cut short by the budget"),),
        (("linear", "the budget was spent"),),  # before its first C was solved
    )


@pytest.mark.parametrize("calls", [0, 1, 10])
def test_linear_ends_at_a_pass(calls: int, train: Features) -> None:
    """Before the first setting there is no head; behind it there is one, cut short."""
    answers = iter([False] * calls + [True] * 1000)
    if calls < 5:
        with pytest.raises(OutOfTimeError):
            try_to_tune("linear", TuningData(train), lambda: next(answers))
    else:
        first = len(list(try_to_tune("linear", TuningData(train), lambda: False).trials))  # type: ignore[union-attr]
        tuned = try_to_tune("linear", TuningData(train), lambda: next(answers))
        assert tuned is not None
        assert tuned.setting.endswith(", cut short")
        assert 1 <= len(tuned.trials) < first


def test_a_surer_head_that_is_clearly_less_accurate_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 60 images linear has 2 wrong, ridge 6: two standard errors, which McNemar's test calls noise (p = 0.125)."""
    fixed = Fixed(monkeypatch)
    fixed.wrong = {"ridge": 6, "linear": 2}
    plain = fixed["linear"]

    def sure_and_wrong(tuning: Any, stop: Any) -> Any:
        selection = plain(tuning, stop)
        return selection._replace(probabilities=np.eye(3)[selection.probabilities.argmax(1)])

    heads = {"linear": sure_and_wrong, "ridge": fixed["ridge"]}
    tuned, selection = select(tuning(), [HeadSpec(name, tune=heads[name]) for name in heads], NAMES)
    assert (tuned.estimator, selection.candidates[1].p) == ("linear", 0.125)


def test_a_budget_in_which_nothing_is_done_is_an_error() -> None:
    heads: dict[str, Any] = {"knn": lambda tuning, stop: None}
    with pytest.raises(
        HeadError, match=r"^knn could not be fitted: the budget was spent, or there are too few samples$"
    ):
        select(tuning(), [HeadSpec(name, tune=heads[name]) for name in heads], NAMES, 10.0)


def test_every_family_competes_on_the_same_images(train: Features) -> None:
    tuned, selection = select(TuningData(train), specs(TUNED), train.samples.classes)
    assert {item.head for item in selection.candidates} == set(TUNED)
    assert {item.accuracy.n for item in selection.candidates} == {90}
    accuracies = [item.accuracy.accuracy for item in selection.candidates]
    assert accuracies == sorted(accuracies, reverse=True)
    assert min(accuracies) > 0.6
    assert selection.skipped == ()
    assert hasattr(tuned.estimator, "predict_proba")


def test_a_head_that_fails_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = Fixed(monkeypatch)
    fixed.wrong = {"ridge": 3}

    def fails(tuning: Any, stop: Any) -> None:
        raise np.linalg.LinAlgError("no convergence")

    heads = {"linear": fails, "ridge": fixed["ridge"]}
    _, selection = select(tuning(), [HeadSpec(name, tune=heads[name]) for name in heads], NAMES)
    assert selection.chosen.head == "ridge"
    assert str(selection).endswith("linear was left out: it failed (no convergence)")


def test_of_heads_that_noise_could_explain_the_surest_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = Fixed(monkeypatch)
    fixed.wrong = {"ridge": 3, "linear": 2}
    plain = fixed["linear"]

    def sure_and_wrong(tuning: Any, stop: Any) -> Any:
        selection = plain(tuning, stop)
        return selection._replace(probabilities=np.eye(3)[selection.probabilities.argmax(1)])

    heads = {"linear": sure_and_wrong, "ridge": fixed["ridge"]}
    tuned, selection = select(tuning(), [HeadSpec(name, tune=heads[name]) for name in heads], NAMES)
    assert tuned.estimator == "ridge"
    assert [item.accuracy.accuracy for item in selection.candidates] == [57 / 60, 58 / 60]
