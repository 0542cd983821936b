"""The checkpoint of a training run: one file, written whole or not at all. Loading it runs no code from it."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import torch

from featcache._utils.files import atomic_write, deferred_errors
from featcache._utils.zip_checksums import damaged_part
from featcache.errors import RunError, first_line

SAVE_EVERY_S = 300.0
"""Within an epoch, the state is saved after this many seconds, so that a kill loses little."""


def save_checkpoint(path: Path, state: dict[str, Any], config: dict[str, Any]) -> None:
    """Replace the checkpoint. If that fails, it raises OutputError and the previous checkpoint remains.

    Parameters
    ----------
    path : Path
    state : dict
        Plain values and tensors.
    config : dict
        The configuration of the run, JSON values.
    """
    with atomic_write(path) as file, deferred_errors(file) as writer:
        torch.save({**state, "config": json.dumps(config)}, writer)


def load_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load the state and the config. Raises RunError for a file that is damaged or would run code, and OSError."""
    return _load(path, mmap=False)


def load_config(path: Path) -> dict[str, Any]:
    """Load only the config, without reading the tensors. Raises as `load_checkpoint` does."""
    return _load(path, mmap=True)[1]


def _load(path: Path, mmap: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        if not mmap and (part := damaged_part(path)):
            raise ValueError(f"it is damaged: the checksum of its part {part} is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        return state, dict(json.loads(state["config"]))
    except MemoryError:
        raise
    except Exception as error:  # truncated, empty, or a file that would run code
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # torch seeks to impossible offsets
            raise  # the file could not be read; its content may be valid
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> RunError:
    """The error for a checkpoint with wrong content. PyTorch's own message advises to run the code in it."""
    reason = "it is damaged, or would run code" if "weights_only" in str(error) else first_line(error)
    return RunError(f"{path} is not a checkpoint that can be loaded safely ({reason}). Delete it to start again.")
