"""`TrainConfig`: how to train. It imports no PyTorch, so that a command can check its options before that import."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, TypedDict, get_args

from featcache.core.options import Option, describe_options, with_defaults
from featcache.errors import RunError

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["step", "cosine", "constant"]
ClassWeight = Literal["balanced"] | Mapping[str, float]


class TrainOptions(TypedDict, total=False):
    """How to train a network."""

    epochs: Annotated[int, Option(10, "Number of epochs to train.")]
    batch_size: Annotated[int, Option(32, "Samples in a batch.")]
    lr: Annotated[float, Option(0.01, "Learning rate at the start.")]
    head_lr: Annotated[
        float | None,
        Option(None, "Learning rate of the head at the start, where a whole network is trained.", none="as lr"),
    ]
    momentum: Annotated[float, Option(0.9, "Momentum of sgd.")]
    weight_decay: Annotated[float, Option(0.0, "Weight decay of the optimizer.")]
    optimizer: Annotated[Optimizer, Option("sgd", "Optimizer of the weights.")]
    schedule: Annotated[
        Schedule,
        Option(
            "step",
            "How the learning rate changes: step multiplies it by gamma every step_size epochs, cosine lowers it to 0 "
            "over all epochs, constant does not change it.",
        ),
    ]
    step_size: Annotated[int, Option(7, "Epochs between two steps of the schedule step.")]
    gamma: Annotated[float, Option(0.1, "Factor of each step of the schedule step.")]
    label_smoothing: Annotated[
        float, Option(0.0, "Fraction of a label's probability that is spread over all classes, 0 <= value < 1.")
    ]
    class_weight: Annotated[
        ClassWeight | None,
        Option(
            None,
            "Weights of classes: balanced gives all classes the same total weight; numbers by class name, 1 for "
            "classes that are not named.",
            none="all samples have the same weight",
        ),
    ]
    patience: Annotated[
        int | None,
        Option(
            None,
            "Stop after this many epochs in a row in which val neither exceeded its best accuracy (with several labels "
            "a sample: mean average precision) nor fell below its lowest loss.",
            none="never",
        ),
    ]


_DEFAULTS = with_defaults(TrainOptions, {})


@describe_options(TrainOptions)
@dataclass(frozen=True)
class TrainConfig:
    """How to train a network. The defaults are the PyTorch tutorial's for 10 epochs, with a larger batch and rate.

    Parameters
    ----------
    {options}

    Raises
    ------
    ValueError
        A value that is out of range.

    Examples
    --------
    >>> from featcache import TrainConfig
    >>> TrainConfig(epochs=5, schedule="cosine").lr
    0.01
    """

    epochs: int = _DEFAULTS["epochs"]
    batch_size: int = _DEFAULTS["batch_size"]
    lr: float = _DEFAULTS["lr"]
    momentum: float = _DEFAULTS["momentum"]
    weight_decay: float = _DEFAULTS["weight_decay"]
    optimizer: Optimizer = _DEFAULTS["optimizer"]
    schedule: Schedule = _DEFAULTS["schedule"]
    step_size: int = _DEFAULTS["step_size"]
    gamma: float = _DEFAULTS["gamma"]
    label_smoothing: float = _DEFAULTS["label_smoothing"]
    class_weight: ClassWeight | None = _DEFAULTS["class_weight"]
    patience: int | None = _DEFAULTS["patience"]
    head_lr: float | None = _DEFAULTS["head_lr"]

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "step_size", "patience"):
            value = getattr(self, name)
            if name == "patience" and value is None:
                continue
            if not isinstance(value, int):
                raise ValueError(f"{name} is {value!r}; it must be a whole number")
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more")
        for name, choices in (("optimizer", get_args(Optimizer)), ("schedule", get_args(Schedule))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}")
        for name in ("lr", "head_lr", "momentum", "weight_decay", "gamma", "label_smoothing"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) and (name, value) != ("head_lr", None):
                raise ValueError(f"{name} is {value!r}; it must be a number")
        for name in ("lr", "head_lr"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be greater than 0")
        for name in ("momentum", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or greater")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it must be 0 or greater, and less than 1")
        check_class_weight(self.class_weight)
        if isinstance(self.class_weight, Mapping):  # NumPy's numbers are not JSON
            weights = {name: float(weight) for name, weight in self.class_weight.items()}
            object.__setattr__(self, "class_weight", weights)


def check_class_weight(class_weight: Any) -> None:
    """Raise ValueError for a value that is not a class weight for any classes."""
    if class_weight is None or class_weight == "balanced":
        return
    if not isinstance(class_weight, Mapping):
        raise ValueError(f"class_weight is {class_weight!r}; it must be 'balanced' or a dict of class name to weight")
    for name, value in class_weight.items():
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not isinstance(name, str) or not is_number or not 0 < value < math.inf:
            raise ValueError(f"class_weight has {name!r}: {value!r}; it takes class names and finite weights above 0")


def make_train_config(
    config: TrainConfig | Mapping[str, Any] | None, defaults: Mapping[str, Any] | None = None
) -> TrainConfig:
    """A `TrainConfig`, perhaps from some of its fields.

    Parameters
    ----------
    config : TrainConfig or dict
        A `TrainConfig` is returned unchanged. A dict gives some of the fields.
    defaults : dict, optional
        Values of fields that `config` does not give, instead of the defaults of `TrainConfig`.

    Raises
    ------
    RunError
        An unknown field, or a value that is out of range.
    """
    if isinstance(config, TrainConfig):
        return config
    try:
        return TrainConfig(**{**(defaults or {}), **(config or {})})
    except (TypeError, ValueError) as error:
        names = ", ".join(field.name for field in fields(TrainConfig))
        raise RunError(f"the training configuration: {error}. Its fields are {names}.") from error
