"""`RunLogs`: the metrics of a fine-tuning run as JSON lines, and for TensorBoard.

The record of a run is its checkpoint. A log repeats it: a run that resumes writes its logs anew, so that no epoch is in
them twice, and none that a killed process did not save.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from featcache._utils.environment import check_packages
from featcache._utils.files import write_file
from featcache._utils.formatting import join_words, json_safe
from featcache.errors import RunError
from featcache.training.loop import TrainState

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LogFormat = Literal["jsonl", "tensorboard"]

JSONL, TENSORBOARD = "log.jsonl", "tensorboard"
"""Their names in the folder of a run."""


class _Log(Protocol):
    def write(self, state: TrainState) -> None:
        """Bring the log to the epochs of the state."""

    def close(self) -> None:
        """Finish the file."""


class RunLogs:
    """The logs of one run.

    Parameters
    ----------
    folder : Path
        That of the run.
    formats : sequence of str
        "jsonl" and "tensorboard". The logs that the folder has go on in any case.

    Raises
    ------
    RunError
        There is no such format.
    MissingExtraError
        tensorboard is not installed.
    """

    def __init__(self, folder: Path, formats: Sequence[str]) -> None:
        self._folder = folder
        self._requested = check_formats(formats)
        self._logs: list[_Log] | None = None

    def remove(self) -> None:
        """Remove those of an earlier run."""
        (self._folder / JSONL).unlink(missing_ok=True)
        shutil.rmtree(self._folder / TENSORBOARD, ignore_errors=True)

    def write(self, state: TrainState) -> None:
        """Bring the logs to the epochs of the state."""
        if self._logs is None:
            self._logs = []
            if "jsonl" in self._requested or (self._folder / JSONL).exists():
                self._logs.append(_JsonLines(self._folder / JSONL))
            if "tensorboard" in self._requested or (self._folder / TENSORBOARD).exists():
                self._logs.append(_TensorBoard(self._folder / TENSORBOARD))
        for log in self._logs:
            log.write(state)

    def close(self) -> None:
        """Finish the files."""
        for log in self._logs or []:
            log.close()


def check_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """The formats, each once. Raises RunError for an unknown one, MissingExtraError if a package is not installed."""
    known = get_args(LogFormat)
    names = tuple(dict.fromkeys([formats] if isinstance(formats, str) else formats))
    for name in names:
        if name not in known:
            raise RunError(f"log is {name!r}; it must be {join_words(known, 'or')}")
    if "tensorboard" in names:
        check_packages("log='tensorboard'", ["tensorboard"], "tensorboard")
    return names


class _JsonLines:
    """A line for each step and each epoch. The file is replaced after each epoch, so that it is always whole."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, state: TrainState) -> None:
        lines = [json.dumps(json_safe(record)) for record in _records(state)]
        write_file(self._path, "".join(f"{line}\n" for line in lines).encode())

    def close(self) -> None:
        pass


class _TensorBoard:
    """An event file, to which each epoch is appended, as TensorBoard expects it. A run that resumes begins anew."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None
        self._epochs = 0

    def write(self, state: TrainState) -> None:
        if self._writer is None:
            check_packages("log='tensorboard'", ["tensorboard"], "tensorboard")
            from torch.utils.tensorboard import SummaryWriter

            shutil.rmtree(self._folder, ignore_errors=True)
            self._writer = SummaryWriter(str(self._folder))
        for record in _records(state):
            if record["epoch"] > self._epochs:
                place = record["step" if "step_loss" in record else "epoch"]
                for tag, value in _scalars(record):
                    self._writer.add_scalar(tag, value, place)
        self._epochs = len(state.history)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _records(state: TrainState) -> Iterator[dict[str, Any]]:
    """The loss of each step, and after those of an epoch its metrics. Steps are counted from the start of the run."""
    step = 0
    for metrics, losses in zip(state.history, state.step_losses, strict=True):
        for loss in losses:
            step += 1
            yield {"epoch": metrics.epoch, "step": step, "step_loss": loss}
        fields = {name: value for name, value in vars(metrics).items() if value is not None}
        yield {"epoch": metrics.epoch, "step": step, **fields}


def _scalars(record: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Tags of TensorBoard: those of val stand in a group, and those of training in another."""
    for name, value in record.items():
        if name in ("lr", "seconds"):
            yield name, value
        elif name not in ("epoch", "step"):
            yield f"val/{name.removeprefix('val_')}" if name.startswith("val_") else f"train/{name}", value
