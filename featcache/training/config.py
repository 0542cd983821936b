"""`TrainConfig`: how to train, without PyTorch, so that a command can name it before PyTorch is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np

from featcache.errors import RunError

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["step", "cosine", "constant"]
ClassWeight = Literal["balanced"] | Mapping[str, float]


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults are the PyTorch tutorial's, for 10 epochs, with a larger batch and a higher rate.

    schedule : "step" multiplies lr by `gamma` every `step_size` epochs; "cosine" takes it to 0 over all epochs;
        "constant" leaves it.
    label_smoothing : share of a label's probability that goes to all classes, see `Objective`. class_weight : None,
        "balanced", or a dict of class name to weight, see `class_weights`.
    patience : stop after so many epochs in a row in which val neither rose above its best accuracy (of several labels,
        mean average precision) nor fell below its least loss; None never stops early.
    """

    epochs: int = 10
    batch_size: int = 32
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0
    optimizer: Optimizer = "sgd"
    schedule: Schedule = "step"
    step_size: int = 7
    gamma: float = 0.1
    label_smoothing: float = 0.0
    class_weight: ClassWeight | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "step_size", "patience"):
            value = getattr(self, name)
            if name == "patience" and value is None:
                continue
            if not isinstance(value, int):
                raise ValueError(f"{name} is {value!r}; it must be a whole number")
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more")
        for name, known in (("optimizer", get_args(Optimizer)), ("schedule", get_args(Schedule))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}")
        for name in ("lr", "momentum", "weight_decay", "gamma", "label_smoothing"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)):
                raise ValueError(f"{name} is {value!r}; it must be a number")
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}; it must be greater than 0")
        for name in ("momentum", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or greater")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it must be 0 or greater, and less than 1")
        check_class_weight(self.class_weight)
        if isinstance(self.class_weight, Mapping):  # NumPy's numbers are no JSON
            weights = {name: float(weight) for name, weight in self.class_weight.items()}
            object.__setattr__(self, "class_weight", weights)


def check_class_weight(class_weight: Any) -> None:
    """Raise ValueError for what is no class weight, whatever the classes are."""
    if class_weight is None or class_weight == "balanced":
        return
    if not isinstance(class_weight, Mapping):
        raise ValueError(f"class_weight is {class_weight!r}; it must be 'balanced' or a dict of class name to weight")
    for name, value in class_weight.items():
        number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
        if not isinstance(name, str) or not number or not 0 < value < np.inf:
            raise ValueError(f"class_weight has {name!r}: {value!r}; it takes class names and finite weights above 0")


def make_train_config(
    recipe: TrainConfig | Mapping[str, Any] | None, defaults: Mapping[str, Any] | None = None
) -> TrainConfig:
    """A recipe, from some of its fields perhaps.

    Parameters
    ----------
    recipe : a `TrainConfig`, which is given back; or a dict of fields. defaults : fields that are not its usual ones.

    Raises
    ------
    RunError : other fields, or values that cannot be.
    """
    if isinstance(recipe, TrainConfig):
        return recipe
    try:
        return TrainConfig(**{**(defaults or {}), **(recipe or {})})
    except (TypeError, ValueError) as error:
        known = ", ".join(field.name for field in fields(TrainConfig))
        raise RunError(f"recipe: {error}. It takes {known}.") from error
