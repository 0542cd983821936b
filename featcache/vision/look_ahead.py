"""`LookAhead`: images that threads load in order, some ahead of the one that is taken."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class LookAhead(Generic[T]):
    """Results of `load` for some rows, in order.

    Parameters
    ----------
    pool : ThreadPoolExecutor
    load : callable
        Result for a row.
    decoded_bytes : callable
        Bytes of the decoded images that a result keeps.
    rows : sequence of int
    most : int
        Number of results that are begun or wait, at most.
    most_running : int
        Number of results that are begun, at most, where `limit` is finite.
    limit : float
        Bytes of the decoded images that wait. No image is begun while those that wait, and those that are begun at the
        mean size so far, take more; except for the next one that is taken.
    """

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        load: Callable[[int], T],
        decoded_bytes: Callable[[T], int],
        rows: Sequence[int],
        most: int,
        most_running: int,
        limit: float,
    ) -> None:
        self._pool, self._load, self._decoded_bytes, self._rows = pool, load, decoded_bytes, rows
        self._most, self._most_running, self.limit = most, most_running, limit
        self._lock = Lock()
        self._pending: deque[tuple[int, Future[T]]] = deque()
        self._begun = self._running = self._waiting = self._finished = self._total = 0
        self._is_cancelled = False
        self._fill()

    def results(self) -> Iterator[tuple[int, T]]:
        """Row and result. For each one that is taken, others are begun."""
        try:
            while self._pending:
                with self._lock:
                    row, future = self._pending.popleft()
                self._fill()
                result = [future.result()]
                del future
                yield row, result.pop()  # nothing here keeps it
        finally:
            self.cancel()

    def release(self, nbytes: int) -> None:
        """Bytes of decoded images wait no more."""
        with self._lock:
            self._waiting -= nbytes
        self._fill()

    def cancel(self) -> None:
        """Begin nothing more."""
        with self._lock:
            self._is_cancelled = True
            for _, future in self._pending:
                future.cancel()

    def _fill(self) -> None:
        with self._lock:
            while self._begun < len(self._rows) and self._may_begin():
                row = self._rows[self._begun]
                self._pending.append((row, self._pool.submit(self._run, row)))
                self._begun += 1
                self._running += 1

    def _may_begin(self) -> bool:
        if self._is_cancelled or len(self._pending) >= self._most:
            return False
        if not self._pending or self.limit == float("inf"):
            return True
        expected = (self._running + 1) * self._total / max(1, self._finished)
        return self._running < self._most_running and self._waiting + expected <= self.limit

    def _run(self, row: int) -> T:
        nbytes = 0
        try:
            result = self._load(row)
            nbytes = self._decoded_bytes(result)
            return result
        finally:
            with self._lock:
                self._running -= 1
                self._finished += 1
                self._waiting += nbytes
                self._total += nbytes
            with suppress(RuntimeError):  # the pool takes no more: the loader is closed
                self._fill()
