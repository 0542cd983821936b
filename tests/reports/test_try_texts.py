"""`try_out` on texts: the steps of extract, doctor and fit-head, and a page that shows texts by their words."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import as_json, done, refused
from featcache.cache.feature_cache import FeatureCache
from featcache.errors import DataLayoutError, HeadError
from featcache.extraction.extract import extract
from featcache.heads.fit_head import fit_head
from featcache.reports.trial import Trial
from featcache.reports.try_out import try_out
from pagereader import read_page
from toytexts import ToyTokenizer, toy_text_encoder, write_text_model

PLANTED = "dull dull dull bad bad"


def reviews(planted: bool = True) -> list[list[str]]:
    """Rows of text, label and split: praise, blame, and blame that is labelled as praise."""
    rows = []
    for number in range(30):
        for label, first, others in (
            ("good", "good", ("a good film", "very good")),
            ("bad", "bad", ("dull film", "not bad")),
        ):
            words = [first] * (1 + number % 5) + [others[number % 2]] + ["film"] * (number // 10)
            rows.append([" ".join([*words, *["the"] * (number // 5)]), label, "val" if number % 6 == 5 else "train"])
    return [*rows, *([[PLANTED, "good", "train"]] if planted else [])]


def write_table(path: Path, rows: list[list[str]], column: str = "text") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([[column, "label", "split"], *rows])
    return path


def encoder() -> Any:
    return toy_text_encoder(tokenizer=ToyTokenizer(max_length=100))


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trial]:
    """A table and the trial of it."""
    folder = tmp_path_factory.mktemp("try")
    table = write_table(folder / "reviews.csv", reviews())
    return table, try_out(table, folder / "out", backbone=encoder(), budget_s=1e9)


def test_it_does_what_the_single_commands_do(tried: tuple[Path, Trial], tmp_path: Path) -> None:
    table, trial = tried
    extract(table, tmp_path / "c.h5", backbone=encoder())
    caches = [FeatureCache.open(path) for path in (trial.folder / "cache.h5", tmp_path / "c.h5")]
    assert caches[0].spec == caches[1].spec
    assert np.array_equal(caches[0].features("train").x, caches[1].features("train").x)
    fit = fit_head(tmp_path / "c.h5", tmp_path / "head", budget_s=1e9)
    assert (trial.fit.accuracy, trial.fit.name) == (fit.accuracy, fit.name)
    assert (trial.fit.accuracy.n, trial.extraction.extracted) == (10, 61)


def test_labels_to_check_are_shown_by_their_words_and_place(tried: tuple[Path, Trial]) -> None:
    table, trial = tried
    (example,) = [one for one in (*trial.doubtful, *trial.least_likely) if one.text == PLANTED]
    assert (example.place, example.label, example.suggested) == (f"{table}, line 62", "good", "bad")
    assert f'{table}, line 62 ("{PLANTED}") is labelled good, probably bad' in str(trial)
    listed = [*trial.to_dict()["doubtful"], *trial.to_dict()["least_likely"]]
    assert {"place": f"{table}, line 62", "text": PLANTED}.items() <= next(
        one for one in listed if one["image"] == example.image
    ).items()
    labels = read_page(trial.folder / "report.html").sections["Labels to check"]
    header, *rows = labels.tables[0]
    assert header == ["text", "label", "suggested", "margin", "place"]
    assert [PLANTED, "good", "bad", f"{example.score:.2f}", "reviews.csv, line 62"] in rows
    assert labels.captions == []


def test_page_and_summary_speak_of_texts(tried: tuple[Path, Trial]) -> None:
    table, trial = tried
    assert "61 texts of 2 classes; the head (" in str(trial)
    assert " of 10 other texts correctly (" in str(trial)
    out = trial.folder
    assert f'featcache predict {out}/head --text "A TEXT" --backbone MODULE:FACTORY' in str(trial)
    page = read_page(out / "report.html")
    predictions = page.sections["The head in figures"].tables[0]
    assert predictions[0] == ["text", "label", "predicted", "probability"]
    assert {row[0] for row in predictions[1:]} == {text for text, _, split in reviews() if split == "val"}
    html = (out / "report.html").read_text(encoding="utf-8")
    assert str(table.parent) not in html
    for word in ("image", "photo"):
        assert word not in str(trial).lower()
        assert word not in page.sections["Labels to check"].notes[0]


def test_options_of_texts_reach_the_cache_and_are_repeated(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    table = write_table(tmp_path / "reviews.csv", reviews(planted=False), column="body")
    network = ("--backbone", f"transformers/{write_text_model(tmp_path / 'bert')}", "--weights", "none")
    given = ("--text-column", "body", "--max-length", 5, "--prefix", "the ", *network)
    values = as_json("try", table, "-o", tmp_path / "out", *given)
    cache = FeatureCache.open(tmp_path / "out/cache.h5")
    assert (cache.spec.text_view.max_length, cache.spec.text_view.prefix) == (5, "the ")
    assert cache.split_options["text_column"] == "body"
    assert values["extract"]["extracted"] == 60
    text = done("try", table, "-o", tmp_path / "out", *given)
    for command in ("try", "benchmark"):
        (line,) = [line for line in text.splitlines() if line.startswith(f"  featcache {command} ")]
        assert "--text-column body" in line
        assert "--max-length 5 --prefix 'the '" in line
    assert as_json("try", table, "-o", tmp_path / "out", *given)["extract"]["extracted"] == 0
    assert "labelled images or texts" in " ".join(done("try", "--help").split())
    error = refused("try", table, "-o", tmp_path / "other", *given, "--image-size", 96)
    assert "holds texts, and image_size is for images. Leave it out." in " ".join(error.split())


def test_a_folder_of_texts(tmp_path: Path) -> None:
    for number, (text, label, split) in enumerate(reviews(planted=False)):
        path = tmp_path / "data" / split / label / f"{number:02d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / "data/train/good/planted.txt").write_text(PLANTED, encoding="utf-8")
    trial = try_out(tmp_path / "data", tmp_path / "out", backbone=encoder())
    (example,) = [one for one in (*trial.doubtful, *trial.least_likely) if one.text == PLANTED]
    assert (example.name, example.place) == ("train/good/planted.txt", "")
    assert json.loads((tmp_path / "out/head/run.json").read_text())["accuracy"] == trial.fit.accuracy.accuracy


def test_a_repeated_trial_follows_the_table(tmp_path: Path) -> None:
    table = write_table(tmp_path / "reviews.csv", reviews())
    try_out(table, tmp_path / "out", backbone=encoder())
    mended = [*reviews(planted=False), [PLANTED, "bad", "train"], ["very very dull", "bad", "train"]]
    write_table(table, mended)
    notes: list[str] = []
    again = try_out(table, tmp_path / "out", backbone=encoder(), on_note=notes.append)
    assert [note for note in notes if note.startswith("updates ")]
    assert len(again.extraction.cache.samples) == 62
    assert PLANTED not in [one.text for one in (*again.doubtful, *again.least_likely)]
    views = try_out(table, tmp_path / "out", backbone=encoder(), views=1, on_note=notes.append)
    assert (
        f"updates {tmp_path / 'out/cache.h5'}: 1 augmented view by word-dropout instead of no augmented views" in notes
    )
    assert (views.extraction.cache.spec.views, views.extraction.cache.spec.view.augment) == (1, "word-dropout")
    other = write_table(tmp_path / "other.csv", [[f"film {text}", label, split] for text, label, split in reviews()])
    with pytest.raises(HeadError, match=r"holds a trial of other texts: 62 of 62 texts with features"):
        try_out(other, tmp_path / "out", backbone=encoder())


def test_networks_and_data_of_another_kind_are_refused(tmp_path: Path) -> None:
    table = write_table(tmp_path / "reviews.csv", reviews())
    with pytest.raises(DataLayoutError, match="holds texts, and resnet18 is a network for images"):
        try_out(table, tmp_path / "out", backbone="resnet18")
