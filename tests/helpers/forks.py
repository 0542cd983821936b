"""Processes of one's own that need not import PyTorch again: forked from one that has."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

IMPORTED = ["featcache.extraction.extract", "featcache.finetuning.finetune", "featcache.vision.augment", "timm"]


def context() -> Any:
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(IMPORTED)  # what the first one of a run says holds
    return found


def fork(target: Callable[..., object], *arguments: object) -> multiprocessing.process.BaseProcess:
    """A process that has started."""
    process: multiprocessing.process.BaseProcess = context().Process(target=target, args=arguments)
    process.start()
    return process
