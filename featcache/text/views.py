"""`make_text_views`: the views of one text. View 0 is the whole text; others are drawn by a recipe.

A view depends only on the text, the spec and the number of the view, as with images.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from featcache._utils.formatting import UNIT_SEPARATOR
from featcache.core.rng import generator
from featcache.core.specs import TextSpec

_DROPPED = 0.1
"""Fraction of the words that word-dropout leaves out in the mean."""

_NO_SPACES = (
    "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]",  # kana and Chinese characters
    "[\u0e01-\u0e30\u0e32\u0e33\u0e3f-\u0e46][\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]*",  # Thai, with signs above and below
)
_WORD = re.compile(rf"(\s*)({'|'.join(_NO_SPACES)}|(?:(?!{_NO_SPACES[0]}|{_NO_SPACES[1]})\S)+)")
"""A word, and the space before it. In scripts that do not separate words, a character."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])\s*|\n+")
"""After a full stop, an exclamation or a question mark, in Chinese and Japanese also without a space; or a new line."""


def drop_words(text: str, rng: np.random.Generator) -> str:
    """The words that a draw keeps, each with probability 0.9; of a text with words at least one.

    Of Chinese, Japanese and Thai, which have no spaces between words, it keeps characters.
    """
    words = [f"{' ' if space else ''}{word}" for space, word in _WORD.findall(text)]
    if not words:
        return text
    kept = rng.random(len(words)) >= _DROPPED
    if not kept.any():
        kept[rng.integers(len(words))] = True
    return "".join(word for word, is_kept in zip(words, kept, strict=True) if is_kept).strip()


def crop_sentences(text: str, rng: np.random.Generator) -> str:
    """Half of the sentences or more, one after the other; a text of one sentence as it is."""
    sentences = [sentence for sentence in _SENTENCE_END.split(text) if sentence.strip()]
    if len(sentences) < 2:
        return text
    length = int(rng.integers(-(-len(sentences) // 2), len(sentences) + 1))
    start = int(rng.integers(len(sentences) - length + 1))
    return " ".join(sentences[start : start + length])


TEXT_RECIPES: Mapping[str, Callable[[str, np.random.Generator], str]] = {
    "none": lambda text, _rng: text,
    "word-dropout": drop_words,
    "sentence-crop": crop_sentences,
}
"""Recipes by name, see `featcache.core.specs.TEXT_AUGMENTS`."""


def make_text_views(text: str, spec: TextSpec, sha256: bytes, numbers: Iterable[int]) -> list[str]:
    """The views of a text. The recipe is applied to each of several columns by itself.

    Parameters
    ----------
    sha256 : hash of the text's bytes, the key of its draws.
    numbers : of the views; 0 is the whole text.
    """
    recipe = TEXT_RECIPES[spec.augment]
    columns = text.split(UNIT_SEPARATOR) if spec.separator else [text]

    def draw(number: int) -> str:
        rng = generator(spec.seed, "view", sha256, number)
        return UNIT_SEPARATOR.join(recipe(column, rng) for column in columns)

    return [draw(number) if number else text for number in numbers]
