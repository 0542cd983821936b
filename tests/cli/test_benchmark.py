from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

import featcache
from commands import SMALL, as_json, done, featcache_cli, refused
from featcache.metrics.predictions import read_predictions
from outcomes import in_this_process
from pagereader import read_page

QUICK = (*SMALL, "--views", 1, "--epochs", 1, "--batch-size", 5, "--precision", "fp32")


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return in_this_process(monkeypatch)


def test_the_report_is_printed_written_and_not_run_again(tasks: list[str], data: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    result = featcache_cli("benchmark", data, "-o", out, *QUICK, "--routes", "cached,frozen")
    assert result.exit_code == 0, result.output
    assert tasks == ["extract", "fit-head", "finetune", "curve", "curve"]
    assert [line.split("  ")[0] for line in result.stdout.splitlines()[:4]] == [
        "route", "cached head, cold", "cached head, warm", "frozen, live every epoch"]  # fmt: skip
    table = (out / "report.md").read_text(encoding="utf-8").split("\n\n| route")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in f"| route{table}".splitlines()]
    assert [row[0] for row in rows[:1] + rows[2:]] == [
        "route", "cached head, cold", "cached head, warm", "frozen, live every epoch"]  # fmt: skip
    written = json.loads((out / "report.json").read_text())["verdict"]
    verdict = "\n".join([written["text"], *(f"- {note}" for note in written["notes"])])
    assert result.stdout.endswith(
        f"report.md, report.json and report.png are in {out}\nReport with figures: {out / 'report.html'}\n\n{verdict}\n"
    )
    assert written["text"].startswith("The frozen network run live trained for 1 epoch (")
    assert (written["decision"], written["split"], written["n"]) == (
        "none",
        "val",
        len(read_predictions(out / "work/cached-0/head")),
    )
    page = read_page(out / "report.html")
    assert [len(page.sections[name].captions) for name in ("Learning curves", "The head in figures")] == [1, 6]
    assert page.sections["Result"].tables == [
        [rows[0], *rows[2:]],
        [
            ["route", "device", "precision", "TF32", "torch.compile"],
            ["cached head, cold", "cpu", "fp32", "no", "no"],
            ["cached head, warm", "-", "-", "-", "-"],
            ["frozen, live every epoch", "cpu", "fp32", "no", "no"],
        ],
    ]
    assert "photos: 2 classes; train 13 (ants 7, bees 6), val 5" in result.stderr
    values = as_json("benchmark", data, "-o", out, *QUICK, "--routes", "cached,frozen")
    assert tasks == ["extract", "fit-head", "finetune", "curve", "curve"]
    report = json.loads((out / "report.json").read_text())
    assert {name: values[name] for name in report} == report
    accuracy = json.loads((out / "work/cached-0/result.json").read_text())[1]["accuracy"]
    assert [entry["accuracy"] for entry in values["outcomes"][:2]] == [[accuracy]] * 2
    assert values["break_even"]["frozen, live every epoch"]["epoch"] >= 1
    message = refused("benchmark", data, "-o", out, *QUICK, "--views", 3, "--lr", 0.5)
    assert message.startswith(f"{out} contains a benchmark with views=1, you asked for 3; recipe=")
    assert message.endswith(". Give another folder, or replace it with --overwrite.")


@pytest.mark.usefixtures("tasks")
def test_the_command_on_the_page_repeats_the_benchmark(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = as_json("benchmark", data, "-o", tmp_path / "first/report", *QUICK, "--routes", "cached", "--seed", 3)
    page = read_page(tmp_path / "first/report/report.html")
    monkeypatch.chdir(tmp_path)
    (tmp_path / data.name).symlink_to(data)
    done(*shlex.split(page.sections["Commands"].code)[1:])
    again = json.loads((tmp_path / "report/report.json").read_text())
    assert again["settings"] == first["settings"]
    assert [outcome["accuracy"] for outcome in again["outcomes"]] == [
        outcome["accuracy"] for outcome in first["outcomes"]
    ]
    tables = [
        dict(outcome.sections["Where the features come from"].tables[0][1:])  # type: ignore[arg-type]
        for outcome in (page, read_page(tmp_path / "report/report.html"))
    ]
    assert tables[0]["digest"] == tables[1]["digest"]


def test_an_unknown_route_is_refused(data: Path, tmp_path: Path) -> None:
    assert refused("benchmark", data, "-o", tmp_path / "r", "--routes", "cached,warm") == (
        "there is no route warm; use cached, tfidf, frozen, lpft, finetune, scratch"
    )


def test_other_files_and_bad_data_are_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert refused("benchmark", data, "-o", tmp_path) == (
        f"{tmp_path} holds other files. Give an empty or a new folder."
    )
    assert "does not exist" in refused("benchmark", tmp_path / "gone", "-o", tmp_path / "r")


@pytest.mark.usefixtures("tasks")
def test_an_error_inside_a_route_is_a_message(data: Path, tmp_path: Path) -> None:
    message = refused("benchmark", data, "-o", tmp_path / "r", "--backbone", "resnet19")
    assert message.startswith("there is no backbone 'resnet19'; close: resnet18, ")
    assert not (tmp_path / "r/report.md").exists()


def test_a_file_in_place_of_the_folder_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert "notes.txt" in refused("benchmark", data, "-o", tmp_path / "notes.txt")


def test_every_option_reaches_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    got: dict[str, Any] = {}

    class StopHereError(Exception):
        pass

    def compare(**settings: Any) -> None:
        got.update(settings)
        raise StopHereError

    monkeypatch.setitem(vars(featcache), "benchmark", compare)
    result = featcache_cli("benchmark", "photos", "-o", "r", "--routes", "cached,scratch", "--backbone", "vgg11",
        "--weights", "w.pth", "--views", 7, "--head", "knn", "--augment", "crop", "--image-size", 96, "--epochs", 3,
        "--lr", 0.5, "--batch-size", 8, "--repeats", 2, "--workers", 3, "--device", "cpu", "--deterministic",
        "--precision", "bf16",
        "--train-precision", "auto", "--budget", "10m", "--seed", 4, "--val-fraction", 0.3,
        "--allow-leak", "--value-range", "0:4095")  # fmt: skip
    assert isinstance(result.exception, StopHereError)
    assert callable(got.pop("progress"))
    assert callable(got.pop("on_note"))
    assert got == {
        "data": "photos", "out": "r", "routes": "cached,scratch", "backbone": "vgg11", "weights": "w.pth",
        "views": 7, "head": "knn", "augment": "crop", "image_size": 96, "repeats": 2, "workers": 3, "device": "cpu",
        "deterministic": True,
        "config": {"epochs": 3, "lr": 0.5, "batch_size": 8}, "precision": "bf16", "train_precision": "auto",
        "seed": 4, "val_fraction": 0.3, "allow_leak": True, "budget_s": 600.0,
        "label_column": None, "max_length": None, "prefix": None, "text_column": None,
        "skip_missing": False, "value_range": (0, 4095), "interpolation": None,
        "decode_side": None,
        "overwrite": False}  # fmt: skip


def test_both_precisions_are_told_apart_in_the_help() -> None:
    text = " ".join(done("benchmark", "--help").split())
    texts = [text.split(f" {name} ")[1].split("]", 1)[1].split("[")[0] for name in ("--precision", "--train-precision")]
    assert texts[0] != texts[1]
