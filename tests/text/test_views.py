"""Views of texts: what a recipe keeps, and what decides it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from featcache.core.specs import TEXT_AUGMENTS, TextSpec
from featcache.text.views import TEXT_RECIPES, crop_sentences, drop_words, make_text_views

SPEC = TextSpec("0" * 64, augment="word-dropout", seed=5)
TEXT = " ".join(f"word{number}" for number in range(200))


def test_every_recipe_of_the_spec_exists() -> None:
    assert set(TEXT_RECIPES) == set(TEXT_AUGMENTS)


def test_view_0_is_the_text_and_others_depend_on_spec_hash_and_number_alone() -> None:
    views = make_text_views(TEXT, SPEC, b"a", range(4))
    assert views[0] == TEXT
    assert len(set(views)) == 4
    assert make_text_views(TEXT, SPEC, b"a", [3, 1]) == [views[3], views[1]]
    assert make_text_views(TEXT, SPEC, b"b", [1]) != views[1:2]
    assert make_text_views(TEXT, dataclasses.replace(SPEC, seed=6), b"a", [1]) != views[1:2]
    assert make_text_views(TEXT, dataclasses.replace(SPEC, augment="none"), b"a", [1]) == [TEXT]


def test_word_dropout_keeps_nine_of_ten_words_in_their_order() -> None:
    counts = []
    for seed in range(50):
        words = drop_words(TEXT, np.random.default_rng(seed)).split()
        assert words == sorted(words, key=TEXT.split().index)
        counts.append(len(words))
    assert np.mean(counts) == pytest.approx(180, abs=3)  # 5 standard errors


@pytest.mark.parametrize(("text", "kept"), [("one", "one"), ("", ""), ("  ", "  ")])
def test_word_dropout_never_empties_a_text(text: str, kept: str) -> None:
    assert {drop_words(text, np.random.default_rng(seed)) for seed in range(60)} == {kept}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A b. C d! E f?", {"A b. C d!", "C d! E f?", "A b. C d! E f?"}),
        ("一。二！三", {"一。 二！", "二！ 三", "一。 二！ 三"}),  # noqa: RUF001
        ("first line\nsecond", {"first line", "second", "first line second"}),
        ("no end", {"no end"}),
        ("", {""}),
    ],
)
def test_sentence_crop_keeps_half_of_the_sentences_or_more(text: str, expected: set[str]) -> None:
    assert {crop_sentences(text, np.random.default_rng(seed)) for seed in range(80)} == expected
