"""The doctor on texts: near copies, wrong labels and outliers with their words, and remedies that work for texts."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from featcache.analysis.doctor.doctor import doctor
from featcache.analysis.doctor.findings import DoctorReport
from featcache.extraction.extract import extract
from toytexts import ToyTokenizer, toy_text_encoder

GOOD, BAD = ("good", "a good film", "very good"), ("bad", "dull film", "not bad")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Praise and blame: a near copy in another case, and a text whose label is wrong."""
    path = tmp_path_factory.mktemp("doctor") / "reviews.csv"
    rows = []
    for number in range(30):
        for label, (first, *others) in (("good", GOOD), ("bad", BAD)):
            words = [first] * (1 + number % 5) + [others[number % 2]] + ["film"] * (number // 10)
            rows.append([" ".join([*words, *["the"] * (number // 5)]), label, "val" if number % 6 == 5 else "train"])
    rows += [[rows[0][0].upper().replace(" ", "  "), "good", "train"], ["dull dull dull bad bad", "good", "train"]]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text", "label", "split"], *rows])
    return path


@pytest.fixture(scope="module")
def cache(table: Path) -> Path:
    encoder = toy_text_encoder(tokenizer=ToyTokenizer(max_length=100))
    extract(table, table.parent / "c.h5", backbone=encoder, dtype="float32")
    return table.parent / "c.h5"


def examples(report: DoctorReport, kind: str) -> list[Any]:
    return [example for issue in [*report.findings, *report.rankings] if issue.kind == kind for example in issue.images]


def test_the_report_shows_the_words_of_near_copies_and_wrong_labels(table: Path, cache: Path, tmp_path: Path) -> None:
    report = doctor(cache, table)
    (copy,) = examples(report, "copies")
    assert {copy.text.casefold(), copy.other_text.casefold()} == {"good a good film"}
    doubted = examples(report, "wrong labels") + examples(report, "least likely labels")
    assert "dull dull dull bad bad" in [example.text for example in doubted]
    text = report.to_text(verbose=True)
    assert "dull dull dull bad bad" in text
    assert "62 texts" in text
    assert "image" not in text
    assert "FILE.png" not in text
    report.write_list(tmp_path / "list.csv")
    rows = list(csv.DictReader((tmp_path / "list.csv").read_text(encoding="utf-8").splitlines()))
    assert "dull dull dull bad bad" in [row["text"] for row in rows]


def test_without_data_the_remedy_says_how_to_see_the_words(cache: Path) -> None:
    text = doctor(cache).to_text(verbose=True)
    assert "with DATA the report shows their words" in text
    assert "image" not in text


def test_texts_that_changed_are_named(table: Path, cache: Path, tmp_path: Path) -> None:
    lines = table.read_text(encoding="utf-8").splitlines()
    (tmp_path / "fewer.csv").write_text("\n".join(lines[:-1]), encoding="utf-8")
    report = doctor(cache, tmp_path / "fewer.csv")
    assert [issue.what for issue in report.findings if issue.kind == "other texts"] == [
        f"1 text is missing from {tmp_path / 'fewer.csv'} or changed: {tmp_path / 'fewer.csv'} has no such text"
    ]
