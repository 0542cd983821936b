"""The commands on texts: predict and evaluate, with an encoder of random weights that is loaded by its name."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from commands import done, featcache_cli, refused
from featcache_cli.main import main
from toytexts import write_text_model

pytestmark = pytest.mark.skipif(
    not (importlib.util.find_spec("transformers") and importlib.util.find_spec("tokenizers")),
    reason="the extra text is not installed",
)
GOOD = ["good film", "the very good film", "a good film", "good", "very very good", "very good film", "the good film"]
BAD = ["not bad", "a dull film", "the bad film", "dull", "bad film", "the dull film", "a very dull film"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With reviews.csv, the cache c.h5 and head."""
    folder = tmp_path_factory.mktemp("cli-texts")
    with (folder / "reviews.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label", "split"])
        for label, texts in (("good", GOOD), ("bad", BAD)):
            rows.writerows([text, label, "val" if number in (1, 4) else "train"] for number, text in enumerate(texts))
    encoder = write_text_model(folder / "bert")
    network = ("--backbone", f"transformers/{encoder}", "--weights", "none")
    done("extract", folder / "reviews.csv", "-o", folder / "c.h5", *network)
    done("fit-head", folder / "c.h5", "-o", folder / "head")
    return folder


@pytest.fixture
def head(folder: Path) -> Path:
    return folder / "head"


def test_every_format_has_the_place_and_the_beginning_of_a_text(folder: Path, head: Path) -> None:
    table, n = folder / "reviews.csv", len(GOOD + BAD)
    lines = done("predict", head, table).splitlines()
    assert len(lines) == n
    for number, (line, text) in enumerate(zip(lines, GOOD + BAD, strict=True), 2):
        path, first, _, shown = line.split("\t")
        assert (path, shown) == (f"{table}, line {number}", text)
        assert first.split()[0] in ("good", "bad")
    report = json.loads(done("predict", head, table, "--json"))
    assert (report["texts"], report["unreadable"]) == (n, 0)
    records = [json.loads(line) for line in done("predict", head, table, "--format", "jsonl").splitlines()]
    assert records == report["predictions"]
    assert [record["text"] for record in records] == GOOD + BAD
    rows = list(csv.DictReader(done("predict", head, table, "--format", "csv").splitlines()))
    assert [row["text"] for row in rows] == GOOD + BAD
    assert [row["label"] for row in rows] == [record["label"] for record in records]


def test_texts_of_the_command_line_and_of_stdin(folder: Path, head: Path) -> None:
    first, second = done("predict", head, "--text", "a good film", "--text", "dull").splitlines()
    assert (first.split("\t")[0], first.split("\t")[-1]) == ("text 1", "a good film")
    assert second.startswith("text 2\t")
    result = CliRunner().invoke(main, ["predict", str(head), "-"], input="a good film\n\ndull\n")
    piped, empty, third = result.stdout.splitlines()
    assert piped.split("\t")[1:] == first.split("\t")[1:]
    assert empty == "stdin, line 2\tunreadable: an empty text"
    assert third.split("\t")[1:] == second.split("\t")[1:]
    assert "1 of 3 texts could not be read" in result.stderr
    lines = '{"message": "a good film", "id": 3}\n'
    result = CliRunner().invoke(main, ["predict", str(head), "-", "--text-column", "message"], input=lines)
    assert result.stdout.splitlines() == [first.replace("text 1", "stdin, line 1", 1)]


def test_an_argument_that_is_no_file_says_what_to_do(folder: Path, head: Path) -> None:
    error = " ".join(refused("predict", head, "a good film").split())
    assert "a good film names no text: no such file" in error
    assert "to predict a text itself, give it with --text, or on stdin for the argument -" in error
    assert "Missing argument 'SAMPLES...'" in refused("predict", head, status=2)


def test_text_files_are_moved_into_the_folders_of_their_classes(folder: Path, head: Path, tmp_path: Path) -> None:
    for number, text in enumerate(("a good film", "dull")):
        (tmp_path / f"{number}.txt").write_text(text)
    labels = [item["label"] for item in json.loads(done("predict", head, tmp_path, "--json"))["predictions"]]
    done("predict", head, tmp_path / "0.txt", tmp_path / "1.txt", "--move-to", tmp_path / "sorted")
    for number, label in enumerate(labels):
        assert (tmp_path / f"sorted/{label}/{number}.txt").is_file()
    for arguments in (["--text", "good"], [str(folder / "reviews.csv")], ["-"]):
        result = featcache_cli("predict", head, *arguments, "--link-to", tmp_path / "linked")
        assert result.exit_code == 2
        assert "--move-to and --link-to need local files" in result.stderr


