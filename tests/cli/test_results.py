"""What commands print: JSON alike in all of them, errors in it too, and any name on any terminal."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from commands import SMALL, as_json, done, featcache_cli, refused, toy_cache, write_folder
from featcache._utils.formatting import csv_row
from featcache_cli.main import COMMANDS, REMOVED, main
from featcache_cli.results import wants_json

WITHOUT_JSON = {"demo", "serve", "show"}  # a transcript; tested with a server; a group of commands


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, the toy cache `toy.h5`, a cache of a real network `c.h5` and its `head`."""
    folder = tmp_path_factory.mktemp("results")
    data = write_folder(folder / "data")
    toy_cache(data, folder / "toy.h5")
    done("extract", data, "-o", folder / "c.h5", "--views", 1, *SMALL)
    done("fit-head", folder / "c.h5", "-o", folder / "head")
    return folder


RESULTS: dict[str, list[str]] = {
    "extract": ["extract", "data", "-o", "c.h5", "--views", "1", *SMALL],
    "extract --dry-run": ["extract", "data", "-o", "n.h5", "--views", "1", "--dry-run", *SMALL],
    "info": ["info", "c.h5"],
    "verify": ["verify", "c.h5"],
    "doctor": ["doctor", "toy.h5"],
    "update": ["update", "c.h5", "data"],
    "diff": ["diff", "c.h5", "c.h5"],
    "pull": ["pull", "c.h5", "pulled.h5"],
    "push": ["push", "c.h5", "pushed.h5"],
    "fit-head": ["fit-head", "toy.h5"],
    "compare-heads": ["compare-heads", "head", "head"],
    "curve": ["curve", "toy.h5", "--over", "views"],
    "predict": ["predict", "head", "data/val"],
    "predict from a cache": ["predict", "head", "c.h5"],
    "similar": ["similar", "c.h5", "data/val/ants/000.png"],
    "predict, one wrong name": ["predict", "head", "data/val", "nope.png"],
    "show": ["show", "confusion", "head", "-o", "confusion.svg"],
}
STATUS = {"doctor": (0, 3, 4)}
CACHES = ("extract", "info", "verify", "doctor", "update", "pull", "push", "fit-head", "curve",
          "predict from a cache", "similar")  # fmt: skip


@pytest.mark.parametrize("name", RESULTS)
def test_json_is_alike_in_all_commands(work: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(work)
    result = featcache_cli(*RESULTS[name], "--json")
    assert result.exit_code in STATUS.get(name, (0,)), result.output
    found = json.loads(result.stdout)
    assert found["ok"] is (result.exit_code == 0)
    assert isinstance(found["seconds"]["wall"], float)
    assert found["seconds"]["wall"] >= 0
    assert "error" not in found
    if name in CACHES:
        assert found["cache"].endswith(".h5")


def test_a_result_that_is_not_good_is_not_ok(work: Path, tmp_path: Path) -> None:
    """`ok` says what the exit status says: 1 where caches differ."""
    data = write_folder(tmp_path / "data", {"train/ants": 2, "train/bees": 2, "val/ants": 1, "val/bees": 1})
    result = featcache_cli("diff", work / "toy.h5", data, "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["ok"], found["same"]) == (1, False, False)
    assert "error" not in found


def error_of(result: Result) -> dict[str, Any]:
    found = json.loads(result.stdout)
    assert found["ok"] is False
    assert isinstance(found["seconds"]["wall"], float)
    return found["error"]


FIRST = {"show": ["show", "views"]}


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "demo"])
def test_an_error_is_json_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """A wrong option, in every command; stderr says it for people."""
    monkeypatch.chdir(tmp_path)
    result = featcache_cli(*FIRST.get(command, [command]), "--jsno", "--json")
    error = error_of(result)
    assert (error["type"], error["status"]) == ("NoSuchOption", 2)
    assert error["message"] in result.stderr
    assert result.exit_code == 2


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (["info", "nope.h5"], "NotACacheError"),
        (["predict", "nope", "nope.jpg"], "HeadError"),
        (["fit-head", "toy.h5", "--head", "nope"], "HeadError"),
        (["diff", "nope.h5", "toy.h5"], "NotACacheError"),
        (["show", "confusion", "nope", "-o", "c.png"], "HeadError"),
        (["serve", "nope"], "HeadError"),
    ],
)
def test_what_is_wrong_is_said_by_its_class(
    work: Path, monkeypatch: pytest.MonkeyPatch, line: list[str], kind: str
) -> None:
    monkeypatch.chdir(work)
    result = featcache_cli(*line, "--json")
    error = error_of(result)
    assert (error["type"], error["status"], result.exit_code) == (kind, 1, 1)
    assert result.stderr == f"Error: {error['message']}\n"
    assert featcache_cli(*line).stdout == ""


@pytest.mark.parametrize(
    ("line", "json_"),
    [
        ("info a --json", True),
        ("predict a --format json b", True),
        ("predict a --format=jsonl b", True),
        ("predict a --format csv b", False),
        ("predict a -- --json", False),
        ("info a", False),
    ],
)
def test_whether_json_is_asked_for(line: str, json_: bool) -> None:
    assert wants_json(line.split()) is json_


