from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands import COUNTS, write_folder
from featcache._utils.locks import exclusive_folder
from featcache.analysis.benchmark import compare as module
from featcache.analysis.benchmark import runner
from featcache.analysis.benchmark.compare import benchmark
from featcache.analysis.benchmark.outcomes import COLD, WARM, Comparison, FittedHead
from featcache.analysis.benchmark.routes import ROUTES
from featcache.analysis.benchmark.verdict import reach_verdict
from featcache.analysis.curves import label_curve, view_curve
from featcache.cache.feature_cache import FeatureCache
from featcache.errors import DataLayoutError, FeatcacheError, HeadError, NotACacheError, RunError
from featcache.extraction.extract import extract
from featcache.finetuning.finetune import finetune
from featcache.finetuning.strategy import LP_FT_DEFAULTS
from featcache.heads.fit_head import fit_head
from featcache.metrics.predictions import read_predictions
from featcache.metrics.significance import wilson_interval
from featcache.reports.benchmark_report import comparison_values, remarks, write_report
from featcache.training.loop import TrainConfig
from outcomes import comparison, fake_processes, four_routes, in_this_process, outcome

SIZE = {"image_size": 32, "workers": 2}
RECIPE = {"epochs": 1, "batch_size": 5}
FOUR = ("cached", "frozen", "finetune", "scratch")


def _compare(data: Path, out: Path, **changes: Any) -> Comparison:
    return benchmark(data, out, **{**SIZE, "views": 2, "config": RECIPE, "precision": "fp32", **changes})


def _orders_of(orders: list[dict[str, Any]], name: str) -> list[Any]:
    """This setting of the tasks that extract or train; "unset" where a task does not have it."""
    return [order.get(name, "unset") for order in orders if order["task"] != "fit-head"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("comparison") / "data", {**COUNTS, "test/ants": 2, "test/bees": 2})


@pytest.fixture(scope="module")
def real(data: Path) -> tuple[Comparison, Path, list[str]]:
    """Four routes in processes of their own: the one slow thing here."""
    steps: list[str] = []
    out = data.parent / "report"
    result = _compare(data, out, routes=FOUR, progress=lambda what, _done, _total: steps.append(what))
    return result, out, steps


def _results(out: Path, route: str) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = json.loads((out / "work" / f"{route}-0" / "result.json").read_text())
    return results


def test_outcomes_come_in_the_order_of_the_routes(real: tuple[Comparison, Path, list[str]]) -> None:
    result, _, steps = real
    names = [COLD, WARM, "frozen, live every epoch", "fine-tune", "from scratch"]
    assert [outcome.route for outcome in result.outcomes] == names
    assert list(dict.fromkeys(step.split(":")[0] for step in steps)) == [
        "hash",
        *(f"{route}-0" for route in FOUR),
        "curves",
    ]
    assert {outcome.n for outcome in result.outcomes} == {5}
    assert {outcome.test_n for outcome in result.outcomes} == {4}
    assert result.settings["images"] == {"train": 13, "val": 5, "test": 4}


def test_no_second_is_missing_from_the_wall(real: tuple[Comparison, Path, list[str]]) -> None:
    result, out, _ = real
    parts = {COLD: _results(out, "cached"), WARM: _results(out, "cached")[1:]}
    parts |= {name: _results(out, route) for route, name in ROUTES.items() if route in FOUR[1:]}
    for row in result.outcomes:
        walls = [part["wall_s"] for part in parts[row.route]]
        phases = [part["seconds"]["wall"] for part in parts[row.route]]
        assert row.wall_s == [pytest.approx(sum(walls))]
        assert all(wall > phase for wall, phase in zip(walls, phases, strict=True))
        assert row.seconds["imports"] == pytest.approx(sum(walls) - sum(phases))
        assert row.seconds["imports"] > 0.2
    cold, warm = result.outcomes[:2]
    assert cold.median_s == pytest.approx(warm.median_s + _results(out, "cached")[0]["wall_s"])


