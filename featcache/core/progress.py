"""`StepProgress`: reports of work that has so many steps, and may end before the last of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from featcache._utils.progress_bar import Progress

T = TypeVar("T")


class StepProgress:
    """Counts steps for a progress callback; work that ends early without an error is reported as done.

    Parameters
    ----------
    progress : called as progress(what, done, total); None reports nothing.
    what : such as "fit heads". total : the most steps that there can be.
    """

    def __init__(self, progress: Progress | None, what: str, total: int) -> None:
        self._progress, self._what, self._total, self._done = progress, what, total, 0

    def __enter__(self) -> Self:
        self._report()
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: TracebackType | None) -> None:
        if error is None and self._done < self._total:
            self._done = self._total
            self._report()

    def advance(self) -> None:
        """One more step is done."""
        self._done += 1
        self._report()

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """The same items, each of which is a step that is done when it is there."""
        for item in items:
            self.advance()
            yield item

    def _report(self) -> None:
        if self._progress:
            self._progress(self._what, self._done, self._total)
