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


def test_word_dropout_of_words_between_spaces_is_that_of_split() -> None:
    text = "Not bad,\tbut (very)  long: it's 3.5 hours! \u00e9t\u00e9 \u0434\u0430 -- end"
    for seed in range(50):
        words, kept = text.split(), np.random.default_rng(seed).random(len(text.split())) >= 0.1
        expected = " ".join(word for word, is_kept in zip(words, kept, strict=True) if is_kept)
        assert drop_words(text, np.random.default_rng(seed)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "\u8fd9\u4e2a\u4ea7\u54c1\u5f88\u597d",
        "\u3053\u306e\u6620\u753b\u306f\u9577\u3044",
        "\u0e2b\u0e19\u0e31\u0e07\u0e14\u0e35",
    ],
)
def test_word_dropout_drops_characters_where_there_are_no_spaces(text: str) -> None:
    views = {drop_words(text, np.random.default_rng(seed)) for seed in range(60)}
    assert len(views) > 3
    signs = "\u0e31\u0e35"  # stay with the letter below them
    for view in views:
        assert " " not in view
        assert view[0] not in signs
        rest = iter(text)
        assert all(character in rest for character in view)


def test_word_dropout_of_mixed_scripts_keeps_words_whole() -> None:
    text = "GPU \u5f88\u5feb and cheap"
    parts = set()
    for seed in range(200):
        parts |= set(
            drop_words(text, np.random.default_rng(seed))
            .replace("\u5f88", " \u5f88 ")
            .replace("\u5feb", " \u5feb ")
            .split()
        )
    assert parts == {"GPU", "\u5f88", "\u5feb", "and", "cheap"}


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
