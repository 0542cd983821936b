"""Names, reasons and provenance from the files of others: shown, not obeyed; and CSV that no spreadsheet runs."""

from __future__ import annotations

import ast
import csv
import io
import itertools
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from commands import PATHS, ROOT, done, featcache_cli, toy_cache, write_folder
from featcache._utils.formatting import csv_row, plain_cell
from featcache.cache.feature_cache import FeatureCache
from featcache.data.sources.table import read_paths, read_table
from featcache.metrics.predictions import read_predictions
from featcache.models.prediction import Prediction, format_predictions
from featcache_cli.wrapping import safe, wrap

ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202eevil"
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
FORMULA = "=HYPERLINK(1)"


def test_what_a_terminal_would_obey_is_escaped() -> None:
    assert safe(ESCAPE) == r"\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202eevil"
    assert wrap(f"one {ESCAPE}", 1000) == f"one {safe(ESCAPE)}"
    plain = "größe\t蟻\u3000\u200d e\u0301 \udcff\n🐝 \N{NO-BREAK SPACE}"
    assert safe(plain) == plain
    assert safe("\udc9b") == r"\udc9b"


def test_every_line_of_the_command_line_is_escaped() -> None:
    """What is echoed comes from `wrap`, `safe` or JSON, or is a constant."""
    unsafe = []
    for path in sorted((ROOT / "cli/featcache_cli").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("click.echo", "click.secho", "print"):
                shown = node.args[0]
                called = ast.unparse(shown.func) if isinstance(shown, ast.Call) else ""
                constant = isinstance(shown, ast.Constant) or (isinstance(shown, ast.Name) and shown.id.isupper())
                if not (constant or called in ("wrap", "safe", "json.dumps")):
                    unsafe.append(f"{path.name}:{node.lineno}")
    assert unsafe == []


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A cache whose classes, ids and provenance are somebody else's."""
    data = write_folder(tmp_path / "data", {f"train/{ESCAPE}": 4, "train/b": 4, f"val/{ESCAPE}": 2, "val/b": 2})
    (data / "train/b" / f"{ESCAPE}.png").write_bytes(b"no image")
    return toy_cache(data, tmp_path / "cache.h5")


def test_commands_show_hostile_names_escaped(hostile: Path, tmp_path: Path) -> None:
    out = tmp_path / f"head{ESCAPE.replace('/', '')}"
    for line in (
        ["info", hostile],
        ["fit-head", hostile, "-o", out],
        ["doctor", hostile],
        ["verify", hostile],
        ["diff", hostile, hostile],
        ["info", tmp_path / ESCAPE],
        [ESCAPE],
        ["info", f"--{ESCAPE}"],
        ["fit-head", hostile, "-o", tmp_path / "x", "--heads", ESCAPE],
        ["predict", out, tmp_path / ESCAPE],
        ["predict", out, hostile],
    ):
        result = featcache_cli(*line)
        text = result.output + result.stderr
        assert text, line
        assert not CONTROLS.search(text), (line, text)
    assert r"\x1b]0;owned\x07" in done("info", hostile)


def test_a_name_forges_no_line(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", {"train/a\nskipped     b": 3, "train/b": 3})
    cache = FeatureCache.open(toy_cache(data, tmp_path / "cache.h5"))
    assert "classes     2 (a\\nskipped     b, b)" in str(cache)


def test_predictions_in_a_terminal_are_escaped_and_in_a_file_are_not(tmp_path: Path) -> None:
    code = f"""
import sys
import click
from featcache_cli.predict import _output
with click.Context(click.Command("predict")), _output(None) as write:
    write({ESCAPE!r} + "\\n")
"""
    environment = {**os.environ, "PYTHONPATH": PATHS}
    piped = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert piped.stdout.decode() == f"{ESCAPE}\n"
    parent, child = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=child) as process:
        os.close(child)
        shown = b""
        while b"evil" not in shown:
            shown += os.read(parent, 1000)
        assert process.wait() == 0
    os.close(parent)
    assert safe(ESCAPE) in shown.decode()


RUN = [
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-1+1",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "\uff1d1",
    "'=1",
    "''@x",
    "+1 ",
    "-",
    "==",
]
PLAIN = ["", "a", "'a", "'", "1", "-1", "+1.5", "-1e-5", "a=1", " =1", "-inf", "x\r\ny"]


@pytest.mark.parametrize("text", RUN)
def test_no_cell_is_run_by_a_spreadsheet(text: str) -> None:
    (cell,) = next(csv.reader(io.StringIO(csv_row([text]), newline="")))
    assert cell == f"'{text}"
    assert plain_cell(cell) == text


@pytest.mark.parametrize("text", PLAIN)
def test_other_cells_stay_as_they_are(text: str) -> None:
    (cell,) = next(csv.reader(io.StringIO(csv_row([text, ""]), newline="")))[:1]
    assert (cell, plain_cell(cell)) == (text, text)


def test_no_two_texts_are_written_alike() -> None:
    texts = ["".join(letters) for n in range(5) for letters in itertools.product("'=-1", repeat=n)]
    cells = [next(csv.reader(io.StringIO(csv_row([text, ""]), newline="")))[0] for text in texts]
    assert len(set(cells)) == len(texts)
    assert [plain_cell(cell) for cell in cells] == texts


def test_a_list_of_predictions_is_a_manifest_of_the_true_names() -> None:
    found = [Prediction("-1.png", FORMULA, ((FORMULA, 0.9),)), Prediction("@eaDir/2.png", "b", (("b", 0.8),))]
    text = "".join(format_predictions(found, "csv"))
    assert text.splitlines()[1:] == ["'-1.png,'=HYPERLINK(1),0.900000,,", "'@eaDir/2.png,b,0.800000,,"]
    resolve = lambda name: (name, True)  # noqa: E731
    listing = read_table("list.csv", text.encode(), resolve)
    assert [(one.id, one.classes) for one in listing.entries] == [("-1.png", (FORMULA,)), ("@eaDir/2.png", ("b",))]
    assert read_paths("list.csv", text.encode(), resolve) == ["-1.png", "@eaDir/2.png"]


def test_the_predictions_beside_a_model_are_read_back(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", {f"train/{FORMULA}": 4, "train/b": 4, f"val/{FORMULA}": 2, "val/b": 2})
    done("fit-head", toy_cache(data, tmp_path / "cache.h5"), "-o", tmp_path / "head")
    assert f"'{FORMULA}" in (tmp_path / "head/val.csv").read_text()
    assert {row.label for row in read_predictions(tmp_path / "head")} == {FORMULA, "b"}
    assert all(row.right for row in read_predictions(tmp_path / "head"))
    done("compare-heads", tmp_path / "head", tmp_path / "head")
