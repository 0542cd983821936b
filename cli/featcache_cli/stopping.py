"""SIGINT and SIGTERM: the step under way may finish; they end the command within a second, in training within nine.

1. The next report of progress raises `StoppedError`: nothing of the step is lost.
2. Where none comes within `GRACE_S`, in training `TRAINING_GRACE_S`, the main thread is interrupted by `LateStop`, as
   by a second Ctrl-C.
3. Where it does not come back from a library in C either, the process ends, as after SIGKILL: every file survives that.

A server has handlers and a time limit of its own: `exit_on_signal` gives its exit code.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

GRACE_S = 0.7
"""For the step under way."""

TRAINING_GRACE_S = 8.0
"""For a training step, which takes seconds for a large network on a CPU. What stops containers waits ten."""

_MARGIN_S = 0.25  # for Python to take the interruption; both together are less than a second
_BY_DEFAULT = signal.default_int_handler


class StoppedError(Exception):
    """SIGINT or SIGTERM came. `str(error)` says how far the work is, and what is left of it."""

    def __init__(self, number: int, how_far: str) -> None:
        super().__init__(how_far)
        self.exit_code = 128 + number


class LateStop(KeyboardInterrupt):
    """The same, within a step that was not finished. What handles the errors of a picture lets it pass."""

    def __init__(self, number: int, how_far: str) -> None:
        super().__init__(how_far)
        self.exit_code = 128 + number


_answered = threading.Event()  # Python has run a handler of the signal
_grace = [GRACE_S]  # of the step under way; read by the thread that watches


@contextmanager
def stopping(how_far: Callable[[], str], grace_s: float = GRACE_S) -> Iterator[Callable[[], None]]:
    """While this is open, SIGINT and SIGTERM let the step under way finish; a second one ends at once.

    Parameters
    ----------
    how_far : callable
        Says how far the work is, for the message.
    grace_s : float, default GRACE_S
        Seconds that a step may go on after a signal.

    Yields
    ------
    callable
        To be called between two steps. It raises StoppedError after a signal.
    """
    signals: list[int] = []
    before: dict[int, Any] = {}
    timer = getattr(signal, "SIGALRM", None)

    def stop(number: int, _frame: FrameType | None) -> None:
        _answered.set()
        signals.append(number)
        signal.signal(number, before[number])
        if timer is not None:
            signal.signal(timer, interrupt)
            signal.setitimer(signal.ITIMER_REAL, grace_s)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise LateStop(signals[0], how_far())

    def check() -> None:
        if signals:
            _disarm(timer)
            raise StoppedError(signals[0], how_far())

    if threading.current_thread() is threading.main_thread():  # Python handles signals nowhere else
        before = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}  # as of `&`
        for number in before:
            signal.signal(number, stop)
    outer, _grace[0] = _grace[0], grace_s
    try:
        yield check
    finally:
        _grace[0] = outer
        if signals:
            _disarm(timer)
        for number, handler in before.items():
            signal.signal(number, handler)


def _disarm(timer: int | None) -> None:
    if timer is not None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(timer, signal.SIG_DFL)


def exit_on_signal(number: int, message: str) -> None:
    """From now on the signal interrupts the main thread at once, with its own exit code.

    SIGINT stays ignored where it is: a shell does so for what runs in the background.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        _answered.set()
        raise LateStop(number, message)

    if signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, interrupt)


@contextmanager
def watching() -> Iterator[None]:
    """While this is open, a signal that Python does not get to handle within a second ends the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    _answered.clear()
    handler = signal.getsignal(signal.SIGINT)
    if handler is _BY_DEFAULT:
        signal.signal(signal.SIGINT, _interrupt)
    old = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(old)
        if handler is _BY_DEFAULT:
            signal.signal(signal.SIGINT, handler)
        _answered.set()
        os.close(writing)
        watcher.join()
        os.close(reading)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _answered.set()
    _BY_DEFAULT(number, frame)


def _watch(reading: int) -> None:
    while numbers := os.read(reading, 1):
        number = numbers[0]
        if number not in (signal.SIGINT, signal.SIGTERM) or _has_foreign_handler(signal.getsignal(number)):
            continue
        if not _answered.wait(_grace[0] + _MARGIN_S):
            with suppress(OSError, ValueError):
                sys.stderr.write("Stopped at once.\n")
                sys.stderr.flush()
            os._exit(128 + number)


def _has_foreign_handler(handler: Any) -> bool:
    """Whether a library, such as a web server, handles the signal: it ends in its own time."""
    return callable(handler) and handler is not _BY_DEFAULT and handler.__module__ != __name__
