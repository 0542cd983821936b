"""The tasks of a benchmark with processes that answer at once: the whole cost of LP-FT, and the budget."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from commands import COUNTS, write_folder
from featcache.analysis.benchmark import runner
from featcache.analysis.benchmark.budget import Budget
from featcache.analysis.benchmark.compare import benchmark
from featcache.analysis.benchmark.outcomes import COLD, WARM, Comparison, FittedHead
from featcache.analysis.benchmark.routes import ROUTES, routes_for
from featcache.analysis.benchmark.verdict import reach_verdict
from featcache.errors import RunError
from outcomes import fake_processes

TEN = {"epochs": 10, "batch_size": 5}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """13 images in train, 5 in val, 4 in test."""
    return write_folder(tmp_path_factory.mktemp("work") / "data", {**COUNTS, "test/ants": 2, "test/bees": 2})


def _compare(data: Path, out: Path, **changes: Any) -> Comparison:
    return benchmark(data, out, **{"image_size": 32, "workers": 2, "views": 2, "config": TEN, "repeats": 1, **changes})


def test_the_cost_of_lpft_is_that_of_its_cache_and_head_too(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a cached head that a network can continue from; LP-FT takes it."""
    tasks = fake_processes(monkeypatch)
    cold, _, shared = _compare(data, tmp_path / "shared", routes=["cached", "lpft"], head="sgd").outcomes
    assert [task["task"] for task in tasks] == ["extract", "fit-head", "finetune"]
    (alone,) = _compare(data, tmp_path / "alone", routes=["lpft"], head="sgd").outcomes
    assert shared.heads == alone.heads == [FittedHead("sgd", ("penultimate",))]
    assert [(task["task"], Path(task["out"]).relative_to(tmp_path).as_posix()) for task in tasks[3:]] == [
        ("extract", "alone/work/lpft-0/cache.h5"),
        ("fit-head", "alone/work/lpft-0/head"),
        ("finetune", "alone/work/lpft-0/run"),
    ]
    assert tasks[-1]["init_head"] == str(tmp_path / "alone/work/lpft-0/head")
    for outcome in (shared, alone):
        assert (outcome.wall_s, outcome.cpu_s) == ([30.0], [60.0])
        assert outcome.size_bytes == 1000 + 7
        assert outcome.shown == 39 + 26 + 2 * 10
        assert outcome.epoch_s == 3.0
    assert cold.wall_s == [20.0]


