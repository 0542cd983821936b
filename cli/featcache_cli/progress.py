"""Progress on stderr: a bar in a terminal; else a line every ten seconds, in logs and notebooks.

Every command has a display. It also shows activity during steps that report no progress: imports, loading or
converting a network, fitting a head.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import click

from featcache_cli.stopping import GRACE_S, stopping, watching
from featcache_cli.stopping import StoppedError as StoppedError
from featcache_cli.wrapping import safe, wrap

EVERY_S = 10.0
"""Seconds between two lines if stderr is not a terminal."""

_REFRESH_S = 1.0  # seconds between two updates of the elapsed time
_DISPLAY = "featcache.display"  # keys of a click context's `meta`
_VERBOSITY = "featcache.verbosity"

QUIET, NORMAL, VERBOSE = -1, 0, 1


def set_verbosity(level: int) -> None:
    """Set the verbosity of the current command: QUIET, NORMAL or VERBOSE."""
    click.get_current_context().meta[_VERBOSITY] = level


def verbosity() -> int:
    """The verbosity of the current command."""
    context = click.get_current_context(silent=True)
    return NORMAL if context is None else context.meta.get(_VERBOSITY, NORMAL)


class Display:
    """Shows the current step and its progress, from a background thread.

    Parameters
    ----------
    level : QUIET shows nothing; VERBOSE also prints a line for each step that has ended, with its seconds.
    """

    def __init__(self, level: int = NORMAL) -> None:
        self._level = level
        self._lock = threading.RLock()
        self._what, self._done, self._total = "start", 0, 0
        self._since = time.monotonic()
        self._bar: Any = None
        self._ended = threading.Event()
        self._terminal = sys.stderr.isatty()
        if level > QUIET:
            threading.Thread(target=self._run, name="progress", daemon=True).start()

    def report(self, what: str, done: int, total: int) -> None:
        """Receive the progress of a library function. total : 0 if unknown."""
        with self._lock:
            if what != self._what:
                self._end_step()
                self._what, self._since = what, time.monotonic()
            self._done, self._total = done, total
            if self._terminal and self._level > QUIET and (total or self._bar is not None):
                self._draw()

    def clear(self) -> None:
        """Remove the bar; the next report shows it again."""
        with self._lock:
            if self._bar is not None:
                self._bar.close()
                self._bar = None

    def close(self) -> None:
        """End the display."""
        with self._lock:
            if not self._ended.is_set():
                self._end_step()
            self._ended.set()

    def _end_step(self) -> None:
        self.clear()
        if self._level >= VERBOSE and not self._ended.is_set():
            click.echo(safe(f"{self._what}: {time.monotonic() - self._since:.1f} s"), err=True)

    def _run(self) -> None:
        while not self._ended.wait(_REFRESH_S if self._terminal else EVERY_S):
            with self._lock:
                if self._ended.is_set():
                    return
                if self._terminal:
                    self._draw()
                    self._bar.refresh()
                else:
                    click.echo(safe(self._line()), err=True)

    def _draw(self) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(
                total=self._total or None, desc=self._what, unit="", dynamic_ncols=True, leave=False, file=sys.stderr
            )
            self._bar.start_t -= time.monotonic() - self._since
        self._bar.total = self._total or None
        self._bar.update(self._done - self._bar.n)

    def _line(self) -> str:
        """`extract: 120 of 400 (30 %), 40 s, about 93 s left`."""
        seconds = time.monotonic() - self._since
        far = f"{self._done} of {self._total} ({self._done / self._total:.0%})" if self._total else ""
        far = far or (str(self._done) if self._done else "")
        left = ""
        if 0 < self._done < self._total:
            left = f"about {seconds * (self._total - self._done) / self._done:.0f} s left"
        return f"{self._what}: {', '.join(part for part in (far.replace('%', ' %'), f'{seconds:.0f} s', left) if part)}"


@contextmanager
def showing(context: click.Context) -> Iterator[None]:
    """A display for the command in this context."""
    display = Display(verbosity())
    context.meta[_DISPLAY] = display
    try:
        with watching():
            yield
    finally:
        display.close()
        context.meta.pop(_DISPLAY, None)


def current_display() -> Display | None:
    """The display of the current command."""
    context = click.get_current_context(silent=True)
    return context.meta.get(_DISPLAY) if context else None


def clear() -> None:
    """Remove the bar of the command before something is printed."""
    display = current_display()
    if display:
        display.clear()


def end_display() -> None:
    """End the display of a command that keeps running, such as a server."""
    display = current_display()
    if display:
        display.close()


def step(what: str) -> None:
    """Show the name of a step whose length is unknown."""
    display = current_display()
    if display:
        display.report(what, 0, 0)


LOADING: Mapping[str, str] = MappingProxyType({"hash": "load the network, and convert it if it is new"})
"""The step after hashing in commands that run a network."""


@contextmanager
def progress_bar(
    resumes: bool = True, then: Mapping[str, str] = MappingProxyType({}), grace_s: float = GRACE_S
) -> Iterator[Callable[[str, int, int], None]]:
    """A progress callback for work that can be stopped between two reports.

    SIGINT and SIGTERM let the current step finish and raise StoppedError at its report, see `stopping`.
    resumes : whether the same command resumes. then : step -> the next step, which reports no progress.
    grace_s : seconds that a step may continue after a signal.
    """
    display = current_display()
    created = Display(verbosity()) if display is None else None
    shown = display or created
    assert shown is not None
    far = ["start", 0, 0]

    def how_far() -> str:
        shown.clear()
        after = "nothing is lost. Run the same command again to resume." if resumes else "no result was saved."
        return f"{far[0]}: {far[1]} of {far[2]} done; {after}"

    with stopping(how_far, grace_s) as check:

        def report(what: str, done: int, total: int) -> None:
            far[:] = what, done, total
            check()
            shown.report(what, done, total)
            if done >= total > 0 and what in then:
                shown.report(then[what], 0, 0)

        try:
            yield report
        finally:
            shown.clear()
            if created:
                created.close()


def echo(text: object) -> None:
    """Print an intermediate result on stdout without breaking the bar; nothing with `--quiet`."""
    if verbosity() > QUIET:
        clear()
        click.echo(wrap(str(text)))


def note(text: object) -> None:
    """Print a note, if any, on stderr without breaking the bar; nothing with `--quiet`."""
    if text and verbosity() > QUIET:
        clear()
        click.echo(wrap(str(text), err=True), err=True)


def ask(question: str) -> bool:
    """Ask the user; the default is no, also without a terminal."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    clear()
    return click.confirm(wrap(question, err=True), err=True)
