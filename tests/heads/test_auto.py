"""Heads that compete for the same images."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from caches import cache_of, clouds
from featcache.cache.features import Features
from featcache.errors import HeadError
from featcache.heads.tuning import auto
from featcache.heads.tuning.auto import select
from featcache.heads.tuning.families import TUNED_HEADS, TunedHead, TuningData
from featcache.heads.tuning.path_selection import OutOfTimeError
from featcache.metrics.significance import paired_test

NAMES = ("a", "b", "c")


@pytest.fixture
def train(tmp_path: Path) -> Features:
    x, y = clouds(90, 3, views=2)
    return cache_of(tmp_path / "c.h5", (x, y), (x[:3, 0], y[:3])).features("train")


class Fixed:
    """Families whose left-out predictions are given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, clock: list[float] | None = None) -> None:
        self.clock = clock or [0.0]
        monkeypatch.setattr(auto, "TUNED_HEADS", self)
        monkeypatch.setattr(auto.time, "perf_counter", lambda: self.clock[0])
        self.wrong: dict[str, int] = {}
        self.took: dict[str, float] = {}

    def __getitem__(self, name: str) -> Any:
        def family(tuning: Any, stop: Any) -> TunedHead | None:
            self.clock[0] += self.took.get(name, 0)
            y = tuning.left_out.labels
            right = np.where(np.arange(len(y)) < self.wrong[name], (y + 1) % 3, y)
            return (
                None if stop() and name == "knn" else TunedHead(name, "s", (), np.eye(3)[right] * 0.9 + 0.1 / 3, None)
            )

        return family


def tuning(n: int = 60) -> Any:
    left_out = SimpleNamespace(labels=np.arange(n) % 3, rows=np.arange(n), weight=np.ones(n))
    return SimpleNamespace(left_out=left_out, classes=np.arange(3), problems=SimpleNamespace(k=6))


def test_the_most_accurate_wins_and_the_others_are_told_apart_from_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = Fixed(monkeypatch)
    fixed.wrong = {"ridge": 3, "linear": 2, "lda": 40}
    estimator, found = select(tuning(), list(fixed.wrong), NAMES)
    assert (estimator, found.chosen.head, found.folds, found.images) == ("linear", "linear", 5, 60)
    assert [one.head for one in found.entrants] == ["linear", "ridge", "lda"]
    assert [one.accuracy.accuracy for one in found.entrants] == [58 / 60, 57 / 60, 20 / 60]
    assert [one.p for one in found.entrants] == [
        1.0,
        paired_test(np.arange(60) > 1, np.arange(60) > 2).p,
        pytest.approx(2**-37),
    ]
    assert "linear and ridge differ by no more than noise (McNemar p >= 0.05)" in str(found)
    assert [one["head"] for one in found.to_dict()["entrants"]] == ["linear", "ridge", "lda"]


def test_what_the_budget_leaves_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = Fixed(monkeypatch)
    fixed.wrong, fixed.took = {"ridge": 3, "linear": 2, "lda": 1}, {"ridge": 4, "linear": 7}
    _, found = select(tuning(), list(fixed.wrong), NAMES, 10.0)
    assert [one.head for one in found.entrants] == ["linear", "ridge"]
    assert [one.seconds for one in found.entrants] == [7, 4]
    assert found.missed == (("lda", "the budget was spent"),)
    assert str(found).endswith("lda was left out: the budget was spent")


