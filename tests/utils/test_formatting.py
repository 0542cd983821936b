"""Text for people: sizes and names."""

from __future__ import annotations

import pytest

from featcache._utils.formatting import human_bytes, printable


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1536, "1.5 kB"),
        (18_400_000, "18.4 MB"),
        (2_000_000_000, "2.0 GB"),
        (3.25e12, "3.2 TB"),
        (1.5e15, "1500.0 TB"),
    ],
)
def test_human_bytes(count: float, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(("count", "text"), [(999_950, "1.0 MB"), (999_999_999, "1.0 GB"), (999.9, "1.0 kB")])
def test_human_bytes_that_round_up_to_a_thousand_take_the_next_unit(count: float, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("train/ants/é 1.jpg", "train/ants/é 1.jpg"),
        ("a\nb.jpg", r"a\nb.jpg"),
        ("\x1b[31m.jpg", r"\x1b[31m.jpg"),
        ("\udcff.jpg", r"\udcff.jpg"),
    ],
)
def test_names_are_printed_in_one_line(name: str, text: str) -> None:
    assert printable(name) == text
