"""Ids of texts that have no name of their own, such as the rows of a table: by their content."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from featcache.data.sources.base import SampleRecord

_DIGITS = 20
_COUNTER = "-"


def content_id(content: bytes) -> str:
    """The id of the first text with these bytes: the first 20 hexadecimal digits of their SHA-256."""
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


def without_counter(name: str) -> str:
    """The id of the first of all texts with equal bytes."""
    return name.partition(_COUNTER)[0]


def number_copies(records: Sequence[SampleRecord]) -> list[SampleRecord]:
    """Give texts with equal bytes the ids ID, ID-2, ID-3, ...

    The order of the rows does not matter: equal texts are numbered by split, label and group, and those that agree in
    all are interchangeable.

    Parameters
    ----------
    records : sequence of SampleRecord
        With ids of `content_id`, in any order.

    Returns
    -------
    list of SampleRecord
        In the same order.
    """
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, record in enumerate(records):
        rows_of[record.id].append(row)
    numbered = list(records)
    for name, rows in rows_of.items():
        rows.sort(key=lambda row: (records[row].split or "", records[row].classes, records[row].group))
        for number, row in enumerate(rows[1:], 2):
            numbered[row] = replace(records[row], id=f"{name}{_COUNTER}{number}")
    return numbered
