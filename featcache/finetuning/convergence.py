"""Whether a training run was long enough to judge its route: its loss has levelled off, or it ran as published."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featcache.finetuning.pipelines.registry import LIVE_PIPELINES
from featcache.finetuning.presets import PRESETS
from featcache.training.config import TrainConfig

MIN_EPOCHS = 6
"""With fewer losses, a slope cannot be distinguished from noise."""

MIN_STEPS = 50
"""Of the optimizer. On few images, the published number of epochs has fewer steps than the authors ran."""

_LAST_FRACTION = 1 / 3  # of the epochs, at least three
_MAX_FALL = 0.05  # in these epochs, as a fraction of the fall since the first epoch
_UNTRAINED_LOSS = 0.9  # of the loss of a guess: a model above it has hardly been trained


@dataclass(frozen=True)
class TrainingRun:
    """How long a live route trained.

    Attributes
    ----------
    epochs, steps : int
        That were trained; a step is one batch.
    losses : tuple of float
        The mean training loss of each epoch, in nats.
    unfinished : str
        Why it cannot be judged. Empty if it can: its loss has levelled off, or it ran as published.
    """

    epochs: int
    steps: int
    losses: tuple[float, ...]
    unfinished: str

    @classmethod
    def from_history(
        cls, losses: Sequence[float], config: Mapping[str, Any], train_images: int, classes: int, mode: str = "all"
    ) -> TrainingRun:
        """Judge a run by its history.

        Parameters
        ----------
        losses : sequence of float
            The mean training loss of each epoch.
        config : dict
            Fields of `TrainConfig`.
        train_images : int
            In an epoch.
        classes : int
            How many.
        mode : {"all", "head"}
            See `finetune`.
        """
        guess = math.log(max(2, classes))
        steps = len(losses) * max(1, math.ceil(train_images / TrainConfig(**config).batch_size))
        published = published_epochs(config, mode)
        ran = published is not None and len(losses) >= published and steps >= MIN_STEPS
        unfinished = "" if ran or has_levelled_off(losses, guess) else _why_unfinished(losses, guess)
        return cls(len(losses), steps, tuple(losses), unfinished)

    def __str__(self) -> str:
        epochs, steps = ("s" if count != 1 else "" for count in (self.epochs, self.steps))
        return f"{self.epochs} epoch{epochs} ({self.steps} step{steps})"


def _why_unfinished(losses: Sequence[float], guess: float) -> str:
    if len(losses) < MIN_EPOCHS:
        return "too few to tell whether the training loss has levelled off"
    if not np.isfinite(losses).all():
        return "with a training loss that is not finite"
    if np.mean(losses[-3:]) > _UNTRAINED_LOSS * guess:
        return "and the training loss is still near that of a guess"
    return "and the training loss was still falling"


def has_levelled_off(losses: Sequence[float], guess: float = math.inf) -> bool:
    """Whether a training loss no longer falls.

    A straight line is fitted to the losses of the last third of the epochs, at least three. The loss has levelled off
    if that line falls by at most 5 % of the fall since the first epoch, or by at most the standard deviation of the
    losses about the line. With fewer than 6 epochs, or a loss above 0.9 of a guess's, it has not.

    Parameters
    ----------
    losses : sequence of float
        The loss of each epoch, in nats.
    guess : float
        The loss of a guess, ln c for c classes. Default: infinite.

    Returns
    -------
    bool

    Examples
    --------
    >>> has_levelled_off([0.7, 0.4, 0.3, 0.26, 0.25, 0.25, 0.25, 0.25, 0.25])
    True
    >>> has_levelled_off([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    False
    """
    values = np.asarray(losses, np.float64)
    if len(values) < MIN_EPOCHS or not np.isfinite(values).all():
        return False
    last = values[-max(3, math.ceil(len(values) * _LAST_FRACTION)) :]
    epochs = np.arange(len(last)) - (len(last) - 1) / 2
    slope = float(epochs @ last / (epochs @ epochs))
    noise = float(np.sqrt(np.sum((last - last.mean() - slope * epochs) ** 2) / (len(last) - 2)))
    fall = -slope * (len(last) - 1)
    total_fall = float(values[0] - last.mean())
    return bool(last.mean() <= _UNTRAINED_LOSS * guess and fall <= max(_MAX_FALL * total_fall, noise, 1e-12))


def published_epochs(config: Mapping[str, Any], mode: str = "all") -> int | None:
    """The epochs of the defaults or the preset that equals `config` in all but the epochs. None if there is none."""
    requested = TrainConfig(**config)
    pipelines = [LIVE_PIPELINES.get(modality) for modality in LIVE_PIPELINES.registered()]
    defaults = [pipeline.default_config("all", has_head) for pipeline in pipelines for has_head in (False, True)]
    published = [TrainConfig(**fields) for fields in defaults]
    for preset in PRESETS.values():
        lr = preset.head_lr if mode == "head" else preset.config.lr
        published.append(dataclasses.replace(preset.config, lr=lr))
    return next(
        (config.epochs for config in published if dataclasses.replace(requested, epochs=config.epochs) == config), None
    )
