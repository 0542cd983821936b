"""Words for numbers: 2.5 points, 41 times, and names in a row."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log10


def capitalize(text: str) -> str:
    """Its first letter capital, the others as they are."""
    return text[:1].upper() + text[1:]


def join_words(names: Sequence[str]) -> str:
    """One, two and three."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def brief(names: Sequence[str], most: int = 8) -> str:
    """The first names, and how many more there are: "a, b and 7 more"."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def format_times(ratio: float) -> str:
    """2.0 times, 41 times."""
    return f"{ratio:.0f} times" if ratio >= 9.95 else f"{ratio:.1f} times"


def format_points(share: float) -> str:
    """A share in percentage points: 0.01 is 1 point."""
    text = f"{100 * share:.1f}".removesuffix(".0")
    return f"{text} point" if text == "1" else f"{text} points"


def round_up(count: float) -> int:
    """To two digits."""
    unit = 10 ** max(0, int(log10(count)) - 1)
    return ceil(count / unit) * unit
