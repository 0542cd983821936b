"""The reports of a head and of a benchmark: their sections, what is left out and why, the commands to repeat them."""

from __future__ import annotations

import json
import platform
import shlex
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featcache
from commands import as_json, done, featcache_cli, toy_cache, write_folder
from featcache.analysis.benchmark.outcomes import Comparison
from featcache.analysis.benchmark.routes import ROUTES
from featcache.analysis.benchmark.verdict import reach_verdict
from featcache.analysis.curves import Curve, Point
from featcache.cache.feature_cache import FeatureCache
from featcache.extraction.extract import extract
from featcache.heads.fit_head import fit_head
from featcache.reports.benchmark_report import comparison_table, computation_table, curve_table, phase_table, remarks
from featcache.reports.pages.benchmark import write_benchmark_page
from featcache.reports.pages.head import write_head_page
from featcache.training.loop import EpochMetrics
from outcomes import four_routes
from pagereader import Page, read_page
from several import write_pictures
from toys import toy_backbone

HOST = "abacus-17.example.org"
CONFUSION, RELIABILITY = "Confusion matrix", "Calibration of the probabilities"
COVERAGE = "How often sets of labels hold the true one"
MAP, MAP_WITH = ("Features of val in two dimensions",
                 "Features of val in two dimensions, with images that lie among another class")  # fmt: skip
