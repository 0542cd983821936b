"""Prediction, and many of them as text, CSV and JSON, with names that are hard to write."""

from __future__ import annotations

import csv
import io
import json
import os
from typing import get_args

import pytest

from featcache.models.prediction import Format, Prediction, format_predictions

NAMES = ["a.jpg", 'a,b "c".jpg', "a\nb\r\tc.jpg", "ä 蟻.jpg", os.fsdecode(b"\xe9\xff.jpg"), "a\rb", ";=1", " a "]
TOP = (("ants", 0.75), ("bees", 0.25))
SOME = [
    *(Prediction(name, "ants", TOP) for name in NAMES),
    Prediction("bad,1.jpg", None, (), "the file is empty (0 bytes)"),
    Prediction("svm.jpg", "bees", (("bees", None),)),
]


def test_csv_has_every_name_as_it_is() -> None:
    raw = "".join(format_predictions(SOME, "csv")).encode("utf-8", "surrogateescape")
    assert raw.startswith(
        b'path,label,probability,error,remark\na.jpg,ants,0.750000,,\n"a,b ""c"".jpg",ants,0.750000,,\n'
    )
    rows = list(csv.reader(io.StringIO(raw.decode("utf-8", "surrogateescape"), newline="")))
    assert [row[0] for row in rows[1:]] == [prediction.path for prediction in SOME]
    assert rows[-2:] == [["bad,1.jpg", "", "", "the file is empty (0 bytes)", ""], ["svm.jpg", "bees", "", "", ""]]


def test_json_and_json_lines_hold_the_same() -> None:
    expected = [prediction.to_dict() for prediction in SOME]
    assert json.loads("".join(format_predictions(SOME, "json"))) == {"predictions": expected}
    lines = list(format_predictions(SOME, "jsonl"))
    assert [json.loads(line) for line in lines] == expected
    assert all(line.count("\n") == 1 and line.isascii() for line in lines)
    assert json.loads("".join(format_predictions([], "json"))) == {"predictions": []}


def test_a_remark_stands_at_the_end() -> None:
    prediction = Prediction("a.tif", "ants", TOP, remark="nearly black; first of several pages")
    assert str(prediction) == "a.tif\tants 0.7500\tbees 0.2500\tremark: nearly black; first of several pages"
    assert "".join(format_predictions([prediction], "csv")).endswith("0.750000,,nearly black; first of several pages\n")
    assert prediction.to_dict()["remark"] == prediction.remark


def test_text_is_a_line_each() -> None:
    lines = "".join(format_predictions(SOME, "text")).splitlines()
    assert lines == [str(prediction) for prediction in SOME]
    assert lines[0] == "a.jpg\tants 0.7500\tbees 0.2500"
    assert lines[2] == "a\\nb\\r\\tc.jpg\tants 0.7500\tbees 0.2500"
    assert lines[4] == "\\udce9\\udcff.jpg\tants 0.7500\tbees 0.2500"
    assert lines[-2:] == ["bad,1.jpg\tunreadable: the file is empty (0 bytes)", "svm.jpg\tbees"]


@pytest.mark.parametrize("kind", get_args(Format))
def test_each_is_written_as_it_comes(kind: Format) -> None:
    predictions = iter(SOME)
    pieces = format_predictions(predictions, kind)
    while "a.jpg" not in next(pieces):
        pass
    assert next(predictions) == SOME[1]


def test_where_files_went_is_written() -> None:
    moved = [
        Prediction("a", "ants", TOP, moved_to=("out/ants/a",)),
        Prediction("b", "ants|bees", TOP, several=True, moved_to=("out/ants/b", "out/bees/b")),
        Prediction("c", "", TOP, several=True, moved_to=()),
        Prediction("d", "ants", TOP, "could not be moved: No space left on device", moved_to=()),
        Prediction("e", None, (), "the file is empty (0 bytes)", moved_to=()),
    ]
    assert "".join(format_predictions(moved, "text")).splitlines() == [
        "a\tants 0.7500\tbees 0.2500\t-> out/ants/a",
        "b\tants|bees\tants 0.7500\tbees 0.2500\t-> out/ants/b\t-> out/bees/b",
        "c\tnone\tants 0.7500\tbees 0.2500",
        "d\tants 0.7500\tbees 0.2500\tcould not be moved: No space left on device",
        "e\tunreadable: the file is empty (0 bytes)",
    ]
    assert "".join(format_predictions(moved, "csv", columns=("moved_to",))).splitlines() == [
        "path,label,probability,error,remark,moved_to",
        "a,ants,0.750000,,,out/ants/a",
        "b,ants|bees,0.750000,,,out/ants/b|out/bees/b",
        "c,,0.750000,,,",
        "d,ants,0.750000,could not be moved: No space left on device,,",
        "e,,,the file is empty (0 bytes),,",
    ]
    assert [json.loads(line)["moved_to"] for line in format_predictions(moved, "jsonl")] == [
        ["out/ants/a"],
        ["out/ants/b", "out/bees/b"],
        [],
        [],
        [],
    ]
    assert "moved_to" not in SOME[0].to_dict()
