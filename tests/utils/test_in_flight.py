"""Work that is started ahead: what is due, in which order, and how much stays under way."""

from __future__ import annotations

import pytest

from featcache._utils.in_flight import InFlightQueue


@pytest.mark.parametrize(("limit", "collected"), [(0, "abcd"), (2, "ab"), (3, "ab"), (4, "a"), (6, "a"), (7, "")])
def test_the_oldest_is_due_once_enough_is_behind_it(limit: int, collected: str) -> None:
    queue: InFlightQueue[str] = InFlightQueue(limit)
    due = []
    for item, size in zip("abcd", (5, 3, 2, 1), strict=True):
        queue.add(item, size)
        due += list(queue.due())
    assert "".join(due) == collected
    assert "".join(due + list(queue.drain())) == "abcd"
    assert list(queue.drain()) == []


def test_what_is_ready_is_due_at_once() -> None:
    ready = {"a"}
    queue: InFlightQueue[str] = InFlightQueue(100, is_ready=ready.__contains__)
    for item in "abc":
        queue.add(item, 1)
    assert list(queue.due()) == ["a"]
    ready |= {"c"}
    assert list(queue.due()) == []  # "b" comes first
    ready |= {"b"}
    assert list(queue.due()) == ["b", "c"]