@pytest.mark.parametrize(
    ("head", "start"), [("knn", "linear"), ("auto", "linear"), ("lda", "lda"), ("sklearn.svm.SVC", "linear")]
)
def test_lpft_fits_a_linear_layer_where_the_cached_head_is_none(
    head: str, start: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is none, or it has several layers."""
    tasks = fake_processes(monkeypatch)
    *_, lpft = _compare(data, tmp_path / "out", routes=["cached", "lpft"], head=head).outcomes
    folder = tmp_path / "out/work"
    assert [(task["task"], task.get("head"), task.get("layer")) for task in tasks] == [
        ("extract", None, None), ("fit-head", head, None), ("fit-head", start, "penultimate"), ("finetune", None, None)
    ]  # fmt: skip
    assert lpft.heads == [FittedHead(start, ("penultimate",))]
    assert tasks[2]["cache"] == str(folder / "cached-0/cache.h5")
    assert tasks[3]["init_head"] == tasks[2]["out"] == str(folder / "lpft-0/head")
    assert lpft.wall_s == [30.0]  # the cache's, its own head's, and the training's


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _timed(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float]) -> tuple[list[str], Clock]:
    """Runs that take so many seconds by our clock, reporting as real ones do; and the folders that were begun."""
    fake_processes(monkeypatch)
    answer, clock, begun = runner.run_in_process, Clock(), list[str]()
    monkeypatch.setattr(runner, "Budget", partial(Budget, clock=clock))

    def run(task: dict[str, Any], progress: Any) -> dict[str, Any]:
        started, took = clock.now, 1.0
        if task["task"] in ("extract", "finetune"):
            begun.append(Path(task["out"]).parent.name)
            took = seconds[begun[-1].partition("-")[0]]
            steps = [("extract", done, 22, 3 if done <= 13 else 1) for done in range(1, 23)]
            if task["task"] == "finetune":
                evaluated = 5 / 3 if task["mode"] == "all" else 5
                epochs = [(f"epoch {epoch}", [*range(1, 14)]) for epoch in range(1, 11)]
                steps = [(name, done, 13, 1) for name, dones in epochs for done in dones]
                steps[12::13] = [(name, 13, 13, 1 + evaluated) for name, _ in epochs]  # val comes before the next
            cost = sum(step[3] for step in steps)
            for *step, units in steps:
                progress(*step)
                clock.now += took * units / cost
        clock.now = started + took
        return {**answer(task, progress), "wall_s": took}

    monkeypatch.setattr(runner, "run_in_process", run)
    return begun, clock


def test_what_does_not_fit_the_budget_is_left_out_with_its_time(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = {"cached": 40.0, "frozen": 200.0, "lpft": 900.0, "finetune": 900.0, "scratch": 900.0}
    begun, _ = _timed(monkeypatch, took)
    result = _compare(data, tmp_path / "out", budget_s=600.0)
    assert begun == ["cached-0", "frozen-0", "lpft-0"]  # the others take what LP-FT takes
    assert [outcome.route for outcome in result.outcomes] == [COLD, WARM, ROUTES["frozen"]]
    assert result.spending is not None
    skipped = result.spending.skipped
    assert [(run.route, run.seed) for run in skipped] == [("lpft", 0), ("finetune", 0), ("scratch", 0)]
    assert [run.predicted_s for run in skipped] == pytest.approx([900.0] * 3, rel=0.05)
    assert skipped[0].left_s == pytest.approx(600 - 241)
    assert result.spending.spent_s < 600
    assert result.settings["budget_s"] == 600.0
    assert not (tmp_path / "out/work/lpft-0/run").exists()
    assert json.loads(json.dumps(result.to_dict()))["spending"]["budget_s"] == 600.0


def test_a_second_call_tries_nothing_again_and_a_larger_budget_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, clock = _timed(monkeypatch, {"cached": 40.0, "frozen": 200.0, "finetune": 900.0})
    routes = ["cached", "frozen", "finetune"]
    first = _compare(data, tmp_path / "out", routes=routes, budget_s=600.0).spending
    assert begun == ["cached-0", "frozen-0", "finetune-0"]
    begun.clear()
    clock.now = 0.0
    second = _compare(data, tmp_path / "out", routes=routes, budget_s=600.0).spending
    assert begun == []
    assert first is not None
    assert second is not None
    assert second.spent_s == pytest.approx(first.spent_s)
    assert [(run.route, run.predicted_s) for run in second.skipped] == [("finetune", first.skipped[0].predicted_s)]
    third = _compare(data, tmp_path / "out", routes=routes, budget_s=1800.0)
    assert begun == ["finetune-0"]
    assert third.spending is not None
    assert third.spending.skipped == ()
    assert len(third.outcomes) == 4
    assert 1141 < third.spending.spent_s < 1800


def test_what_trains_all_layers_is_not_begun_where_the_frozen_network_did_not_fit(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, _ = _timed(monkeypatch, {"cached": 40.0, "frozen": 900.0})
    result = _compare(data, tmp_path / "out", routes=["cached", "frozen", "finetune"], budget_s=300.0)
    assert begun == ["cached-0", "frozen-0"]
    assert result.spending is not None
    frozen, finetune = result.spending.skipped
    assert (frozen.least, finetune.least) == (False, True)
    assert frozen.predicted_s == finetune.predicted_s == pytest.approx(900, rel=0.05)


def test_further_seeds_are_left_out_before_routes(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, _ = _timed(monkeypatch, {"cached": 20.0, "frozen": 100.0, "finetune": 300.0})
    result = _compare(
        data, tmp_path / "out", routes=["finetune", "frozen", "cached"], budget_s=570.0, repeats=4
    )  # 421 s for the first seed, 121 for cached and frozen of the second, and what is left for more of cached
    assert begun == ["cached-0", "frozen-0", "finetune-0", "cached-1", "frozen-1", "cached-2"]
    assert [len(outcome.accuracy) for outcome in result.outcomes] == [3, 3, 2, 1]
    assert result.spending is not None
    assert [(run.route, run.seed) for run in result.spending.skipped] == [
        ("finetune", 1), ("frozen", 2), ("cached", 3)
    ]  # fmt: skip
    assert result.spending.spent_s == pytest.approx(421 + 121 + 21)


def test_lpft_does_not_run_without_the_head_that_it_starts_from(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, _ = _timed(monkeypatch, {"cached": 900.0, "frozen": 100.0, "lpft": 10.0})
    result = _compare(data, tmp_path / "out", routes=["cached", "frozen", "lpft"], budget_s=200.0)
    assert begun == ["cached-0", "frozen-0"]
    assert result.spending is not None
    assert [(run.route, run.predicted_s is None) for run in result.spending.skipped] == [
        ("cached", False), ("lpft", True)
    ]  # fmt: skip
    assert reach_verdict(result).text == "No verdict: the benchmark did not run the cached head."


def test_a_budget_for_nothing_at_all_is_an_error(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _timed(monkeypatch, {"cached": 9000.0})
    with pytest.raises(RunError) as caught:
        _compare(data, tmp_path / "out", routes=["cached"], budget_s=60.0)
    # 9000 s for 48 views; an eighth of them is told after the second image.
    assert str(caught.value) == (
        "no route fits into 60 seconds: cached head (takes about 2.3 hours, 60 seconds left). Give a larger budget, or "
        "fewer views, epochs or images."
    )


def test_curves_are_drawn_where_the_budget_has_room(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _timed(monkeypatch, {"cached": 50.0})
    result = _compare(data, tmp_path / "out", routes=["cached"], budget_s=60.0)
    # A head takes 8 s inside its process; the curves have (2 + 1) + 7 of them in two processes.
    assert result.no_curves == "they take about 66 seconds, and the budget has 9 seconds left."
    assert len(_compare(data, tmp_path / "more", routes=["cached"], budget_s=600.0).curves) == 2
    clean = _compare(data, tmp_path / "clean", routes=["cached"], budget_s=90.0, views=0)
    assert clean.no_curves == "they take about 49 seconds, and the budget has 39 seconds left."


@pytest.mark.parametrize("head", ["auto", "ridge", "centroid"])
def test_lpft_starts_from_any_cached_head_that_is_a_linear_layer(
    head: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With "auto" the fit decides that, not the name: here it chooses the penultimate layer alone."""
    tasks = fake_processes(monkeypatch)
    answer = runner.run_in_process

    def on_penultimate(task: dict[str, Any], progress: Any) -> dict[str, Any]:
        return {**answer(task, progress), **({"layers": ["penultimate"]} if task["task"] == "fit-head" else {})}

    monkeypatch.setattr(runner, "run_in_process", on_penultimate)
    *_, lpft = _compare(data, tmp_path / "out", routes=["cached", "lpft"], head=head).outcomes
    assert [(task["task"], task.get("head")) for task in tasks] == [
        ("extract", None), ("fit-head", head), ("finetune", None)
    ]  # fmt: skip
    assert tasks[-1]["init_head"] == str(tmp_path / "out/work/cached-0/head")
    assert lpft.heads == [FittedHead("lda" if head == "auto" else head, ("penultimate",))]


def test_lpft_with_other_company_is_run_anew_rather_than_counted_wrong(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it took the cached route's cache, once it made its own: the costs are whole each time."""
    fake_processes(monkeypatch)
    for head in ("auto", "sgd"):
        for routes in (["cached", "lpft"], ["lpft"], ["cached", "lpft"]):
            lpft = _compare(data, tmp_path / head, routes=routes, head=head).outcomes[-1]
            assert lpft.wall_s == [30.0]  # an extraction, a fit and a training


def test_random_weights_leave_lpft_out(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = fake_processes(monkeypatch)
    routes = _compare(data, tmp_path / "out", weights="none").settings["routes"]
    assert routes == [route for route in routes_for("image") if route != "lpft"]
    assert not any("init_head" in task for task in tasks)
    with pytest.raises(
        RunError, match=r"^LP-FT needs a pretrained network, and weights are none: drop the route lpft.$"
    ):
        _compare(data, tmp_path / "other", weights="none", routes=["cached", "lpft"])


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("result.json", "[" * 100_000),
        ("result.json", "not JSON"),
        ("result.json", '{"wall_s": 1.0}'),
        ("result.json", '[{"wall_s": "1"}]'),
        ("result.json", '[{"wall_s": 1e400}]'),
        ("foreseen.json", '{"expected": [1.0, true]}'),
        ("foreseen.json", '{"expected": [1.0, true], "tried_s": []}'),
        ("foreseen.json", '{"expected": 1.0, "tried_s": 1.0}'),
        ("foreseen.json", '{"expected": ["1.0"], "tried_s": 1.0}'),
    ],
)
def test_what_a_run_left_is_named_where_it_is_damaged(file: str, content: str, tmp_path: Path) -> None:
    folder = tmp_path / "cached-0"
    folder.mkdir()
    (folder / file).write_text(content)
    end = "and repeat the command: it runs this route again and keeps the others"
    with pytest.raises(RunError, match=rf"{file} is damaged: .*\. Remove the folder .*cached-0 {end}\.$"):
        runner.BenchmarkRunner(tmp_path, {}, ["cached"], [0], 10.0, None)
