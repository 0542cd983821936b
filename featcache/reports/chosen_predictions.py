"""`choose_predictions`: the val predictions that are shown, mistakes first."""

from __future__ import annotations

from collections.abc import Sequence

from featcache._utils.formatting import plural
from featcache.metrics.predictions import ValPrediction

_MAX_MISTAKES = 0.75  # fraction of the samples, so that right predictions are shown as well


def choose_predictions(rows: Sequence[ValPrediction], most: int, noun: str) -> tuple[list[ValPrediction], str]:
    """The most confident mistakes, then the least confident right predictions; and a line on the choice.

    noun : what a sample is called, such as "image".
    """
    wrong = sorted((row for row in rows if not row.right), key=confidence, reverse=True)
    right = sorted((row for row in rows if row.right), key=confidence)
    chosen = wrong[: max(most - len(right), round(most * _MAX_MISTAKES))]
    chosen += right[: most - len(chosen)]
    mistakes = sum(not row.right for row in chosen)
    text = f"{mistakes} of {plural(len(wrong), 'mistake')}, the most confident first" if wrong else "no mistakes"
    return chosen, f"{text}; {plural(len(rows), f'val {noun}')}"


def confidence(row: ValPrediction) -> float:
    """The probability of the prediction; with several labels that of the least certain one."""
    return min(row.probabilities, default=0.0)


def shown_probability(row: ValPrediction) -> float | None:
    """The same for a figure or a table; None without probabilities."""
    return confidence(row) if row.probabilities else None