PREDICTIONS, VIEWS = "Wrong and right predictions of val images", "Augmented views of training images"
SETTINGS: dict[str, Any] = {"out": "elsewhere", "head": "linear", "parameters": {}, "seed": 0, "layer": "penultimate"}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos, and toy.h5 of them, made on a machine with a name."""
    folder = tmp_path_factory.mktemp("pages")
    write_folder(folder / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(platform, "node", lambda: HOST)
        toy_cache(folder / "photos", folder / "toy.h5")
    return folder


def head_page(work: Path, folder: Path, data: Path | None, head: str = "linear", **settings: Any) -> Page:
    """The report of a head that is fitted for it in folder/head; refuses what tells of this machine."""
    fit = fit_head(work / "toy.h5", folder / "head", head=head)
    settings = {**SETTINGS, "head": head, **settings}
    path = write_head_page(folder / "head.html", fit, work / "toy.h5", settings, data)
    assert path == folder / "head.html"
    return discreet(path, work, folder)


def discreet(path: Path, *folders: Path) -> Page:
    text = path.read_text(encoding="utf-8")
    assert HOST not in text
    assert not [folder for folder in folders if str(folder) in text]
    page = read_page(path)
    assert all(link.startswith("data:") for link in page.links)
    return page


# A head


def test_the_report_of_a_head_has_all_of_it(work: Path, tmp_path: Path) -> None:
    page = head_page(work, tmp_path, work / "photos")
    cache = FeatureCache.open(work / "toy.h5")
    assert page.title == "featcache: linear head on toy"
    assert list(page.sections) == ["Result", "The head in figures", "Where the features come from", "Commands"]
    tiles = page.sections["Result"].tiles
    assert tiles[0] == ("100.0 %", "of 5 val images are right; 95 % interval 56.6 to 100.0 %")
    assert tiles[1:3] == [("13", "images to train on, 2 classes"), ("linear", "the head, on the penultimate layer")]
    lines = page.sections["Result"].code.splitlines()
    assert "accuracy 1.0000 (95 % interval 0.5655 to 1.0000, n = 5)" in lines
    assert not any(line.startswith("saved in") for line in lines)
    looked = page.sections["The head in figures"]
    assert looked.captions == [CONFUSION, RELIABILITY, COVERAGE, MAP_WITH, PREDICTIONS, VIEWS]
    assert (len(set(looked.sources)), looked.notes) == (6, [])
    (table,) = page.sections["Where the features come from"].tables
    assert table[0] == ["field", "value"]
    fields = dict(table[1:])  # type: ignore[arg-type]
    assert (fields["digest"], fields["backbone"], fields["views"]) == (cache.spec.digest(), "toy", "2")
    assert (fields["layers"], fields["mean"]) == ("penultimate", "0.5, 0.25, 0.75")
    assert fields["date"] == cache.provenance["date"]
    assert fields["machine"].count(", ") >= 2
    assert f"python {platform.python_version()}, featcache " in fields["versions"]
    assert set(fields) >= set(cache.spec.flat())
    assert not {"host", "weights", "val_fraction"} & set(fields)


def test_without_data_there_are_no_photos(work: Path, tmp_path: Path) -> None:
    page = head_page(work, tmp_path, None)
    looked = page.sections["The head in figures"]
    assert (looked.captions, looked.notes) == ([CONFUSION, RELIABILITY, COVERAGE, MAP], [])
    assert page.sections["Commands"].code.startswith("featcache extract DATA -o toy.h5 ")


def test_what_cannot_be_drawn_is_left_out_with_its_reason(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "featcache.reports.cache_figures.misplaced", lambda x, *_: np.arange(len(x))
    )  # small pictures are wanted
    (tmp_path / "moved").mkdir()
    section = head_page(work, tmp_path, tmp_path / "moved", "svm").sections["The head in figures"]
    assert section.captions == [CONFUSION, MAP]  # the map without its small pictures
    reasons = [note.split(": not drawn. ") for note in section.notes]
    assert [caption for caption, _ in reasons] == [RELIABILITY, MAP_WITH, PREDICTIONS, VIEWS]
    assert reasons[0][1] == "head has no probabilities: fit it with --calibrate, or use another head."
    for _, reason in reasons[1:]:
        assert reason.startswith("moved/")
        assert reason.endswith(".png does not exist. Give the folder or the CSV that the images were taken from.")


def test_several_labels_have_a_report(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data")
    cache = extract(data, tmp_path / "c.h5", backbone=toy_backbone(), views=1, workers=2).cache
    write_head_page(tmp_path / "head.html", fit_head(cache, tmp_path / "head"), cache.path, SETTINGS, data)
    page = discreet(tmp_path / "head.html", tmp_path)
    looked = page.sections["The head in figures"]
    assert looked.captions[1:] == [PREDICTIONS, VIEWS]
    assert looked.notes == [
        f"{CONFUSION}: not drawn. A confusion matrix needs one label per sample; those of head have several.",
        f"{RELIABILITY}: not drawn. A reliability diagram needs one label per sample; those of head have several.",
    ]
    assert page.sections["Commands"].code.startswith("featcache extract list.csv -o c.h5 ")


def test_the_commands_repeat_the_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    write_folder(first / "photos")
    done("extract", first / "photos", "-o", first / "c.h5", "--views", 1, "--precision", "fp32", "--seed", 3,
         "--backbone", "resnet18", "--weights", "none", "--image-size", 32)  # fmt: skip
    done("fit-head", first / "c.h5", "-o", first / "head", "--head", "linear", "-p", "C=0.01",
         "-p", "class_weight=balanced", "--seed", 2,
         "--use-views", "mean", "--report", first / "head.html", "--images", first / "photos")  # fmt: skip
    lines = discreet(first / "head.html", tmp_path).sections["Commands"].code.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["featcache", "extract", "photos"],
        ["featcache", "fit-head", "c.h5"],
    ]
    shutil.copytree(first / "photos", again / "photos")
    monkeypatch.chdir(again)
    for line in lines:
        done(*shlex.split(line)[1:])
    original, repeated_cache = (FeatureCache.open(folder / "c.h5") for folder in (first, again))
    assert original.spec.digest() == repeated_cache.spec.digest()
    assert original.samples.digest() == repeated_cache.samples.digest()
    for name in ("val.csv", "head.safetensors", "model.json"):
        assert (first / "head" / name).read_bytes() == (again / "head" / name).read_bytes()
    report, repeated = (json.loads((folder / "head" / "run.json").read_text()) for folder in (first, again))
    assert (report["confusion"], report["log_loss"]) == (repeated["confusion"], repeated["log_loss"])


# A benchmark

CURVES = [Curve("views", "linear", (Point(1.0, 244, 0, (0.9,), 0.25, (0.84, 0.94)),
                                    Point(1.0, 244, 4, (0.95,), 0.5, (0.89, 0.98))), 100),
          Curve("labels", "linear", (Point(1.0, 244, 4, (0.95,), 0.5, (0.89, 0.98)),), 100)]  # fmt: skip


def benchmark_page(out: Path, comparison: Comparison, data: Path | None = None) -> Page:
    assert write_benchmark_page(out / "report.html", comparison, out, data) == out / "report.html"
    return discreet(out / "report.html", out)


@pytest.fixture
def out(work: Path, tmp_path: Path) -> Path:
    """What is left of the work of a benchmark: a cache, its head and two runs, one without a history."""
    cached = tmp_path / "work" / "cached-0"
    cached.mkdir(parents=True)
    shutil.copyfile(work / "toy.h5", cached / "cache.h5")
    fit_head(cached / "cache.h5", cached / "head", head="centroid")
    for route, history in (("frozen", [asdict(EpochMetrics(1, 0.1, 1.5, 0.5, 1.25, 0.6, 2.0))]), ("finetune", [])):
        run = tmp_path / "work" / f"{route}-0" / "run"
        run.mkdir(parents=True)
        (run / "run.json").write_text(json.dumps({"history": history}))
    return tmp_path


def test_the_report_of_a_benchmark_has_all_of_it(work: Path, out: Path) -> None:
    comparison = replace(four_routes(), curves=CURVES)
    page = benchmark_page(out, comparison, work / "photos")
    assert page.title == "featcache: benchmark of hymenoptera"
    assert list(page.sections) == [
        "Verdict", "Result", "Seconds by phase", "Effect of more views", "Effect of more labels", "Learning curves",
        "The head in figures", "Where the features come from", "Commands"]  # fmt: skip
    verdict, result = page.sections["Verdict"], page.sections["Result"]
    assert [verdict.lines, verdict.notes] == [[reach_verdict(comparison).text], list(reach_verdict(comparison).notes)]
    assert result.lines == [
        "hymenoptera: 244 train, 100 val images; 1 repeat from seed 0",
        "Views of a training image: cached: the clean view and 4 by gentle; live routes: a new one by gentle in each "
        "epoch",
    ]
    for section, *tables in (
        (result, comparison_table(comparison), computation_table(comparison)),
        (page.sections["Seconds by phase"], phase_table(comparison)),
        (page.sections["Effect of more views"], curve_table(CURVES[0])),
        (page.sections["Effect of more labels"], curve_table(CURVES[1])),
    ):
        assert section.tables == [[list(table.header), *map(list, table.rows)] for table in tables]
    assert result.notes == remarks(comparison)
    assert result.captions == ["Val accuracy against seconds"]
    assert page.sections["Effect of more views"].captions == ["Accuracy and seconds against views"]
    curves = page.sections["Learning curves"]
    assert curves.captions == [ROUTES["frozen"]]
    assert curves.notes == [
        f"{ROUTES['finetune']}: not drawn. run was not trained in epochs: give a run of `featcache finetune` or a head "
        "of `fit-head --head sgd`."
    ]
    assert page.sections["The head in figures"].captions == [
        CONFUSION,
        RELIABILITY,
        COVERAGE,
        MAP_WITH,
        PREDICTIONS,
        VIEWS,
    ]
    fields = dict(page.sections["Where the features come from"].tables[0])  # type: ignore[arg-type]
    assert fields["machine"] == "Abacus, 2 cores, Linux"
    assert fields["versions"] == "python 3.11.7, torch 2.11.0"
    assert fields["digest"] == FeatureCache.open(work / "toy.h5").spec.digest()


def test_what_was_deleted_of_the_work_is_no_section(tmp_path: Path) -> None:
    page = benchmark_page(tmp_path, four_routes())
    assert list(page.sections) == ["Verdict", "Result", "Seconds by phase", "Commands"]


def test_the_command_repeats_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read by the command line it asks the library for what was asked for."""
    got: dict[str, Any] = {}

    def stub(**settings: Any) -> Comparison:
        got.update(settings)
        raise featcache.FeatcacheError("enough")

    monkeypatch.setitem(vars(featcache), "benchmark", stub)
    line = benchmark_page(tmp_path, four_routes()).sections["Commands"].code
    featcache_cli(*shlex.split(line)[1:])
    assert callable(got.pop("progress"))
    assert callable(got.pop("on_note"))
    assert got == {
        "data": "hymenoptera", "out": "report", "routes": "cached,frozen,finetune", "backbone": "resnet18",
        "weights": "pretrained", "views": 4, "head": "linear", "augment": None, "image_size": None, "repeats": 1,
        "config": {"epochs": 10, "batch_size": 32, "lr": 0.01}, "precision": "auto", "train_precision": "fp32",
        "seed": 0, "workers": None, "device": "auto", "val_fraction": 0.2, "allow_leak": False,
        "label_column": None, "skip_missing": False, "overwrite": False,
        "deterministic": False, "budget_s": None, "value_range": None, "interpolation": None,
        "decode_side": None, "max_length": None, "prefix": None, "text_column": None}  # fmt: skip
    other = replace(four_routes(), outcomes=four_routes().outcomes[2:3])
    other.settings.update(weights="own.pth", views=7, head="knn", augment="crop", image_size=96, repeats=2, seed=4,
                          workers=3, device="cpu", precision="bf16", train_precision="auto", val_fraction=0.3,
                          allow_leak=True, data="my photos", recipe={"epochs": 3, "lr": 0.5}, budget_s=90.0,
                          routes=["cached", "lpft"])  # fmt: skip
    featcache_cli(*shlex.split(benchmark_page(tmp_path, other).sections["Commands"].code)[1:])
    expected = {**other.settings, "out": "report", "routes": "cached,lpft"}
    expected["config"] = {"epochs": 3, "lr": 0.5}
    del expected["images"], expected["recipe"], expected["view_recipes"]
    assert {name: got[name] for name in expected} == expected


def test_a_report_is_the_same_in_json(work: Path, tmp_path: Path) -> None:
    """`fit-head --json --report` writes the page and prints one object."""
    values = as_json("fit-head", work / "toy.h5", "-o", tmp_path / "head", "--report", tmp_path / "head.html")
    assert f"accuracy {values['accuracy']:.4f}" in read_page(tmp_path / "head.html").sections["Result"].code
