"""`extract(views="auto")` on texts: the trial compares the recipes of texts, through the same steps as of images."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featcache
from featcache.analysis.views import trial as view_trial
from featcache.analysis.views.trial import ViewTrial
from featcache.core.options import manifest_keywords
from toytexts import ToyTokenizer, toy_text_encoder

N = 40  # texts of train


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Single sentences: a class has more of one word than of the other."""
    rng, rows = np.random.default_rng(0), []
    for number in range(N + 8):
        more, less = (("good", "bad"), ("bad", "good"))[number % 2]
        words = rng.permutation([more] * int(rng.integers(3, 6)) + [less] * 2 + ["film"] * int(rng.integers(4)))
        rows.append([" ".join([*words, f"w{number}"]), more, "train" if number < N else "val"])
    with (tmp_path / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["body", "label", "split"], *rows])
    return tmp_path / "reviews.csv"


def encoder() -> Any:
    return toy_text_encoder(tokenizer=ToyTokenizer(max_length=50))


def test_the_recipes_of_texts_are_compared(table: Path, tmp_path: Path) -> None:
    found = featcache.extract(table, tmp_path / "c.h5", backbone=encoder(), views="auto", text_column="body")
    record = found.view_trial
    assert record is not None
    assert record["recipes"] == ["word-dropout", "sentence-crop"]
    assert record["shown"] == 2 * 4 * len(found.cache.readable_rows("train")) == 2 * 4 * N
    gains = {(each["recipe"], each["views"]): each["log_loss_gain"] for each in record["candidates"]}
    assert gains["sentence-crop", 4] == pytest.approx([0, 0, 0], abs=2e-3)  # a single sentence is its own view
    assert gains["word-dropout", 4] != pytest.approx([0, 0, 0], abs=2e-3)
    assert f"on {N} training texts" in str(found)
    assert "image" not in record["text"]
    assert found.cache.spec.views == record["views"]
    again = featcache.extract(table, tmp_path / "c.h5", backbone=encoder(), views="auto", text_column="body")
    assert (again.extracted, again.view_trial) == (0, record)


def test_chosen_views_are_those_of_a_plain_extraction(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = ViewTrial("word-dropout", 2, "views: 2 by word-dropout", ("word-dropout", "sentence-crop"), None, 0.1, 7)
    monkeypatch.setattr(view_trial, "run_trial", lambda *_: trial)
    found = featcache.extract(table, tmp_path / "a.h5", backbone=encoder(), views="auto", text_column="body").cache
    plain = featcache.extract(
        table, tmp_path / "b.h5", backbone=encoder(), views=2, augment="word-dropout", text_column="body"
    ).cache
    found.check_matches(plain.spec, plain.samples)
    assert np.array_equal(found.features("train").x, plain.features("train").x)
    assert manifest_keywords(found.provenance)["text_column"] == "body"