def test_predictions_end_as_json_where_stdin_breaks(work: Path) -> None:
    """What was predicted is there, and the object is whole."""
    first = next((work / "data" / "val").rglob("*.png"))
    names = os.fsencode(first) + b"\nx\0y\n"
    result = CliRunner().invoke(main, ["predict", str(work / "head"), "-", "--json"], input=names)
    found = json.loads(result.stdout)
    assert [one["path"] for one in found["predictions"]] == [str(first)]
    assert (found["ok"], found["error"]["type"], result.exit_code) == (False, "DataLayoutError", 1)
    result = CliRunner().invoke(main, ["predict", str(work / "head"), "-", "--format", "jsonl"], input=names)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [lines[0]["path"], lines[1]["ok"]] == [str(first), False]


def test_one_wrong_name_among_ten_does_not_end_predict(work: Path) -> None:
    pictures = sorted((work / "data").rglob("*.png"))[:9]
    result = featcache_cli("predict", work / "head", *pictures[:4], work / "nope.png", *pictures[4:])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split("\t")[0] for line in lines] == [*map(str, pictures), f"{work}/nope.png"]
    assert lines[-1].split("\t")[1] == "unreadable: no such file, or a folder or pattern without images"
    assert "1 of 10 images could not be read" in result.stderr
    found = as_json("predict", work / "head", *pictures, work / "nope.png")
    assert (found["images"], found["unreadable"], found["ok"]) == (10, 1, True)


def test_names_that_are_all_wrong_are_an_error(work: Path) -> None:
    assert refused("predict", work / "head", "a.png", "b.png", "c*.png") == (
        "a.png names no image: no such file, or a folder or pattern without images (and 2 other names do not either)."
    )


NAMES = ["🐝", "mañana", "一二", "\udcff\udcfe", "two\nlines", "\x1b[31mred", "plain"]
"""Of folders: a letter outside of cp1252, one in it, bytes that are no text, characters that rule terminals."""


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, work: Path) -> Path:
    """A folder with a data set, a cache and a head of every odd name."""
    folder = tmp_path_factory.mktemp("odd")
    pictures = sorted((work / "data").rglob("*.png"))
    rows = [csv_row(["path", "label", "split"])]
    for place, name in enumerate(NAMES):
        (folder / name).mkdir()
        for number in (0, 1):
            shutil.copy(pictures[2 * place + number], folder / name / f"{number}.png")
        shutil.copytree(work / "head", folder / f"head {name}")
        rows += [csv_row([f"{name}/{number}.png", f"{place % 2}", "train" if number else "val"]) for number in (0, 1)]
        shutil.copy(work / "toy.h5", folder / f"{name}.h5")
    return folder


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "shift_jis", "koi8-r", "utf-8"])
@pytest.mark.parametrize("name", NAMES)
def test_every_command_prints_any_name_on_any_terminal(odd: Path, name: str, encoding: str) -> None:
    cache, images = odd / f"{name}.h5", odd / name
    for line in (
        ["info", cache],
        ["verify", cache],
        ["diff", cache, cache],
        ["info", f"{cache}.nope"],
        ["compare-heads", odd / f"head {name}", odd / f"head {name}"],
        ["doctor", f"{cache}.nope"],
        [name],
    ):
        result = CliRunner(charset=encoding).invoke(main, [str(part) for part in line])
        assert result.exception is None or isinstance(result.exception, SystemExit), (line, result.exception)
        assert result.output
    if name in ("🐝", "\udcff\udcfe"):  # the network takes a second to load
        result = CliRunner(charset=encoding).invoke(main, ["predict", str(odd / f"head {name}"), str(images)])
        assert result.exit_code == 0, result.exception
        assert len(result.stdout_bytes.splitlines()) == 2


@pytest.mark.parametrize(
    ("encoding", "text", "expected"),
    [
        ("cp1252", "🐝", rb"\U0001f41d"),
        ("cp1252", "mañana", "mañana".encode("cp1252")),
        ("shift_jis", "一二", "一二".encode("shift_jis")),
        ("koi8-r", "一", rb"\u4e00"),
        ("utf-8", "🐝", "🐝".encode()),
    ],
)
def test_what_an_encoding_lacks_is_escaped(work: Path, encoding: str, text: str, expected: bytes) -> None:
    shutil.copy(work / "toy.h5", work / f"{text}.h5")
    result = CliRunner(charset=encoding).invoke(main, ["info", str(work / f"{text}.h5")])
    assert result.exit_code == 0, result.exception
    assert b"/" + expected + b".h5: feature cache" in result.stdout_bytes


def test_bytes_that_are_no_text_are_printed_as_they_are(work: Path) -> None:
    """So that what predict prints can be given to other programs."""
    path = work / "\udcff\udcfe.h5"
    shutil.copy(work / "toy.h5", path)
    result = CliRunner().invoke(main, ["info", str(path)])
    assert os.fsencode(path) + b": feature cache" in result.stdout_bytes


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("extarct", "There is no command 'extarct'. Did you mean extract?"),
        ("fit_head", "There is no command 'fit_head'. Did you mean fit-head?"),
        ("Predict", "There is no command 'Predict'. Did you mean predict?"),
        ("forecast", f"forecast was removed: {REMOVED['forecast']}."),
        ("qqq", f"There is no command 'qqq'. There are {', '.join(COMMANDS)}."),
    ],
)
def test_a_command_that_is_spelt_almost_rightly(typed: str, said: str) -> None:
    assert refused(typed, "photos", status=2) == said
    assert refused("show", "prdictions", "x", status=2) == (
        "There is no command 'prdictions'. Did you mean predictions?"
    )
