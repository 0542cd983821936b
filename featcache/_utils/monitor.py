"""`Monitor`: reports the progress and the notes of a call, and times its phases."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from featcache._utils.progress_bar import ProgressOption, as_callback
from featcache._utils.timing import PhaseTimer


class Monitor:
    """Progress, notes and seconds of one call.

    Parameters
    ----------
    progress : callable, bool or None
        See `as_callback`. All steps share one bar.
    on_note : callable or None
        Called with each note.

    Attributes
    ----------
    progress : callable or None
    timer : PhaseTimer
    """

    def __init__(self, progress: ProgressOption = None, on_note: Callable[[str], None] | None = None) -> None:
        self.progress, self._on_note = as_callback(progress), on_note
        self.timer = PhaseTimer()

    def report(self, step: str, done: int, total: int) -> None:
        """Report how far a step is."""
        if self.progress:
            self.progress(step, done, total)

    def note(self, text: str) -> None:
        """Report a note; an empty one is left out."""
        if text and self._on_note:
            self._on_note(text)

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Time the block as this phase."""
        return self.timer.phase(name)

    def seconds(self) -> dict[str, float]:
        """Seconds by phase, and `wall`."""
        return self.timer.seconds()
