"""The checkpoint of a training: one file, written whole or not at all, and loaded without running code from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from featcache.atomic import atomic_write, deferred_errors
from featcache.errors import RunError, first_line


def save_checkpoint(path: Path, state: dict[str, Any], config: dict[str, Any]) -> None:
    """Replace the checkpoint by one of this state. Raises OutputError; then the one before is still there.

    Parameters
    ----------
    state : plain values and tensors. config : of the run, JSON values.
    """
    with atomic_write(path) as file, deferred_errors(file) as writer:
        torch.save({**state, "config": json.dumps(config)}, writer)


def load_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state and the config. Raises RunError for a file that is damaged or that would run code, OSError."""
    return _load(path, mmap=False)


def load_config(path: Path) -> dict[str, Any]:
    """The config alone, without reading the tensors. Raises as `load_checkpoint`."""
    return _load(path, mmap=True)[1]


def _load(path: Path, mmap: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        return state, dict(json.loads(state["config"]))
    except (OSError, MemoryError):  # which say nothing about its content
        raise
    except Exception as error:  # truncated, empty, or a file that wants to run code
        raise RunError(
            f"{path} is not a checkpoint that can be loaded safely ({first_line(error)}). Remove it to start anew."
        ) from error
