"""`PhaseTimer`: seconds of each phase of a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class PhaseTimer:
    """Adds up seconds by phase, from any thread.

    Phases that run in worker threads (read, decode, view) overlap with those of the main thread, so the sum of
    the phases can exceed `wall`.
    """

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what happens inside as this phase."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - started)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds to a phase."""
        with self._lock:
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def seconds(self) -> dict[str, float]:
        """Seconds by phase, and `wall`, the seconds since the watch was made."""
        with self._lock:
            return {**self._seconds, "wall": time.perf_counter() - self._started}