def test_views_shown_bytes_and_memory_are_counted(real: tuple[Comparison, Path, list[str]]) -> None:
    result, out, _ = real
    cold, warm, *live = result.outcomes
    assert [row.shown for row in result.outcomes] == [13 * 3 + 5 + 4, 0, *[(13 + 5) * 1 + 4] * 3]
    assert cold.shown == _results(out, "cached")[0]["shown"]
    assert cold.size_bytes == warm.size_bytes == (out / "work/cached-0/cache.h5").stat().st_size
    for row, route in zip(live, ("frozen", "finetune", "scratch"), strict=True):
        run = out / "work" / f"{route}-0" / "run"
        assert row.size_bytes == sum(path.stat().st_size for path in run.iterdir())
    assert all((row.peak_memory_bytes or 0) > 100_000_000 for row in result.outcomes)


def test_the_cached_route_is_extract_and_fit_head(
    real: tuple[Comparison, Path, list[str]], data: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache.h5"
    extract(data, cache, views=2, precision="fp32", **SIZE)
    direct, (extracted, fitted) = fit_head(cache).to_dict(), _results(real[1], "cached")
    assert extracted["spec_digest"] == fitted["spec_digest"] == direct["spec_digest"]
    for name in ("accuracy", "confusion", "n", "head", "layers"):
        assert json.loads(json.dumps(direct[name])) == fitted[name]
    assert real[0].outcomes[0].heads == [FittedHead(direct["head"], tuple(direct["layers"]))]
    rounded = {"log_loss": pytest.approx(fitted["test"]["log_loss"], rel=1e-5),
               "calibration_error": pytest.approx(fitted["test"]["calibration_error"], rel=1e-5)}  # fmt: skip
    assert json.loads(json.dumps(direct["test"])) == {**fitted["test"], **rounded}
    assert real[0].outcomes[0].accuracy == real[0].outcomes[1].accuracy == [direct["accuracy"]]
    assert real[0].outcomes[0].test_accuracy == [direct["test"]["accuracy"]]


@pytest.mark.parametrize(
    ("route", "mode", "weights"),
    [("frozen", "head", "pretrained"), ("finetune", "all", "pretrained"), ("scratch", "all", "none")],
)
def test_a_live_route_is_finetune(
    real: tuple[Comparison, Path, list[str]], data: Path, tmp_path: Path, route: str, mode: Any, weights: str
) -> None:
    direct = finetune(
        data, tmp_path / "run", mode=mode, weights=weights, config=TrainConfig(**RECIPE), **SIZE
    ).to_dict()
    (process,) = _results(real[1], route)
    assert process["spec_digest"] == direct["spec_digest"]
    assert process["confusion"] == json.loads(json.dumps(direct["confusion"]))
    for name in ("lr", "loss", "val_loss"):
        assert process["history"][0][name] == pytest.approx(direct["history"][0][name], rel=1e-3)
    outcome = real[0].outcome(ROUTES[route])
    assert outcome is not None
    assert outcome.accuracy == [direct["accuracy"]]
    assert outcome.epoch_s == process["history"][0]["seconds"]


def test_a_second_call_starts_no_process(
    real: tuple[Comparison, Path, list[str]], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, out, _ = real

    def never(*_: object) -> dict[str, Any]:
        raise AssertionError("a process was started")

    monkeypatch.setattr(runner, "run_in_process", never)
    assert _compare(data, out, routes=FOUR).to_dict() == result.to_dict()
    assert [row.route for row in _compare(data, out, routes=["scratch", "finetune"]).outcomes] == [
        "fine-tune",
        "from scratch",
    ]


def test_other_settings_are_refused_by_name(real: tuple[Comparison, Path, list[str]], data: Path) -> None:
    with pytest.raises(RunError) as caught:
        _compare(data, real[1], views=3, head="knn")
    assert str(caught.value) == (
        f"{real[1]} contains a benchmark with views=2, you asked for 3; head=auto, you asked for knn. "
        "Give another folder, or replace it with --overwrite."
    )


def test_the_report_is_written(real: tuple[Comparison, Path, list[str]]) -> None:
    result, out, _ = real
    text = write_report(result, out)
    assert text.endswith(f"report.md, report.json and report.png are in {out}")
    for curve in result.curves:
        assert (out / f"report-{curve.over}.png").stat().st_size > 0
        assert (
            f"![accuracy and seconds against {curve.over}](report-{curve.over}.png)" in (out / "report.md").read_text()
        )
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(comparison_values(result)))
    markdown = (out / "report.md").read_text(encoding="utf-8")
    assert "\n\ndata: 13 train, 5 val, 4 test images; efficientnet_lite0 (weights: pretrained); " in markdown
    assert (out / "report.png").stat().st_size > 0


def test_the_curves_are_those_of_the_first_cache(real: tuple[Comparison, Path, list[str]]) -> None:
    result, out, _ = real
    cache = out / "work/cached-0/cache.h5"
    (cached,) = result.outcomes[0].heads
    fit: dict[str, Any] = {"head": cached.name, "layer": ",".join(cached.layers)}
    expected = [view_curve(cache, **fit), label_curve(cache, repeats=1, **fit)]
    assert [curve.head for curve in result.curves] == [cached.name, cached.name]
    assert [curve.over for curve in result.curves] == ["views", "labels"]
    for drawn, curve in zip(result.curves, expected, strict=True):
        assert [point._replace(seconds=0) for point in drawn.points] == [
            point._replace(seconds=0) for point in curve.points
        ]
    assert [point.views for point in result.curves[0].points] == [0, 1, 2]
    assert result.curves[0].points[-1].accuracies == tuple(result.outcomes[1].accuracy)


def test_curves_take_a_head_that_has_some_and_are_left_out_where_there_is_too_little(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_processes(monkeypatch)
    answer = runner.run_in_process
    heads = {"knn": "knn", "svm": "linear", "auto": "lda"}
    for head, drawn in heads.items():
        result = _compare(data, tmp_path / head, routes=["cached"], head=head).curves
        assert [curve.head for curve in result] == [drawn, drawn]

    def too_little(order: dict[str, Any], progress: Any) -> dict[str, Any]:
        if order["task"] == "curve":
            raise HeadError("no class has two different training images")
        return answer(order, progress)

    monkeypatch.setattr(runner, "run_in_process", too_little)
    result = _compare(data, tmp_path / "little", routes=["cached"])
    assert (len(result.outcomes), result.curves) == (2, [])
    text = "There are no curves over views and labels: no class has two different training images"
    assert text in remarks(result)
    assert _compare(data, tmp_path / "frozen", routes=["frozen"]).curves == []


def test_the_cached_head_of_each_repeat_has_the_seed_of_its_views(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = fake_processes(monkeypatch)
    _compare(data, tmp_path / "out", routes=["cached"], repeats=2, seed=3)
    assert [(order["task"], order["seed"]) for order in orders] == [
        ("extract", 3),
        ("fit-head", 3),
        ("extract", 4),
        ("fit-head", 4),
    ]


def test_repeats_take_seeds_in_a_row_on_one_split(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = fake_processes(monkeypatch)
    result = _compare(data, tmp_path / "out", routes=["frozen"], repeats=3, seed=5)
    assert [order["seed"] for order in orders] == [5, 6, 7]
    assert {order.get("split_seed", 0) for order in orders} == {0}
    (single,) = result.outcomes
    assert single.accuracy == [1.0, 1.1, 1.2]
    assert (single.wall_s, single.median_s) == ([15.0, 16.0, 17.0], 16.0)
    assert single.cpu_s == [25.0, 26.0, 27.0]
    assert single.seconds == {"train": 7.0, "imports": 2.0}
    assert single.epoch_s == 9.0
    assert (single.peak_memory_bytes, single.size_bytes) == (107, 14)
    assert result.settings["repeats"] == 3
    assert single.shown == 26 + 2 * 10
    assert single.skipped == []


def test_a_folder_in_which_nothing_finished_takes_other_settings(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(order: dict[str, Any], _progress: Any) -> dict[str, Any]:
        raise FeatcacheError("no such backbone")

    monkeypatch.setattr(runner, "run_in_process", fails)
    with pytest.raises(FeatcacheError, match="no such backbone"):
        _compare(data, tmp_path / "out", backbone="resnet34")
    fake_processes(monkeypatch)
    assert _compare(data, tmp_path / "out", routes=["frozen"]).settings["views"] == 2


def test_a_bad_head_is_told_before_anything_runs(data: Path, tmp_path: Path) -> None:
    with pytest.raises(HeadError, match="there is no head 'logrg'"):
        _compare(data, tmp_path / "out", head="logrg")
    assert not (tmp_path / "out").exists()


def test_images_that_could_not_be_read_are_counted_out(
    real: tuple[Comparison, Path, list[str]], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [row.shown for row in real[0].outcomes] == [13 * 3 + 5 + 4, 0, 22, 22, 22]
    orders = fake_processes(monkeypatch)
    answer = runner.run_in_process

    def skips(order: dict[str, Any], progress: Any) -> dict[str, Any]:
        return {**answer(order, progress), "skipped": [{"path": f"{order['task']}.png", "reason": "broken"}]}

    monkeypatch.setattr(runner, "run_in_process", skips)
    result = _compare(data, tmp_path / "out", routes=["cached", "frozen"])
    assert [row.skipped for row in result.outcomes] == [
        ["extract.png", "fit-head.png"], ["fit-head.png"], ["finetune.png"]
    ]  # fmt: skip
    assert [row.shown for row in result.outcomes] == [39, 0, 46]
    assert len(orders) == 3


def test_the_orders_differ_in_what_the_route_is_and_nothing_else(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = fake_processes(monkeypatch)
    _compare(data, tmp_path / "out", weights="pretrained", train_precision="bf16", augment="crop", device="cpu")
    extraction, fitting, frozen, start, lpft, *others = orders
    live = [frozen, lpft, *others]
    assert [order["task"] for order in orders] == [
        *("extract", "fit-head", "finetune"), *("fit-head", "finetune"), *("finetune", "finetune")]  # fmt: skip
    assert [(order["mode"], order["weights"]) for order in live] == [
        ("head", "pretrained"), ("all", "pretrained"), ("all", "pretrained"), ("all", "none")]  # fmt: skip
    work = tmp_path / "out/work"
    cache = str(work / "cached-0/cache.h5")
    assert (extraction["out"], extraction["layers"]) == (cache, "all")
    assert fitting == {
        "task": "fit-head",
        "cache": cache,
        "out": str(work / "cached-0/head"),
        "head": "auto",
        "seed": 0,
    }
    assert start == {**fitting, "out": str(work / "lpft-0/head"), "head": "linear", "layer": "penultimate"}
    started = {"out": str(work / "lpft-0/run"), "init_head": str(work / "lpft-0/head")}
    assert lpft == {**others[0], **started, "recipe": {**others[0]["recipe"], **LP_FT_DEFAULTS}}
    shared = {"data": str(data), "backbone": "efficientnet_lite0", "augment": "crop", "image_size": 32, "workers": 2,
              "device": "cpu", "val_fraction": 0.2, "seed": 0}  # fmt: skip
    for order in (extraction, *live):
        assert order.items() >= shared.items()
    assert (extraction["precision"], extraction["views"], extraction["weights"]) == ("fp32", 2, "pretrained")
    assert {order["precision"] for order in live} == {"bf16"}
    assert all(order["recipe"] == {"epochs": 1, "batch_size": 5, "lr": 0.01} for order in (frozen, *others))


@pytest.mark.parametrize(
    ("extraction", "live"), [("auto", "auto"), ("bf16", "bf16"), ("fp32", "fp32"), ("fp16", "auto")]
)
def test_live_routes_compute_as_the_extraction_does(
    extraction: str, live: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = fake_processes(monkeypatch)
    options = {"precision": extraction, "weights": "pretrained"}
    result = _compare(data, tmp_path / "out", **options)
    assert [order["precision"] for order in orders if order["task"] == "finetune"] == [live] * 4
    assert result.settings["train_precision"] == live
    _compare(data, tmp_path / "out", train_precision=live, **options)
    other = "bf16" if live != "bf16" else "fp32"
    with pytest.raises(RunError, match="contains a benchmark with train_precision="):
        _compare(data, tmp_path / "out", train_precision=other, **options)


def test_without_options_the_cached_route_is_that_of_extract_and_live_routes_augment(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = fake_processes(monkeypatch)
    result = benchmark(data, tmp_path / "out", **SIZE, routes=["cached", "frozen"], config=RECIPE)
    assert _orders_of(orders, "views") == [0, "unset"]
    assert _orders_of(orders, "augment") == ["unset", "unset"]
    assert [curve.over for curve in result.curves] == ["labels"]
    assert result.settings["views"] == 0
    assert result.settings["view_recipes"] == {"cached": None, "live": "tutorial"}
    assert result.settings.get("augment") is None
    report = write_report(result, tmp_path / "report")
    assert "views-" not in report
    assert not (tmp_path / "report/report-views.png").exists()


@pytest.mark.parametrize(
    ("augment", "given", "recipes"),
    [(None, "unset", ("gentle", "tutorial")), ("crop", "crop", ("crop", "crop"))],
)
def test_each_route_has_its_default_recipe_or_all_have_the_named_one(
    augment: str | None,
    given: str,
    recipes: tuple[str, str],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    orders = fake_processes(monkeypatch)
    result = _compare(data, tmp_path / "out", routes=["cached", "frozen"], augment=augment)
    assert _orders_of(orders, "augment") == [given, given]
    assert result.settings["view_recipes"] == dict(zip(("cached", "live"), recipes, strict=True))


def test_a_folder_with_four_views_of_an_older_version_is_refused_by_name(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_processes(monkeypatch)
    old = {"routes": ["cached"], "views": 4, "augment": "tutorial"}
    _compare(data, tmp_path / "out", **old)
    with pytest.raises(RunError, match="views=4, you asked for 0") as caught:
        _compare(data, tmp_path / "out", routes=["cached"], views=0)
    assert "augment=tutorial, you asked for the default" in str(caught.value)
    assert _compare(data, tmp_path / "out", **old).settings["augment"] == "tutorial"


def test_a_crash_keeps_the_finished_routes_and_times_the_other_anew(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = fake_processes(monkeypatch)
    answer = runner.run_in_process

    def dies(order: dict[str, Any], progress: Any) -> dict[str, Any]:
        if "finetune-0" in order.get("out", ""):
            Path(order["out"]).mkdir()
            raise FeatcacheError("the child died")
        return answer(order, progress)

    monkeypatch.setattr(runner, "run_in_process", dies)
    with pytest.raises(FeatcacheError, match=r"^the child died$"):
        _compare(data, tmp_path / "out")
    orders.clear()
    monkeypatch.setattr(runner, "run_in_process", answer)
    assert len(_compare(data, tmp_path / "out").outcomes) == 6
    assert [Path(order["out"]).parent.name for order in orders] == ["finetune-0", "scratch-0"]


def test_results_of_other_images_are_not_reused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_processes(monkeypatch)
    copy = Path(shutil.copytree(data, tmp_path / "data"))
    _compare(copy, tmp_path / "out", routes=["frozen"])
    (copy / "train/ants/000.png").write_bytes((copy / "train/bees/000.png").read_bytes())
    with pytest.raises(RunError, match="images"):
        _compare(copy, tmp_path / "out", routes=["frozen"])


def test_a_comparison_does_not_tell_where_things_lie(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_processes(monkeypatch)
    result = _compare(data, tmp_path / "out", routes=["frozen"], weights=str(tmp_path / "own.pth"))
    assert (result.settings["data"], result.settings["weights"]) == ("data", "own.pth")
    assert str(tmp_path) not in json.dumps(result.to_dict())


def test_errors_of_a_child_arrive_as_themselves(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(order: dict[str, Any], _progress: Any) -> dict[str, Any]:
        raise NotACacheError("what the child said")

    monkeypatch.setattr(runner, "run_in_process", fails)
    with pytest.raises(NotACacheError, match=r"^what the child said$"):
        _compare(data, tmp_path / "out")


@pytest.mark.parametrize(
    ("routes", "named"), [(["cached", "warm"], "warm"), ("a,b", "a, b"), ([], "(none given)"), ("", "(none given)")]
)
def test_an_unknown_route_is_refused_before_anything(
    data: Path, tmp_path: Path, routes: str | list[str], named: str
) -> None:
    with pytest.raises(RunError) as caught:
        _compare(data, tmp_path / "out", routes=routes)
    assert str(caught.value) == f"there is no route {named}; use cached, tfidf, frozen, lpft, finetune, scratch"
    assert not (tmp_path / "out").exists()


def test_the_former_route_of_stages_is_refused_with_the_route_that_includes_it(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        _compare(data, tmp_path / "out", routes=["cached", "stages"])
    assert str(caught.value) == (
        "there is no route stages; use cached, tfidf, frozen, lpft, finetune, scratch. The head of the route cached "
        "chooses among the penultimate layer and the stages."
    )


def test_a_folder_of_an_older_version_is_not_resumed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cached head had the penultimate layer alone."""
    fake_processes(monkeypatch)
    _compare(data, tmp_path / "out", routes="cached", head="linear")
    settings = json.loads((tmp_path / "out/settings.json").read_text())
    del settings["layers"]
    (tmp_path / "out/settings.json").write_text(json.dumps(settings))
    with pytest.raises(RunError, match=r"contains a benchmark with layers=None, you asked for all"):
        _compare(data, tmp_path / "out", routes="cached", head="linear")


def test_a_folder_with_other_things_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError) as caught:
        _compare(data, tmp_path)
    assert str(caught.value) == f"{tmp_path} holds other files. Give an empty or a new folder."


def test_a_file_in_place_of_the_folder_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FeatcacheError, match=r"notes\.txt"):
        _compare(data, tmp_path / "notes.txt")


def test_times_of_other_versions_are_not_mixed(
    real: tuple[Comparison, Path, list[str]], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "package_versions", lambda: {"torch": "1.0"})
    with pytest.raises(RunError, match=r"contains a benchmark with versions=.*you asked for {'torch': '1.0'}"):
        _compare(data, real[1])


def test_bad_data_is_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(DataLayoutError, match="only one class"):
        _compare(write_folder(tmp_path / "data", {"train/ants": 3}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_break_even_is_where_frozen_epochs_have_cost_the_cold_cache() -> None:
    # Frozen: 120 s = 10 s + 10 epochs of 11 s. Cold: 60 s. 10 + 4 x 11 < 60 <= 10 + 5 x 11.
    assert four_routes().break_even_epoch() == 5


@given(cold=st.floats(1, 1e4), start=st.floats(0, 100), epoch=st.floats(0.1, 100), epochs=st.integers(1, 50))
def test_from_break_even_on_and_not_before_the_cache_is_faster(
    cold: float, start: float, epoch: float, epochs: int
) -> None:
    frozen = outcome(ROUTES["frozen"], wall_s=[start + epochs * epoch], epoch_s=epoch)
    break_even = comparison(outcome(COLD, wall_s=[cold]), frozen, epochs=epochs).break_even_epoch()
    assert break_even is not None
    slack = 1e-6 * (cold + start + epochs * epoch)
    assert start + break_even * epoch >= cold - slack
    assert break_even == 1 or start + (break_even - 1) * epoch < cold + slack


@given(cold=st.floats(1, 1e4), warm=st.floats(0.1, 100), live=st.floats(0.1, 1e4))
def test_from_break_even_on_and_not_before_a_number_of_heads_is_faster(cold: float, warm: float, live: float) -> None:
    cold += warm
    heads = comparison(
        outcome(COLD, wall_s=[cold]), outcome(WARM, wall_s=[warm]), outcome(ROUTES["frozen"], wall_s=[live])
    ).break_even_head()
    slack = 1e-6 * (cold + live)
    if heads is None:
        assert live <= warm
    else:
        assert heads * live >= cold + (heads - 1) * warm - slack * heads
        assert heads == 1 or (heads - 1) * live < cold + (heads - 2) * warm + slack * heads


@pytest.mark.parametrize("route", [COLD, ROUTES["frozen"]])
def test_break_even_needs_both_routes(route: str) -> None:
    assert comparison(outcome(route, epoch_s=1.0), outcome(ROUTES["finetune"], epoch_s=1.0)).break_even_epoch() is None


def test_medians_and_interval_of_an_outcome() -> None:
    cold = outcome(COLD, accuracy=[0.8, 0.95, 0.9], wall_s=[3.0, 1.0, 2.0])
    assert (cold.median_accuracy, cold.median_s) == (0.9, 2.0)
    assert cold.interval == wilson_interval(90, 100)
    fields = cold.to_dict()
    assert (fields["accuracy_low"], fields["accuracy_high"]) == cold.interval
    assert (fields["median_s"], fields["median_accuracy"]) == (2.0, 0.9)


def test_a_comparison_as_json_has_its_break_even() -> None:
    values = json.loads(json.dumps(replace(four_routes()).to_dict()))
    # frozen: 10 s and 11 s an epoch, fine-tuning: 10 s and 29 s; the cache is there after 60 s
    assert values["break_even"] == {
        ROUTES["frozen"]: {"epoch": 5, "head": 1},
        ROUTES["finetune"]: {"epoch": 2, "head": 1},
    }
    assert [entry["route"] for entry in values["outcomes"]] == [
        COLD,
        WARM,
        ROUTES["frozen"],
        ROUTES["finetune"],
    ]
    assert values["machine"]["processor"] == "Abacus"


def test_the_images_that_were_right_are_those_of_the_models(real: tuple[Comparison, Path, list[str]]) -> None:
    result, out, _ = real
    folders = ["cached-0/head", "cached-0/head", *(f"{route}-0/run" for route in FOUR[1:])]
    for reached, folder in zip(result.outcomes, folders, strict=True):
        for file, right, accuracy in (
            ("val.csv", reached.right, reached.accuracy),
            ("test.csv", reached.test_right, reached.test_accuracy),
        ):
            assert right == [{row.image: row.right for row in read_predictions(out / "work" / folder, file)}]
            assert [sum(right[0].values()) / len(right[0])] == accuracy
    verdict = reach_verdict(result)
    assert (verdict.split, verdict.n) == ("test", 4)
    assert [rival.route for rival in verdict.challengers] == [ROUTES[route] for route in FOUR[1:]]
    assert verdict.decision == "none"  # the live routes trained for too few epochs to tell


@pytest.mark.parametrize(("head", "layer"), [("sgd", None), ("ridge", None), ("head2toe", "all")])
def test_a_named_head_takes_the_layers_that_fit_head_gives_it(
    head: str, layer: str | None, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    cold, warm = _compare(data, tmp_path / "out", routes=["cached"], head=head).outcomes
    extracted, fitted = _results(tmp_path / "out", "cached")
    direct = fit_head(tmp_path / "out/work/cached-0/cache.h5", head=head, layer=layer).to_dict()
    assert fitted["spec_digest"] == extracted["spec_digest"] == direct["spec_digest"]
    assert fitted["confusion"] == json.loads(json.dumps(direct["confusion"]))
    assert cold.heads == warm.heads == [FittedHead(head, tuple(direct["layers"]))]
    assert len(FeatureCache.open(tmp_path / "out/work/cached-0/cache.h5").spec.layers) > 3
    assert len(cold.right[0]) == len(warm.right[0]) == 5


def test_lpft_is_extract_fit_head_and_finetune_from_that_head(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    (lpft,) = _compare(data, tmp_path / "out", routes=["lpft"]).outcomes
    extracted, fitted, tuned = _results(tmp_path / "out", "lpft")
    assert lpft.wall_s == [pytest.approx(extracted["wall_s"] + fitted["wall_s"] + tuned["wall_s"])]
    assert tuned["start"]["accuracy"] == fitted["accuracy"]
    assert tuned["history"][0]["lr"] == LP_FT_DEFAULTS["lr"]
    assert len(lpft.right[0]) == 5


@pytest.mark.parametrize(
    ("settings", "seeds"), [({}, [5]), ({"budget_s": 60.0}, [5, 6, 7]), ({"budget_s": 60.0, "repeats": 1}, [5])]
)
def test_with_a_budget_three_seeds_are_the_default(
    settings: dict[str, Any], seeds: list[int], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*arguments: Any) -> Any:
        raise RunError(str(arguments[3]))

    monkeypatch.setattr(module, "BenchmarkRunner", told)
    with pytest.raises(RunError) as caught:
        _compare(data, tmp_path / "out", routes=["cached"], seed=5, **settings)
    assert str(caught.value) == str(seeds)


def test_a_folder_that_another_process_compares_in_is_left_alone(split_folder: Path, tmp_path: Path) -> None:
    """It would remove what the other one's unfinished routes have written."""
    (tmp_path / "out").mkdir()
    with exclusive_folder(tmp_path / "out", "compared in"), pytest.raises(RunError) as caught:
        benchmark(split_folder, tmp_path / "out", routes=["cached"])
    assert str(caught.value) == (
        f"{tmp_path / 'out'} is being compared in by another process. Wait until it ends, or give another folder."
    )
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("content", ["[" * 100_000, "7", "{", '"text"'])
def test_settings_that_are_damaged_are_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(content)
    run = tmp_path / "work" / "cached-0" / "result.json"
    run.parent.mkdir(parents=True)
    run.write_text("[]")
    with pytest.raises(
        RunError, match=r"settings\.json is damaged .*\. Give another folder, or start again with --overwrite\.$"
    ):
        module._claim(tmp_path, {}, overwrite=False)
    assert run.exists()
