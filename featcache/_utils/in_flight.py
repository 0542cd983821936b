"""`InFlightQueue`: work that is started ahead and collected in order, with a bound on what is under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class InFlightQueue(Generic[T]):
    """Started work, oldest first.

    Parameters
    ----------
    limit : int
        The oldest item is due as soon as the items behind it have this size together. With 0, each item is due at once.
    is_ready : callable, optional
        Whether an item can be collected without waiting; such an item is due although the limit is not reached.
    """

    def __init__(self, limit: int, is_ready: Callable[[T], bool] = lambda _: False) -> None:
        self._limit, self._is_ready = limit, is_ready
        self._items: deque[tuple[T, int]] = deque()
        self._size = 0

    def add(self, item: T, size: int) -> None:
        """Append started work."""
        self._items.append((item, size))
        self._size += size

    def due(self) -> Iterator[T]:
        """Remove and yield the items to collect now."""
        while self._items and (self._is_ready(self._items[0][0]) or self._size - self._items[0][1] >= self._limit):
            yield self._pop()

    def drain(self) -> Iterator[T]:
        """Remove and yield all items."""
        while self._items:
            yield self._pop()

    def _pop(self) -> T:
        item, size = self._items.popleft()
        self._size -= size
        return item
