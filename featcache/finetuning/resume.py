"""Whether a checkpoint belongs to the same run: its configuration is compared with the requested one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from featcache._utils.formatting import format_differences
from featcache.core.model_card import CHECKPOINT
from featcache.core.options import TextOptions, ViewOptions, select
from featcache.core.specs import MAX_PIXELS, live_augment
from featcache.errors import RunError
from featcache.finetuning.pipelines.registry import LIVE_PIPELINES
from featcache.finetuning.strategy import FineTuneStrategy, Mode
from featcache.training.checkpoint import load_config
from featcache.training.config import TrainConfig, make_train_config

_STOPPING_FIELDS = ("epochs", "patience")  # they only decide when training ends


def check_before_loading(
    out: Path,
    backbone: Any,
    mode: Mode,
    config: TrainConfig | Mapping[str, Any] | None,
    options: Mapping[str, Any],
    allow_longer: bool,
) -> None:
    """Raise RunError if the folder holds a run with other settings, before samples are read and a network is loaded.

    The modality is taken to be that of the run; data of another one is refused later. allow_longer : see
    `check_same_settings`. The other parameters are those of `finetune`.
    """
    if not (out / CHECKPOINT).exists():
        return
    existing = complete_config(load_config(out / CHECKPOINT))
    modality = existing.get("modality", "image")
    defaults = LIVE_PIPELINES.get(modality).default_config(mode, options["init_head"] is not None)
    requested: dict[str, Any] = {"backbone": backbone if isinstance(backbone, str) else None}
    requested |= {**select(ViewOptions, options), **select(TextOptions, options), "value_range": None}  # known later
    requested = {name: value for name, value in requested.items() if value is not None}
    requested |= {"augment": live_augment(options["augment"], modality), "train": mode}
    requested |= {"max_pixels": options["max_pixels"], **asdict(make_train_config(config, defaults))}
    check_same_settings(out, existing, requested, allow_longer)


def check_same_settings(
    out: Path, existing: Mapping[str, Any], requested: Mapping[str, Any], allow_longer: bool
) -> list[str]:
    """The names of the settings that differ. Raises RunError unless none does, or a longer training is allowed.

    allow_longer : whether the requested training may have more epochs or more patience.
    """
    differing = [name for name, value in requested.items() if existing.get(name) != value]
    limits = [(existing[name], requested[name]) for name in _STOPPING_FIELDS]
    is_longer = all(new is None or (old is not None and new >= old) for old, new in limits)
    only_longer = is_longer and set(differing) <= set(_STOPPING_FIELDS)
    if differing and not (allow_longer and only_longer):
        texts = format_differences((name, existing.get(name), requested[name]) for name in differing)
        remedy = "Resume with the same settings, give another folder, or begin again with --overwrite."
        if only_longer:
            remedy = "To train it longer, add --resume; or give another folder."
        raise RunError(f"{out} was run with {texts}. {remedy}")
    return differing


def complete_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a checkpoint, with the defaults of fields that runs of older versions lack."""
    return {**FineTuneStrategy().config(), **asdict(TrainConfig()), "max_pixels": MAX_PIXELS, **config}
