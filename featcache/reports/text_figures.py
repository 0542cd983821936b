"""Figures of texts: predictions, and similar texts, with the beginning of each text."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from featcache._utils.formatting import excerpt, printable
from featcache.reports.style import RIGHT, WRONG, shorten

_WIDTH, _LINE = 9.0, 0.21  # inches: of the figure, and of a line of text
_CELLS, _MOST_LINES = 76, 2  # of a text: letters in a line (a Chinese one counts twice), and lines


class PredictionText(NamedTuple):
    """A text with its prediction.

    label, predicted : "" for none. probability : None without probabilities.
    """

    text: str
    label: str
    predicted: str
    probability: float | None


class TextRow(NamedTuple):
    """A text of a list, with what is said of it at its left, in one or two lines. bold : a heading of those below."""

    left: str
    text: str
    colour: str | None = None
    bold: bool = False


def plot_text_predictions(shown: Sequence[PredictionText], title: str) -> Figure:
    """A list of texts with their predictions. Colour and a mark show which ones are right."""
    rows = []
    for one in shown:
        right = one.label == one.predicted
        probability = "" if one.probability is None else f" {one.probability:.0%}"
        verdict = f"{'✓' if right else '✗'} {shorten(one.predicted or 'none', 18)}{probability}"
        below = "" if right else f"\n   label: {shorten(one.label or 'none', 18)}"
        rows.append(TextRow(verdict + below, one.text, RIGHT if right else WRONG))
    return plot_texts(rows, title)


def plot_texts(rows: Sequence[TextRow], title: str) -> Figure:
    """A list of texts, each with what is said of it."""
    blocks = [wrap(row.text) for row in rows]
    heights = [
        max(len(lines), 1 + row.left.count("\n")) + 0.5 + row.bold / 2 for row, lines in zip(rows, blocks, strict=True)
    ]
    total = sum(heights) + 2.5
    figure = Figure(figsize=(_WIDTH, total * _LINE))
    figure.suptitle(title, fontsize="medium", y=1 - 0.7 / total)
    top = total - 2
    for row, lines, height in zip(rows, blocks, heights, strict=True):
        place: dict[str, Any] = {"va": "top", "fontsize": "small", "linespacing": 1.2, "parse_math": False}
        place["fontweight"] = "bold" if row.bold else "normal"
        y = (top - row.bold / 2) / total
        colour: dict[str, Any] = {"color": row.colour} if row.colour else {}
        figure.text(0.02, y, row.left, **colour, **place)
        figure.text(0.28, y, "\n".join(lines), **place)
        top -= height
    return figure


def wrap(text: str, cells: int = _CELLS, most: int = _MOST_LINES) -> list[str]:
    """The beginning of a text in lines, with an ellipsis where it is cut.

    A line is broken between words, or in scripts without spaces between letters. A wide letter, such as a Chinese one,
    takes two cells; an accent that combines with the letter before it takes none.

    Parameters
    ----------
    text : str
    cells : int
        Of a line.
    most : int
        Lines.
    """
    lines, line, width = [], "", 0
    for letter in printable(excerpt(text, 4 * cells * most)):
        size = 0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF")
        if width + size > cells:
            head, space, tail = line.rpartition(" ")
            lines.append(head if space and len(tail) < cells // 2 else line)
            line = tail if space and len(tail) < cells // 2 else ""
            width = sum(1 + (unicodedata.east_asian_width(one) in "WF") for one in line)
            if len(lines) == most:
                return [*lines[:-1], lines[-1][: cells - 1] + "…"]
        line, width = line + letter, width + size
    return [*lines, line]
