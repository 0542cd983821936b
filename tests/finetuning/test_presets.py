"""Presets: what is given wins over the preset, the preset over the defaults."""

from __future__ import annotations

import inspect
from typing import Any

import click
import pytest

from featcache.finetuning.finetune import finetune
from featcache.finetuning.pipelines.registry import LIVE_PIPELINES
from featcache.finetuning.presets import PRESETS, resolve
from featcache.training.config import TrainConfig, make_train_config
from featcache_cli.finetune import command


def test_without_a_preset_the_defaults_stand() -> None:
    assert resolve({"preset": None, "mode": "all"}) == {
        "mode": "all",
        "config": {},
    }


@pytest.mark.parametrize(
    ("name", "mode", "backbone", "augment", "config"),
    [
        ("pytorch-tutorial", "all", "resnet18", "tutorial", TrainConfig(25, 4, 1e-3, 0.9)),
        ("pytorch-tutorial", "head", "resnet18", "tutorial", TrainConfig(25, 4, 1e-3, 0.9)),
        ("gluon-hotdog", "all", "resnet18", "crop", TrainConfig(10, 64, 0.01, 0.0, 1e-3, schedule="constant")),
        ("mindspore-canidae", "all", "resnet50", "tutorial", TrainConfig(20, 24, 1e-3, schedule="constant")),
        ("mindspore-canidae", "head", "resnet50", "tutorial", TrainConfig(20, 24, 0.1, schedule="constant")),
    ],
)
def test_a_preset_is_the_tutorial_s(name: str, mode: str, backbone: str, augment: str, config: TrainConfig) -> None:
    assert resolve({"preset": name, "mode": mode}) == {
        "backbone": backbone,
        "augment": augment,
        "mode": mode,
        "config": config,
    }


@pytest.mark.parametrize("mode", ["all", "head"])
def test_what_is_given_wins(mode: str) -> None:
    overrides = {"lr": 0.5, "epochs": 2, "momentum": 0.0, "backbone": "toy", "augment": "none", "seed": 0}
    resolved = resolve({"preset": "mindspore-canidae", "mode": mode, "workers": None, **overrides})
    assert resolved == {
        "backbone": "toy",
        "augment": "none",
        "mode": mode,
        "seed": 0,
        "config": TrainConfig(2, 24, 0.5, 0.0, schedule="constant"),
    }


@pytest.mark.parametrize("name", [None, *PRESETS])
def test_finetune_takes_what_is_resolved(name: str | None) -> None:
    inspect.signature(finetune).bind("data", "out", **resolve({"preset": name, "mode": "head", "lr": 0.1}))


def test_a_preset_needs_no_mode() -> None:
    assert resolve({"preset": "gluon-hotdog"})["config"] == PRESETS["gluon-hotdog"].config


@pytest.mark.parametrize(
    ("settings", "lr"),
    [
        ({}, 0.01),
        ({"init_head": "head"}, 1e-4),
        ({"init_head": "head", "epochs": 2}, 1e-4),
        ({"init_head": "head", "lr": 0.5}, 0.5),
        ({"init_head": "head", "preset": "gluon-hotdog"}, 1e-4),
        ({"init_head": "head", "preset": "gluon-hotdog", "lr": 0.2}, 0.2),
    ],
)
def test_a_fitted_head_is_trained_on_at_a_low_rate(settings: dict[str, Any], lr: float) -> None:
    config = make_train_config(
        resolve({"mode": "all", **settings})["config"],
        LIVE_PIPELINES.get("image").default_config("all", "init_head" in settings),
    )
    assert config.lr == lr
    assert (config.optimizer == "adamw") == ("init_head" in settings)


def test_an_unknown_preset_is_refused_and_not_passed_over() -> None:
    settings: dict[str, Any] = {"preset": "pytorch-tutorials", "mode": "all"}
    with pytest.raises((KeyError, ValueError), match="pytorch-tutorials"):
        resolve(settings)


def test_the_command_offers_these_presets() -> None:
    (preset,) = [option for option in command.params if option.name == "preset"]
    assert isinstance(preset.type, click.Choice)
    assert tuple(preset.type.choices) == tuple(PRESETS)
