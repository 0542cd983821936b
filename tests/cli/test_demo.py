from __future__ import annotations

import csv
import shlex
import time
from pathlib import Path
from typing import Any

import click
import pytest

from commands import done, featcache_cli, refused, write_folder
from featcache.text import demo_texts
from featcache.vision import demo_datasets
from featcache_cli import demo
from featcache_cli.main import COMMANDS, main

STEPS = ["extract", "info", "fit-head", "fit-head", "compare-heads", "finetune", "predict", "benchmark"]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eighteen pictures in place of 1,797 digits."""
    monkeypatch.setattr(
        demo_datasets, "write_digits", lambda folder: write_folder(folder) if not folder.exists() else folder
    )


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Commands that are parsed for their options and then do nothing."""
    seen: list[dict[str, Any]] = []
    find = main.get_command

    def parsed_only(ctx: click.Context, name: str) -> click.Command | None:
        command = find(ctx, name)
        if name == "demo" or command is None:
            return command
        note = lambda **given: seen.append({"command": name, **given})  # noqa: E731
        return click.Command(name, params=command.params, callback=note)

    monkeypatch.setattr(main, "get_command", parsed_only)
    return seen


@pytest.mark.usefixtures("few")
def test_the_demo_shows_each_command_that_it_runs(lines: list[dict[str, Any]], tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    text = done("demo", folder)
    shown = [line.removeprefix("$ featcache ") for line in text.splitlines() if line.startswith("$ ")]
    assert [shlex.split(line)[0] for line in shown] == [line["command"] for line in lines] == STEPS
    assert set(STEPS) | {
        "demo",
        "verify",
        "update",
        "diff",
        "pull",
        "push",
        "curve",
        "doctor",
        "plan",
        "show",
        "export",
        "evaluate",
        "try",
        "serve",
        "similar",
        "suggest",
    } == set(COMMANDS)
    made = {folder / name for name in ("cache.h5", "head", "head-knn", "run", "report")}
    assert {Path(line["out"]) for line in lines if line.get("out")} == made
    assert all(Path(line["data"]) == folder / "digits" for line in lines if line.get("data"))
    assert {line["image_size"] for line in lines if "image_size" in line} == {48}
    assert [Path(image).parent.name for image in lines[6]["samples"]] == ["ants", "bees"]
    assert all(Path(image).is_file() for image in lines[6]["samples"])
    assert text.endswith(f"All files are in {folder.resolve()}: open head.html and report/report.html.\n")


def test_the_demo_of_texts_runs_the_same_commands(
    lines: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path) -> Path:
        rows = [f"text {number} of it's kind,{'ab'[number % 2]}" for number in range(20)]
        path.write_text("\n".join(["text,label", *rows]))
        return path

    monkeypatch.setattr(demo_texts, "write_docstrings", write)
    folder = tmp_path / "demo"
    text = done("demo", folder, "--modality", "text")
    assert [line["command"] for line in lines] == STEPS
    assert all(Path(line["data"]) == folder / "docstrings.csv" for line in lines if line.get("data"))
    assert all(sample.startswith("text ") for sample in lines[6]["texts"])
    assert len(lines[6]["texts"]) == 2
    assert "TF-IDF, which counts words" in text


def test_texts_of_the_demo_are_first_paragraphs_of_docstrings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_texts, "_EACH", 30)
    table = demo_texts.write_docstrings(tmp_path / "a/docs.csv")
    with table.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["text", "label"]
    assert {label for _, label in rows} == {"matplotlib", "scipy", "scikit-learn", "PyTorch"}
    assert all(label.lower().replace("py", "").replace("scikit-", "sk") not in text.lower() for text, label in rows)
    assert len({text.lower() for text, _ in rows}) == len(rows) > 110
    first = table.read_bytes()
    table.unlink()
    assert demo_texts.write_docstrings(table).read_bytes() == first
    table.write_bytes(b"mine")
    assert demo_texts.write_docstrings(table).read_bytes() == b"mine"


@pytest.mark.usefixtures("few")
def test_a_folder_with_a_space_in_its_name_is_one_folder(lines: list[dict[str, Any]], tmp_path: Path) -> None:
    folder = tmp_path / "my demo"
    result = featcache_cli("demo", folder)
    assert result.exit_code == 0, result.output
    assert Path(lines[0]["out"]) == folder / "cache.h5"


def test_own_photos_keep_the_networks_size(lines: list[dict[str, Any]], data: Path, tmp_path: Path) -> None:
    done("demo", tmp_path / "demo", "--dataset", data)
    assert [line["data"] for line in lines if line.get("data")] == [str(data)] * 4
    assert {line["image_size"] for line in lines if "image_size" in line} == {None}


@pytest.mark.usefixtures("lines")
def test_a_csv_manifest_is_a_data_set(data: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    names = [f"{path},{path.parent.name}" for path in sorted((data / "train").rglob("*.png"))]
    table.write_text("\n".join(["path,label", *names]))
    result = featcache_cli("demo", tmp_path / "demo", "--dataset", table)
    assert result.exit_code == 0, repr(result.exception)


def test_an_empty_folder_is_a_message_not_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in refused("demo", tmp_path / "demo", "--dataset", tmp_path / "empty")


def test_what_is_not_to_be_had_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused("demo", tmp_path / "demo", "--dataset", "cifar") == (
        "there is no data set 'cifar': use digits, ants-bees, docstrings, or the path of a folder or CSV"
    )
    monkeypatch.setenv("FEATCACHE_ANTS_BEES", str(tmp_path / "gone"))
    assert refused("demo", tmp_path / "demo", "--dataset", "ants-bees") == (
        f"FEATCACHE_ANTS_BEES is set to {tmp_path / 'gone'}, which is not a folder"
    )


@pytest.mark.usefixtures("few")
def test_an_error_in_a_step_ends_the_demo(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "cache.h5").write_text("mine")
    message = refused("demo", folder)
    assert message.startswith(f"{folder / 'cache.h5'} is not a feature cache: ")
    assert not (folder / "head").exists()


@pytest.mark.usefixtures("few")
def test_the_demo_shows_no_progress_of_its_own_beside_that_of_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featcache_cli.progress.EVERY_S", 0.02)
    monkeypatch.setitem(demo._LINES, "image", lambda *_: ("info c.h5",))
    find = main.get_command

    def slow(ctx: click.Context, name: str) -> click.Command | None:
        command = find(ctx, name)
        if name != "info" or command is None:
            return command
        return click.Command(name, params=command.params, callback=lambda **_: time.sleep(0.3))

    monkeypatch.setattr(main, "get_command", slow)
    _, _, during = featcache_cli("demo", tmp_path / "demo").output.partition("$ featcache info")
    assert "The benchmark compares the cached head" in during
    assert "hash" not in during
