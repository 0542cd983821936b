"""Whether a checkpoint belongs to the same run: its configuration is compared with the requested one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from featcache._utils.formatting import format_differences
from featcache.core.model_card import CHECKPOINT
from featcache.core.specs import MAX_PIXELS
from featcache.errors import RunError
from featcache.finetuning.strategy import FineTuneStrategy
from featcache.training.checkpoint import load_config
from featcache.training.config import TrainConfig

_STOPPING_FIELDS = ("epochs", "patience")  # they only decide when training ends


def check_before_loading(out: Path, requested: Mapping[str, Any], allow_longer: bool) -> None:
    """Raise RunError if the folder holds a run with other settings, before images are read and a network is loaded.

    requested : the part of `FineTuneRun.config` that is known by then. allow_longer : see `check_same_settings`.
    """
    if (out / CHECKPOINT).exists():
        check_same_settings(out, complete_config(load_config(out / CHECKPOINT)), requested, allow_longer)


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
