"""A full disk without a disk, and a kill at a chosen step."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_STEPS = ("replace", "rename", "link", "unlink", "fsync")
"""Calls of `os` that change which file has which name, or promise that it is on the disk."""


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Files of this process cannot become larger than `size` bytes: a full disk without a disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def steps_counted(fatal: int = -1) -> Iterator[list[int]]:
    """Count the steps of this process; kill it with SIGKILL before the one of number `fatal`."""
    count = [0]

    def watched(step: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if count[0] == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            count[0] += 1
            return step(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in _STEPS:
            patch.setattr(os, name, watched(getattr(os, name)))
        yield count


def killed_at(fatal: int, action: Callable[[Path], object], folder: Path) -> bool:
    """Run an action in a process that is killed before its step of number `fatal`; whether it came that far."""

    def act() -> None:
        with steps_counted(fatal):
            action(folder)

    process = multiprocessing.get_context("fork").Process(target=act)
    process.start()
    process.join()
    return process.exitcode == -signal.SIGKILL
