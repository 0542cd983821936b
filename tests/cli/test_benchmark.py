from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

import featcache
from commands import SMALL, as_json, done, featcache_cli, refused
from featcache import comparison, routes
from featcache.files import Progress
from featcache.routes import Order

QUICK = (*SMALL, "--views", 1, "--epochs", 1, "--batch-size", 5, "--precision", "fp32")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The routes run in this process, which has its imports behind it; test_comparison runs real ones."""
    tasks: list[str] = []

    def run(order: Order, progress: Progress) -> dict[str, Any]:
        started = time.perf_counter()
        order = dict(order)
        tasks.append(order.pop("task"))
        result = json.loads(json.dumps(routes._TASKS[tasks[-1]](order, progress)))
        return {**result, "wall_s": time.perf_counter() - started, "cpu_s": 1.0}

    monkeypatch.setattr(comparison, "run_in_process", run)
    return tasks


def test_the_report_is_printed_written_and_not_run_again(here: list[str], data: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    result = featcache_cli("benchmark", data, "-o", out, *QUICK, "--routes", "cached,frozen")
    assert result.exit_code == 0, result.output
    assert here == ["extract", "fit-head", "finetune", "curve", "curve"]
    names = [line.split("|")[1].strip() for line in result.stdout.splitlines() if line.startswith("|")]
    assert names[0] == "route"
    assert names[2:] == ["cached head, cold", "cached head, warm", "frozen, live every epoch"]
    assert result.stdout.endswith(f"report.md, report.json and report.png are in {out}\n")
    assert "cached-0: extract" in result.stderr
    found = as_json("benchmark", data, "-o", out, *QUICK, "--routes", "cached,frozen")
    assert here == ["extract", "fit-head", "finetune", "curve", "curve"]
    assert found == json.loads((out / "report.json").read_text())
    accuracy = json.loads((out / "work/cached-0/result.json").read_text())[1]["accuracy"]
    assert [entry["accuracy"] for entry in found["outcomes"][:2]] == [[accuracy]] * 2
    assert found["break_even_epoch"] >= 1
    message = refused("benchmark", data, "-o", out, *QUICK, "--views", 3, "--lr", 0.5)
    assert message.startswith(f"{out} holds a comparison with views=1, you asked for 3; recipe=")
    assert message.endswith(". Give another folder.")


def test_an_unknown_route_is_refused(data: Path, tmp_path: Path) -> None:
    assert refused("benchmark", data, "-o", tmp_path / "r", "--routes", "cached,warm") == (
        "there is no route warm; use cached, frozen, finetune, scratch"
    )


def test_other_files_and_bad_data_are_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert refused("benchmark", data, "-o", tmp_path) == (
        f"{tmp_path} holds other files. Give an empty or a new folder."
    )
    assert "does not exist" in refused("benchmark", tmp_path / "gone", "-o", tmp_path / "r")


@pytest.mark.usefixtures("here")
def test_an_error_inside_a_route_is_a_message(data: Path, tmp_path: Path) -> None:
    message = refused("benchmark", data, "-o", tmp_path / "r", "--backbone", "resnet19")
    assert message.startswith("there is no backbone 'resnet19'.")
    assert not (tmp_path / "r/report.md").exists()


def test_a_file_in_place_of_the_folder_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert "notes.txt" in refused("benchmark", data, "-o", tmp_path / "notes.txt")


def test_every_option_reaches_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    got: dict[str, Any] = {}

    class StopHereError(Exception):
        pass

    def compare(**given: Any) -> None:
        got.update(given)
        raise StopHereError

    monkeypatch.setitem(vars(featcache), "compare", compare)
    result = featcache_cli("benchmark", "photos", "-o", "r", "--routes", "cached,scratch", "--backbone", "vgg11",
        "--weights", "w.pth", "--views", 7, "--head", "knn", "--augment", "crop", "--image-size", 96, "--epochs", 3,
        "--lr", 0.5, "--batch-size", 8, "--repeats", 2, "--workers", 3, "--device", "cpu", "--precision", "bf16",
        "--train-precision", "auto", "--seed", 4, "--val-fraction", 0.3,
        "--allow-leak")  # fmt: skip
    assert isinstance(result.exception, StopHereError)
    assert callable(got.pop("progress"))
    assert got == {
        "data": "photos", "out": "r", "routes": ["cached", "scratch"], "backbone": "vgg11", "weights": "w.pth",
        "views": 7, "head": "knn", "augment": "crop", "image_size": 96, "repeats": 2, "workers": 3, "device": "cpu",
        "recipe": {"epochs": 3, "lr": 0.5, "batch_size": 8}, "precision": "bf16", "train_precision": "auto",
        "seed": 4, "val_fraction": 0.3, "allow_leak": True}  # fmt: skip


def test_both_precisions_are_told_apart_in_the_help() -> None:
    text = " ".join(done("benchmark", "--help").split())
    said = [text.split(f" {name} ")[1].split("]", 1)[1].split("[")[0] for name in ("--precision", "--train-precision")]
    assert said[0] != said[1]