def test_evaluate_names_texts(folder: Path, head: Path, tmp_path: Path) -> None:
    text = done("evaluate", head, folder / "reviews.csv", "-o", tmp_path / "out")
    assert "4 val texts" in text
    assert "image" not in text
    files = [(path / "val.csv").read_text().splitlines() for path in (head, tmp_path / "out")]
    fitted, evaluated = ({row["text"]: row["predicted"] for row in csv.DictReader(lines)} for lines in files)
    assert evaluated == fitted


def test_no_output_on_texts_calls_them_images(folder: Path, head: Path, tmp_path: Path) -> None:
    cache, table = folder / "c.h5", folder / "reviews.csv"
    for arguments in (
        ("fit-head", cache, "-o", tmp_path / "again"),
        ("curve", cache),
        ("info", cache),
        ("compare-heads", head, head),
        ("diff", cache, table),
        ("verify", cache),
    ):
        assert "image" not in done(*arguments), arguments


def test_figures_show_texts_or_say_that_they_are_for_images(folder: Path, head: Path, tmp_path: Path) -> None:
    cache, table = folder / "c.h5", folder / "reviews.csv"
    done("show", "predictions", head, table, "-o", tmp_path / "p.svg")
    drawn = (tmp_path / "p.svg").read_text()
    assert all(f">{text}<" in drawn for text in (GOOD[1], BAD[1]))
    assert "4 val texts" in drawn
    done("show", "confusion", head, "-o", tmp_path / "c.svg")
    assert "of 4 right on val" in (tmp_path / "c.svg").read_text()
    done("show", "map", cache, "-o", tmp_path / "m.svg")
    assert "features of 4 val texts" in (tmp_path / "m.svg").read_text()
    for arguments in (("map", cache, table), ("views", cache, table)):
        error = refused("show", *arguments, "-o", tmp_path / "x.png")
        assert "holds features of texts, of which there is no" in error


def test_a_cache_of_texts_with_its_table_gives_the_rows_of_the_table(folder: Path) -> None:
    """In float32: the head of so few texts has large weights, which make the rounding to float16 visible."""
    table, cache, head = folder / "reviews.csv", folder / "32.h5", folder / "head-32"
    network = ("--backbone", f"transformers/{folder / 'bert'}", "--weights", "none")
    done("extract", table, "-o", cache, "--dtype", "float32", *network)
    done("fit-head", cache, "-o", head)
    live = {one["path"]: one for one in json.loads(done("predict", head, table, "--json"))["predictions"]}
    cached = json.loads(done("predict", head, cache, "--data", table, "--json"))["predictions"]
    assert {one["path"] for one in cached} == {*live}
    for one in cached:
        other = live[one["path"]]
        assert (one["label"], one["text"], one["error"]) == (other["label"], other["text"], None)
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-3)
    rows = list(csv.DictReader(done("predict", head, cache, "--data", table, "--format", "csv").splitlines()))
    assert [row["text"] for row in rows] == [one["text"] for one in cached]
    ids = json.loads(done("predict", head, cache, "--json"))["predictions"]
    assert all("text" not in one for one in ids)


def test_similar_texts_are_shown_with_their_words(folder: Path, tmp_path: Path) -> None:
    table = folder / "reviews.csv"
    line = ("similar", folder / "c.h5", "--text", "a very good film", "--text", "dull", "-n", "2", "--data", table)
    text = done(*line, "-o", tmp_path / "s.svg")
    found = json.loads(done(*line, "--json"))
    words = [one["text"] for query in found["queries"] for one in query["neighbors"]]
    assert len(words) == 4
    assert {*words} <= {*GOOD, *BAD}
    assert [query["path"] for query in found["queries"]] == ["text 1", "text 2"]
    assert len(found["queries"][1]["left_out"]) == 1
    drawn = (tmp_path / "s.svg").read_text()
    for shown in ("dull", *words):
        assert shown in text
        assert shown in drawn
    assert json.loads(done("similar", folder / "c.h5", table, "--json"))["queries"][3]["path"] == f"{table}, line 5"
