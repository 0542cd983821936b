"""Parts of the program beside an exported file that do not depend on the modality."""

from __future__ import annotations

from textwrap import indent
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featcache.core.model_card import ModelCard

MARK = "Written by `featcache export`"
"""Is in each program. A file with it may be replaced."""

_SHOW = 'print(f"{{{sample}}}\\t{{CLASSES[row.argmax()]}}\\t{{row.max():.4f}}")'
_THRESHOLDS = "THRESHOLDS = {thresholds!r}  # a label is printed if its probability is greater\n"
_SHOW_LABELS = """named = zip(CLASSES, row, THRESHOLDS)
print({sample}, *(f"{{name}} {{value:.4f}}" for name, value, threshold in named if value > threshold), sep="\\t")"""


BATCH = 32
"""Samples that a program runs at once, so that its memory does not depend on their number."""


def label_code(card: ModelCard, sample: str) -> dict[str, str]:
    """The mark, the batch size, the classes, the thresholds and the lines that print a row of probabilities.

    Parameters
    ----------
    card : ModelCard
        Of the exported model.
    sample : str
        Name of the variable that is printed before the classes.
    """
    return {
        "mark": MARK,
        "batch": str(BATCH),
        "classes": repr(list(card.classes)),
        "thresholds": _THRESHOLDS.format(thresholds=label_thresholds(card)) if card.multilabel else "",
        "show": indent((_SHOW_LABELS if card.multilabel else _SHOW).format(sample=sample), 8 * " "),
    }


def label_thresholds(card: ModelCard) -> list[float]:
    """The threshold of each label."""
    from featcache.core.thresholds import HALF

    return list(card.thresholds or [HALF] * len(card.classes))


def with_imports(imports: str, others: str) -> str:
    """Import statements of a format, with others that it lacks behind them."""
    return imports if others in imports.splitlines() else f"{imports}\n{others}"