@pytest.mark.parametrize("name", ["ridge", "lda"])
def test_decompositions_end_with_the_budget(name: str, train: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of six problems are decomposed, then the time is up; a later call goes on with the fourth."""
    some, asked, eigh = TuningData(train), iter([False, False, False, True]), Mock(side_effect=np.linalg.eigh)
    monkeypatch.setattr(np.linalg, "eigh", eigh)
    some.moments()
    with pytest.raises(OutOfTimeError):
        TUNED_HEADS[name](some, lambda: next(asked))
    assert (next(asked, None), eigh.call_count) == (None, 3)
    assert TUNED_HEADS["lda"](some, lambda: False) is not None
    assert eigh.call_count == 6


def test_wide_features_leave_time_for_the_heads_that_are_fast_on_few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds as on 244 images of 1,280 features and two busy cores, where ridge and lda took all of ten seconds."""
    fixed = Fixed(monkeypatch)
    fixed.wrong = dict.fromkeys(TUNED_HEADS, 3)
    fixed.took = {"centroid": 0.9, "ridge": 7.2, "lda": 6.5, "knn": 0.2, "linear": 2.0}
    _, found = select(tuning(), [name for name in TUNED_HEADS if name != "head2toe"], NAMES, 10.0)
    assert {"centroid", "knn", "linear"} <= {one.head for one in found.entrants}
    assert found.missed == (("lda", "the budget was spent"),)


def test_gathering_moments_ends_with_the_budget(train: Features) -> None:
    with pytest.raises(OutOfTimeError):
        TUNED_HEADS["centroid"](TuningData(train), lambda: True)


def test_a_head_that_fails_on_its_device_leaves_the_others(train: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr("featcache.heads.tuning.families.solve_path", full)
    _, found = select(TuningData(train), ["linear", "centroid"], train.samples.classes)
    assert [one.head for one in found.entrants] == ["centroid"]
    assert found.missed == (("linear", "it failed (CUDA out of memory)"),)


def test_the_first_head_is_fitted_however_short_the_budget(train: Features) -> None:
    _, found = select(TuningData(train), list(TUNED_HEADS), train.samples.classes, -1.0)
    assert [one.head for one in found.entrants] == ["centroid"]
    others = ("knn", "linear", "head2toe", "ridge", "lda")  # those that cannot be cut short are last
    assert found.missed == tuple((name, "the budget was spent") for name in others)


def test_a_slow_head_neither_keeps_cheap_ones_out_nor_overruns(train: Features) -> None:
    """Each pass of linear takes 50 ms, so its path some seconds: it is left out, or cut short, within the budget."""
    some = TuningData(train)
    quick = some.rows.one_pass

    def slow(*arguments: Any, **named: Any) -> Any:
        time.sleep(0.05)
        return quick(*arguments, **named)

    vars(some.rows)["one_pass"] = slow
    started = time.perf_counter()
    _, found = select(some, [name for name in TUNED_HEADS if name != "head2toe"], train.samples.classes, 1.0)
    assert time.perf_counter() - started < 3
    assert {"centroid", "ridge", "lda", "knn"} <= {one.head for one in found.entrants}
    linear = [one.setting for one in found.entrants if one.head == "linear"]
    assert linear[0].endswith(", cut short") if linear else found.missed == (("linear", "the budget was spent"),)


@pytest.mark.parametrize("calls", [0, 1, 10])
def test_linear_ends_at_a_pass(calls: int, train: Features) -> None:
    """Before the first setting there is no head; behind it there is one, cut short."""
    asked = iter([False] * calls + [True] * 1000)
    if calls < 5:
        with pytest.raises(OutOfTimeError):
            TUNED_HEADS["linear"](TuningData(train), lambda: next(asked))
    else:
        first = len(list(TUNED_HEADS["linear"](TuningData(train), lambda: False).trials))  # type: ignore[union-attr]
        tuned = TUNED_HEADS["linear"](TuningData(train), lambda: next(asked))
        assert tuned is not None
        assert tuned.setting.endswith(", cut short")
        assert 1 <= len(tuned.trials) < first


def test_a_surer_head_that_is_clearly_less_accurate_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 60 images linear has 2 wrong, ridge 6: two standard errors, which McNemar's test calls noise (p = 0.125)."""
    fixed = Fixed(monkeypatch)
    fixed.wrong = {"ridge": 6, "linear": 2}
    plain = fixed["linear"]

    def sure_and_wrong(tuning: Any, stop: Any) -> Any:
        found = plain(tuning, stop)
        return found._replace(probabilities=np.eye(3)[found.probabilities.argmax(1)])

    monkeypatch.setattr(auto, "TUNED_HEADS", {"linear": sure_and_wrong, "ridge": fixed["ridge"]})
    estimator, found = select(tuning(), ["linear", "ridge"], NAMES)
    assert (estimator, found.entrants[1].p) == ("linear", 0.125)


def test_a_budget_in_which_nothing_is_done_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "TUNED_HEADS", {"knn": lambda tuning, stop: None})
    with pytest.raises(
        HeadError, match=r"^knn could not be fitted: the budget was spent, or there are too few images$"
    ):
        select(tuning(), ["knn"], NAMES, 10.0)


def test_every_family_competes_on_the_same_images(train: Features) -> None:
    estimator, found = select(TuningData(train), list(TUNED_HEADS), train.samples.classes)
    assert {one.head for one in found.entrants} == set(TUNED_HEADS)
    assert {one.accuracy.n for one in found.entrants} == {90}
    accuracies = [one.accuracy.accuracy for one in found.entrants]
    assert accuracies == sorted(accuracies, reverse=True)
    assert min(accuracies) > 0.6
    assert found.missed == ()
    assert hasattr(estimator, "predict_proba")


def test_a_head_that_fails_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = Fixed(monkeypatch)
    fixed.wrong = {"ridge": 3}

    def fails(tuning: Any, stop: Any) -> None:
        raise np.linalg.LinAlgError("no convergence")

    monkeypatch.setattr(auto, "TUNED_HEADS", {"linear": fails, "ridge": fixed["ridge"]})
    _, found = select(tuning(), ["linear", "ridge"], NAMES)
    assert found.chosen.head == "ridge"
    assert str(found).endswith("linear was left out: it failed (no convergence)")


def test_of_heads_that_noise_could_explain_the_surest_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = Fixed(monkeypatch)
    fixed.wrong = {"ridge": 3, "linear": 2}
    plain = fixed["linear"]

    def sure_and_wrong(tuning: Any, stop: Any) -> Any:
        found = plain(tuning, stop)
        return found._replace(probabilities=np.eye(3)[found.probabilities.argmax(1)])

    monkeypatch.setattr(auto, "TUNED_HEADS", {"linear": sure_and_wrong, "ridge": fixed["ridge"]})
    estimator, found = select(tuning(), ["linear", "ridge"], NAMES)
    assert estimator == "ridge"
    assert [one.accuracy.accuracy for one in found.entrants] == [57 / 60, 58 / 60]
