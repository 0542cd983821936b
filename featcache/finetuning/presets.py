"""`PRESETS`: the published settings of three tutorials."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featcache.core.specs import Augment
from featcache.errors import RunError
from featcache.finetuning.strategy import LP_FT_DEFAULTS
from featcache.training.config import TrainConfig


@dataclass(frozen=True)
class Preset:
    """Backbone, augmentation and training configuration of a tutorial, and its learning rate for a head alone."""

    backbone: str
    augment: Augment
    config: TrainConfig
    head_lr: float


PRESETS = {
    "pytorch-tutorial": Preset(
        # PyTorch, Transfer Learning for Computer Vision: ants and bees
        "resnet18",
        "tutorial",
        TrainConfig(epochs=25, batch_size=4, lr=1e-3, momentum=0.9, schedule="step", step_size=7),
        head_lr=1e-3,
    ),
    "gluon-hotdog": Preset(
        # Gluon, The Straight Dope, fine-tuning: hot dog or not
        "resnet18",
        "crop",
        TrainConfig(epochs=10, batch_size=64, lr=0.01, momentum=0.0, weight_decay=1e-3, schedule="constant"),
        head_lr=0.01,
    ),
    "mindspore-canidae": Preset(
        # MindSpore, ResNet50 transfer learning: dogs and wolves
        "resnet50",
        "tutorial",
        TrainConfig(epochs=20, batch_size=24, lr=1e-3, momentum=0.9, schedule="constant"),
        head_lr=0.1,
    ),
}


def resolve(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `finetune`. A setting that is None comes from the preset; without one it has its default.

    Parameters
    ----------
    settings : dict
        "preset", fields of `TrainConfig` and other arguments of `finetune`.
    """
    arguments = {name: value for name, value in settings.items() if value is not None}
    name = arguments.pop("preset", None)
    if name is not None and name not in PRESETS:
        raise RunError(f"there is no preset {name!r}; use {', '.join(PRESETS)}")
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    config_fields = {name: arguments.pop(name) for name in fields & arguments.keys()}
    if name is None:
        return {**arguments, "config": config_fields}
    preset = PRESETS[name]
    config = preset.config
    if arguments.get("mode") == "head":
        config = dataclasses.replace(config, lr=preset.head_lr)
    if "init_head" in arguments:  # the tutorials begin with a random head
        config = dataclasses.replace(config, **LP_FT_DEFAULTS)
    return {
        "backbone": preset.backbone,
        "augment": preset.augment,
        **arguments,
        "config": dataclasses.replace(config, **config_fields),
    }
