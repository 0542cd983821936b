"""Text for people and for files: names, numbers, sizes, durations, cells of CSV, values of JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re
from collections.abc import Iterable, Sequence
from math import ceil, log10
from pathlib import PurePath
from typing import Any

UNIT_SEPARATOR = "\x1f"
"""Between the texts of several columns, until a tokenizer puts the separator of its encoder there."""


def capitalize(text: str) -> str:
    """The text with its first letter in upper case; the others do not change."""
    return text[:1].upper() + text[1:]


def join_words(names: Sequence[str], last: str = "and") -> str:
    """ "a, b and c"; last : the word before the last name."""
    return f" {last} ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def split_names(names: str | Iterable[str]) -> tuple[str, ...]:
    """The names of a text that joins them by commas, each once; other names as they are."""
    if not isinstance(names, str):
        return tuple(names)
    return tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))


def brief(names: Sequence[str], most: int = 8) -> str:
    """The first names, and how many more there are: "a, b and 7 more"."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def format_differences(differences: Iterable[tuple[str, object, object]]) -> str:
    """Settings that differ, for an error: "views=3, you asked for 5; seed=0, you asked for 1".

    differences : (name, existing value, requested value) each.
    """
    return "; ".join(f"{name}={existing}, you asked for {requested}" for name, existing, requested in differences)


def plural(count: int, noun: str, several: str = "") -> str:
    """ "1 image", "2 images"; several : the plural of nouns that do not add an s."""
    return f"{count:,} {noun if count == 1 else several or f'{noun}s'}"


def format_times(ratio: float) -> str:
    """2.0 times, 41 times."""
    return f"{ratio:.0f} times" if ratio >= 9.95 else f"{ratio:.1f} times"


def format_points(fraction: float) -> str:
    """A fraction in percentage points: 0.01 is 1 point."""
    text = f"{100 * fraction:.1f}".removesuffix(".0")
    return f"{text} point" if text == "1" else f"{text} points"


def round_up(count: float) -> int:
    """The next number with two significant digits."""
    unit = 10 ** max(0, int(log10(count)) - 1)
    return ceil(count / unit) * unit


def json_safe(value: Any) -> Any:
    """The value as JSON has it: None for NaN and infinities, text for paths, lists for tuples, results by `to_dict`.

    A dataclass without `to_dict` becomes its fields by name.
    """
    if isinstance(value, dict):
        return {name: json_safe(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(item) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "to_dict"):
        return json_safe(value.to_dict())
    if dataclasses.is_dataclass(value):
        return {field.name: json_safe(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def printable(name: str) -> str:
    """A file name as one line: control characters and bytes that are not text are escaped, as Python writes them."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in name)


def excerpt(text: str, most: int = 80) -> str:
    """The beginning of a text as one line, with an ellipsis where it is cut.

    Parameters
    ----------
    text : str
        White space in it becomes single spaces, and the end of a column " | ".
    most : int
        Characters, the ellipsis included. Default: 80.

    Examples
    --------
    >>> excerpt("A film\\nof two hours", 10)
    'A film of…'
    >>> excerpt("Good\\x1fA film")
    'Good | A film'
    """
    start = text[: 64 * most + 4096].replace(UNIT_SEPARATOR, " | ").split()  # not the whole of a long text
    line = " ".join(start)
    if len(line) <= most and len(text) <= 64 * most + 4096:
        return line
    return line[: most - 1].rstrip() + "…"


def csv_row(values: Sequence[str]) -> str:
    """A line of CSV; \r in a value is quoted, as csv does where it ends a line, too.

    A cell that a spreadsheet would run, which begins with = + - @ or a control character and is not a number, gets a
    single quote before it, which marks a text there. `plain_cell` takes it away again.
    """
    text = io.StringIO()
    csv.writer(text).writerow([f"'{value}" if _runs(value) else value for value in values])
    return text.getvalue().removesuffix("\r\n") + "\n"


def plain_cell(cell: str) -> str:
    """The text that `csv_row` was given, of a cell.

    Parameters
    ----------
    cell : str
        As csv reads it.

    Returns
    -------
    str
        Without the single quote before a text that a spreadsheet would run.
    """
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _runs(value: str) -> bool:
    if not _FORMULA.match(value):
        return False
    try:
        float(value)
    except ValueError:
        return True
    return not value.isascii() or value != value.strip()


# Single quotes of the user's own, too, so that no two texts are written alike.
_FORMULA = re.compile("'*[=+\\-@\\t\\r\\n\uff1d\uff0b\uff0d\uff20]")


def human_bytes(count: float) -> str:
    """1536 -> '1.5 kB'; units of 1000, as disks are sold."""
    if round(count) < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if round(count, 1) < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"


def human_duration(seconds: float) -> str:
    """13.4 -> '13 seconds', 540 -> '9 minutes': seconds under two minutes, minutes under two hours, then hours."""
    for unit, length, most in (("second", 1, 120), ("minute", 60, 120), ("hour", 3600, 48), ("day", 86400, math.inf)):
        text = f"{seconds / length:.1f}".removesuffix(".0") if seconds < 9.95 * length else f"{seconds / length:.0f}"
        if float(text) < most:
            return f"{text} {unit}" if text == "1" else f"{text} {unit}s"
    raise ValueError(f"{seconds} seconds is not a duration")


def pad_columns(lines: Sequence[Sequence[str]], align: str = "<") -> list[list[str]]:
    """Cells padded to the width of their column.

    align : "<" or ">" for each column; the last one holds for all further columns.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = align.ljust(len(widths), align[-1])
    return [[f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True)] for line in lines]


def text_table(lines: Sequence[Sequence[str]], align: str = "<") -> list[str]:
    """Lines of text with aligned columns, two spaces apart; align : see `pad_columns`."""
    return ["  ".join(cells).rstrip() for cells in pad_columns(lines, align)]


def indefinite(noun: str) -> str:
    """A noun with its article: "an image", "a text"."""
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"
