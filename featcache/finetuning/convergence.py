"""Whether a training was long enough to judge its route by: its loss has levelled off, or the published recipe ran."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featcache.finetuning.presets import PRESETS
from featcache.finetuning.strategy import LP_FT_DEFAULTS
from featcache.training.config import TrainConfig

LEAST_EPOCHS = 6
"""Of fewer losses nobody can tell a slope from noise."""

LEAST_STEPS = 50
"""Of an optimizer: a published number of epochs on a handful of images is fewer than its recipe's authors ran."""

_LAST = 1 / 3  # of the epochs, at least three, are looked at
_REST = 0.05  # of all that the loss has fallen; so much in the last third is little
_UNLEARNT = 0.9  # of the loss of a guess: what stays above has learnt next to nothing


@dataclass(frozen=True)
class TrainingRun:
    """How long a live route trained.

    epochs, steps : that ran; a step is one batch. losses : mean training loss of each epoch, in nats. unfinished : why
    it cannot be judged; empty where it can, because its loss has levelled off or its published recipe ran.
    """

    epochs: int
    steps: int
    losses: tuple[float, ...]
    unfinished: str

    @classmethod
    def of(
        cls, losses: Sequence[float], recipe: Mapping[str, Any], train_images: int, classes: int, mode: str = "all"
    ) -> TrainingRun:
        """Judge a run by its history.

        Parameters
        ----------
        losses : mean training loss of each epoch. recipe : fields of `TrainConfig`. train_images : in an epoch. classes
            : of the data. mode : "all" or "head", see `finetune`.
        """
        guess = math.log(max(2, classes))
        steps = len(losses) * max(1, math.ceil(train_images / TrainConfig(**recipe).batch_size))
        published = published_epochs(recipe, mode)
        ran = published is not None and len(losses) >= published and steps >= LEAST_STEPS
        unfinished = "" if ran or has_levelled_off(losses, guess) else _why_unfinished(losses, guess)
        return cls(len(losses), steps, tuple(losses), unfinished)

    def __str__(self) -> str:
        epochs, steps = ("s" if count != 1 else "" for count in (self.epochs, self.steps))
        return f"{self.epochs} epoch{epochs} ({self.steps} step{steps})"


def _why_unfinished(losses: Sequence[float], guess: float) -> str:
    if len(losses) < LEAST_EPOCHS:
        return "too few to tell whether the training loss has levelled off"
    if not np.isfinite(losses).all():
        return "with a training loss that is no finite number"
    if np.mean(losses[-3:]) > _UNLEARNT * guess:
        return "and the training loss is still near that of a guess"
    return "and the training loss was still falling"


def has_levelled_off(losses: Sequence[float], guess: float = math.inf) -> bool:
    """Whether a training loss falls no more.

    The rule: there are 6 epochs or more; a straight line is fitted to the losses of the last third of them (at least
    three epochs); and what that line falls from its first epoch to its last is either no more than 5 % of what the loss
    has fallen since the first epoch, or no more than the noise, which is the standard deviation of the losses about
    the line. A loss that ends above 0.9 of a guess's has not learnt yet, however flat it is.

    Parameters
    ----------
    losses : one an epoch, in nats.
    guess : the loss of a model that knows nothing, ln c for c classes.

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
    if len(values) < LEAST_EPOCHS or not np.isfinite(values).all():
        return False
    last = values[-max(3, math.ceil(len(values) * _LAST)) :]
    epochs = np.arange(len(last)) - (len(last) - 1) / 2
    slope = float(epochs @ last / (epochs @ epochs))
    noise = float(np.sqrt(np.sum((last - last.mean() - slope * epochs) ** 2) / (len(last) - 2)))
    fall = -slope * (len(last) - 1)
    so_far = float(values[0] - last.mean())
    return bool(last.mean() <= _UNLEARNT * guess and fall <= max(_REST * so_far, noise, 1e-12))


def published_epochs(recipe: Mapping[str, Any], mode: str = "all") -> int | None:
    """The number of epochs that a recipe was published with: ours, or that of a preset; None of any other recipe."""
    wanted = TrainConfig(**recipe)
    known = [TrainConfig(), TrainConfig(**LP_FT_DEFAULTS)]
    for preset in PRESETS.values():
        known.append(dataclasses.replace(preset.recipe, lr=preset.head_lr if mode == "head" else preset.recipe.lr))
    return next((one.epochs for one in known if dataclasses.replace(wanted, epochs=one.epochs) == one), None)
