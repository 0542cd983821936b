"""Predictions of texts as a figure: mistakes first, with the words, in any script."""

from __future__ import annotations

import pytest

from featcache.reports.text_figures import PredictionText, plot_text_predictions, wrap


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("one two", ["one two"]),
        ("one two three four", ["one two", "three four"]),
        ("one two three four five six", ["one two", "three…"]),
        ("\u7535\u5f71\u5f88\u597d\u770b", ["\u7535\u5f71\u5f88\u597d\u770b"]),
        ("\u7535\u5f71\u5f88\u597d\u770b\u5417", ["\u7535\u5f71\u5f88\u597d\u770b", "\u5417"]),
        ("e\u0301" * 10, ["e\u0301" * 10]),
    ],
)
def test_a_line_has_as_many_cells_as_fit(text: str, lines: list[str]) -> None:
    assert wrap(text, 10) == lines


def test_each_text_has_its_verdict_beside_it_in_order() -> None:
    shown = [
        PredictionText("costs $5 and $6", "bad", "good", 0.91),
        PredictionText("a good film", "good", "good", None),
    ]
    figure = plot_text_predictions(shown, "1 mistake")
    texts = [text for text in figure.texts if text.get_text() != "1 mistake"]
    assert [text.get_text() for text in texts] == [
        "✗ good 91%\n   label: bad",
        "costs $5 and $6",
        "✓ good",
        "a good film",
    ]
    heights = [text.get_position()[1] for text in texts]
    assert heights[0] == heights[1] > heights[2] == heights[3] > 0
