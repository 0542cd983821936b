"""The checkpoint of a training: one file, written whole or not at all, and loaded without running code from it."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import torch

from featcache._utils.files import atomic_write, deferred_errors
from featcache._utils.zip_checksums import damaged_part
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
        if not mmap and (part := damaged_part(path)):
            raise ValueError(f"it is damaged: its part {part} does not have its checksum")
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        return state, dict(json.loads(state["config"]))
    except MemoryError:
        raise
    except Exception as error:  # truncated, empty, or a file that wants to run code
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # of a place that cannot be
            raise  # it says nothing about its content
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> RunError:
    """What to say of a checkpoint that does not hold what it should; PyTorch's own advice is to execute it."""
    why = "it is damaged, or would run code" if "weights_only" in str(error) else first_line(error)
    return RunError(f"{path} is not a checkpoint that can be loaded safely ({why}). Remove it to start anew.")
