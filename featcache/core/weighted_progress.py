"""`WeightedProgress`: one report of progress over steps that take unequal times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from featcache._utils.progress_bar import Progress

TOTAL = 1000
"""The total that is reported; each step has a part of it in proportion to its time."""


class WeightedProgress:
    """Reports the fraction of the expected time, in thousandths, so that a bar estimates the rest well.

    Parameters
    ----------
    progress : called as progress(what, done, 1000); None reports nothing.
    what : such as "doctor". seconds : the expected time of each step by name; only the proportions count.
    """

    def __init__(self, progress: Progress | None, what: str, seconds: Mapping[str, float]) -> None:
        self._progress, self._what, self._seconds = progress, what, dict(seconds)
        self._total_s = sum(self._seconds.values()) or 1.0
        self._ended_s, self._done = 0.0, -1
        self._report(0)

    @contextmanager
    def step(self, name: str) -> Iterator[Progress]:
        """The work of a step, which may report its own progress to the callback: callback(what, done, total)."""
        seconds = self._seconds[name]

        def report(_what: str, done: int, total: int) -> None:
            self._report(self._ended_s + seconds * min(1.0, done / total if total else 0.0))

        yield report
        self._ended_s += seconds
        self._report(self._ended_s)

    def end(self) -> None:
        """All is done, also if steps were left out."""
        self._report(self._total_s)

    def _report(self, seconds: float) -> None:
        done = max(self._done, int(TOTAL * min(1.0, seconds / self._total_s) + 1e-6))
        if self._progress and done > self._done:
            self._progress(self._what, done, TOTAL)
        self._done = done
