"""SIGINT and SIGTERM let the current step finish, and end the command within a second (in training, nine).

1. The next report of progress raises `StoppedError`: nothing of the step is lost.
2. Without a report within `GRACE_S` (in training, `TRAINING_GRACE_S`), or after a second Ctrl-C, `LateStop` interrupts
   the main thread.
3. If a C library does not return to Python, the process ends as after SIGKILL; all files stay valid.

A server has its own handlers and time limit; `exit_on_signal` sets its exit code.
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
"""Seconds for the current step after a signal."""

TRAINING_GRACE_S = 8.0
"""Seconds for a training step, which is slow for a large network on a CPU. Docker and Kubernetes wait ten or more."""

_MARGIN_S = 0.25  # for Python to handle the interruption; with GRACE_S less than a second
_BY_DEFAULT = signal.default_int_handler


class StoppedError(Exception):
    """SIGINT or SIGTERM arrived. `str(error)` is the progress so far, and what was kept."""

    def __init__(self, number: int, how_far: str) -> None:
        super().__init__(how_far)
        self.exit_code = 128 + number


class LateStop(KeyboardInterrupt):
    """SIGINT or SIGTERM in an unfinished step. It is not an Exception: handlers of image errors do not catch it."""

    def __init__(self, number: int, how_far: str) -> None:
        super().__init__(how_far)
        self.exit_code = 128 + number


_answered = threading.Event()  # Python has run a handler of the signal
_grace = [GRACE_S]  # of the current step; the watcher thread reads it


@contextmanager
def stopping(how_far: Callable[[], str], grace_s: float = GRACE_S) -> Iterator[Callable[[], None]]:
    """In this context SIGINT and SIGTERM let the current step finish; a second signal ends the command at once.

    Parameters
    ----------
    how_far : callable
        Returns the progress so far, for the message.
    grace_s : float, default GRACE_S
        Seconds that a step may continue after a signal.

    Yields
    ------
    callable
        Call it between two steps: it raises StoppedError after a signal.
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

    if threading.current_thread() is threading.main_thread():  # Python handles signals only there
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
    """From now on, the signal interrupts the main thread at once, and sets its exit code.

    An ignored SIGINT stays ignored: a shell ignores it for background processes.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        _answered.set()
        raise LateStop(number, message)

    if signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, interrupt)


@contextmanager
def watching() -> Iterator[None]:
    """In this context a signal that Python does not handle within a second ends the process."""
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
    """Whether a library, such as a web server, handles the signal and has its own time limit."""
    return callable(handler) and handler is not _BY_DEFAULT and handler.__module__ != __name__
