"""A full disk without a disk, a kill at a chosen step, and a second writer at one."""

from __future__ import annotations

import fcntl
import gc
import itertools
import multiprocessing
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from featcache.cache import writer
from featcache.cache.format import lock
from featcache.errors import FeatcacheError
from featcache.vision import image_cache

_EVENTS = {"os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link", "os.symlink", "os.truncate", "os.chmod"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_FORK: Any = multiprocessing.get_context("fork")
Work = Callable[[Path], object]


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Files of this process cannot become larger than `size` bytes: a full disk without a disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Ended(NamedTuple):
    """How a process of `run_apart` ended.

    error : the name of the exception's class, "" where there was none. refused : whether it is a FeatcacheError.
    text : its message; of any other exception the traceback. errno : of an OSError. killed : by SIGKILL.
    """

    error: str = ""
    refused: bool = False
    text: str = ""
    errno: int | None = None
    killed: bool = False


class Apart:
    """Some work in a process of its own, forked from this one."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._ours, theirs = _FORK.Pipe(duplex=False)
        self._process = _FORK.Process(target=_answer, args=(work, theirs))
        self._process.start()
        theirs.close()

    def end(self) -> Ended:
        """Wait for it."""
        try:
            found = Ended(*self._ours.recv())
        except EOFError:
            found = Ended(killed=True)
        self._process.join()
        assert not found.killed or self._process.exitcode == -signal.SIGKILL
        return found


def _answer(work: Callable[[], object], pipe: Any) -> None:
    gc.disable()  # it would touch, and so copy, all memory that the processes share
    ended = Ended()
    try:
        work()
    except FeatcacheError as error:
        ended = Ended(type(error).__name__, True, str(error), getattr(error, "errno", None))
    except Exception as error:
        ended = Ended(type(error).__name__, False, f"{error}\n{traceback.format_exc()}", getattr(error, "errno", None))
    pipe.send(tuple(ended))


def run_apart(work: Callable[[], object]) -> Ended:
    """Run some work in a process of its own."""
    return Apart(work).end()


def watch_steps(folder: Path, step: Callable[[int], object]) -> None:
    """Call step(number) before each event of this process that changes a file system, or promises to have changed it.

    That are new, removed and renamed names below the folder, files opened for writing, rows written to a cache, room
    taken, and fsync. It cannot be undone: for processes of their own.
    """
    number, place = itertools.count(), os.fspath(folder)

    def is_below(path: object, descriptor: object) -> bool:
        return isinstance(path, str | os.PathLike) and (
            os.fspath(path).startswith(place) or (isinstance(descriptor, int) and descriptor >= 0)
        )

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if flags & _WRITES and is_below(path, None):
                step(next(number))
        elif event in _EVENTS and is_below(arguments[0], arguments[-1]):
            step(next(number))

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def stepping(*arguments: Any) -> Any:
            step(next(number))
            return call(*arguments)

        return stepping

    for module in (lock, writer, image_cache):
        module.write_at = watched(module.write_at)  # type: ignore[attr-defined]
    for name in ("fsync", "posix_fallocate"):
        setattr(os, name, watched(getattr(os, name)))
    sys.addaudithook(hear)


def killed_at(fatal: int, work: Work, folder: Path) -> Ended:
    """Run some work in a process that is killed with SIGKILL before its step of this number, if it comes that far."""

    def die(number: int) -> None:
        if number == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def act() -> None:
        watch_steps(folder, die)
        work(folder)

    return run_apart(act)


def two_at_once(pause: int, first: Work, second: Work, folder: Path) -> tuple[Ended, Ended, bool]:
    """Two processes at once: the first waits before its step of this number until the second has ended.

    Where the second waits for a lock, the first goes on then.

    Returns
    -------
    Ended
        Of the first.
    Ended
        Of the second.
    bool
        Whether the first came to that step.
    """
    there, go, came = _FORK.Event(), _FORK.Event(), _FORK.Event()

    def wait(number: int) -> None:
        if number == pause:
            came.set()
            there.set()
            go.wait()

    def act() -> None:
        watch_steps(folder, wait)
        try:
            first(folder)
        finally:
            there.set()

    def follow() -> None:
        flock = fcntl.flock

        def patient(file: Any, kind: int) -> None:
            try:
                flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if kind & fcntl.LOCK_NB:
                    raise
                go.set()
                flock(file, kind)

        fcntl.flock = patient  # type: ignore[assignment]
        second(folder)

    begun = Apart(act)
    there.wait()
    other = run_apart(follow)
    go.set()
    return begun.end(), other, came.is_set()
