"""A new option is one field and one line of the command line: what `--interpolation` and those of heads reach so."""

from __future__ import annotations

import ast
import inspect
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands import ROOT, SMALL, done, featcache_cli
from featcache.analysis.benchmark.compare import benchmark
from featcache.analysis.benchmark.routes import BenchmarkOptions, routes_for, tasks_for_route
from featcache.analysis.planning.rates import measure_rates
from featcache.cache.feature_cache import FeatureCache
from featcache.core.head_options import HeadFitOptions, HeadOptions
from featcache.core.options import fields_of, with_defaults
from featcache.extraction.estimate import estimate
from featcache.extraction.extract import extract
from featcache.finetuning.finetune import finetune
from featcache.finetuning.strategy import StrategyOptions
from featcache.heads.fit_head import fit_head
from featcache.heads.training_data import FitOptions
from featcache.reports.commands import extract_command
from featcache.training.config import TrainConfig, TrainOptions
from featcache_cli import finetune as finetune_command
from featcache_cli import fit_head as fit_head_command
from toys import toy_backbone

HELP: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
"""As the program has them: a command remembers those of its first context."""


@pytest.mark.parametrize("function", [extract, estimate, measure_rates, benchmark, finetune])
def test_every_function_takes_it_with_its_default(function: Callable[..., object]) -> None:
    assert inspect.signature(function).parameters["interpolation"].default is None
    assert "interpolation : {'bilinear', 'bicubic'} or None, default None\n" in (inspect.getdoc(function) or "")


@pytest.mark.parametrize("name", ["extract", "plan", "benchmark", "finetune"])
def test_every_command_offers_it(name: str) -> None:
    assert "--interpolation [bilinear|bicubic]" in done(name, "--help")


def test_it_decides_the_features_and_is_repeated(split_folder: Path, tmp_path: Path) -> None:
    toy = toy_backbone()
    usual = extract(split_folder, tmp_path / "usual.h5", backbone=toy, views=1).cache
    cubic = extract(split_folder, tmp_path / "cubic.h5", backbone=toy, views=1, interpolation="bicubic").cache
    assert (usual.spec.view.interpolation, cubic.spec.view.interpolation) == ("bilinear", "bicubic")
    assert (usual.features("train").x != cubic.features("train").x).any()
    assert extract(split_folder, tmp_path / "same.h5", backbone=toy, views=1, interpolation="bilinear").cache.spec == (
        usual.spec
    )
    assert estimate(split_folder, tmp_path / "cubic.h5", backbone=toy, views=1, interpolation="bicubic").views == 0
    command = shlex.split(extract_command(cubic.spec, cubic.provenance, "photos", "c.h5"))
    assert command[command.index("--interpolation") + 1] == "bicubic"


def test_the_command_line_extracts_with_it(split_folder: Path, tmp_path: Path) -> None:
    result = featcache_cli("extract", split_folder, "-o", tmp_path / "c.h5", "--views", 0, "--interpolation", "bicubic",
                           *SMALL)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert FeatureCache.open(tmp_path / "c.h5").spec.view.interpolation == "bicubic"


@pytest.mark.parametrize("route", routes_for("image"))
def test_every_task_of_a_benchmark_has_it_where_it_is_set(route: str, tmp_path: Path) -> None:
    settings = {**with_defaults(BenchmarkOptions, {}), "data": "d", "backbone": "b", "head": "linear", "recipe": {}}
    settings["train_precision"] = "fp32"
    for interpolation in ("bicubic", None):
        tasks = tasks_for_route(
            route, tmp_path, 0, json.loads(json.dumps({**settings, "interpolation": interpolation}))
        )
        assert {task.get("interpolation") for task in tasks if task["task"] != "fit-head"} == {interpolation}


def test_it_is_named_nowhere_else() -> None:
    """In the code that only hands options on; where pixels are resized, it is the name of an argument."""
    handing_on = ["analysis/benchmark", "analysis/planning", "extraction", "reports", "cache", "data"]
    files = [path for room in handing_on for path in (ROOT / "featcache" / room).rglob("*.py")]
    files += (ROOT / "cli/featcache_cli").glob("*.py")
    named = {
        path.relative_to(ROOT).as_posix(): sum(
            "interpolation" in str(getattr(node, "value", getattr(node, "id", ""))) for node in ast.walk(tree)
        )
        for path in files
        if (tree := ast.parse(path.read_text(encoding="utf-8")))
    }
    assert {name for name, count in named.items() if count} == {
        "cli/featcache_cli/options.py",
        "featcache/extraction/pipelines/image.py",  # the options of images
    }


@pytest.mark.parametrize("name", fields_of(HeadOptions))
def test_an_option_of_a_head_reaches_function_and_command(name: str) -> None:
    field = fields_of(HeadOptions)[name]
    assert inspect.signature(fit_head).parameters[name] == field.parameter
    assert field.paragraph().splitlines()[0] + "\n" in (inspect.getdoc(fit_head) or "")
    option = next(each for each in fit_head_command.command.params if each.name == name)
    assert (option.help or "").startswith(field.option.description)
    assert fit_head_command.command.make_context("fit-head", ["c.h5"], **HELP).params[name] == field.option.default


@pytest.mark.parametrize("name", sorted(fields_of(HeadFitOptions).keys() - {"device"}))
def test_the_options_of_a_fit_have_the_same_defaults(name: str) -> None:
    assert getattr(FitOptions(), name) == fields_of(HeadFitOptions)[name].option.default


@pytest.mark.parametrize("name", fields_of(TrainOptions))
def test_an_option_of_training_reaches_class_and_command(name: str) -> None:
    field = fields_of(TrainOptions)[name]
    assert getattr(TrainConfig(), name) == field.option.default
    assert field.paragraph() in (inspect.getdoc(TrainConfig) or "")
    option = next((each for each in finetune_command.command.params if each.name == name), None)
    assert (option is None) == (name == "gamma")
    if option is not None:
        assert name == "step_size" or (option.help or "").startswith(field.option.description)  # there gamma is 0.1
        assert option.default is None, "a preset may set it"


@pytest.mark.parametrize("name", fields_of(StrategyOptions))
def test_an_option_of_the_strategy_reaches_function_and_command(name: str) -> None:
    field = fields_of(StrategyOptions)[name]
    assert inspect.signature(finetune).parameters[name] == field.parameter
    option = next(each for each in finetune_command.command.params if each.name == name)
    assert (option.help or "").startswith(field.option.description)
    shown = f"{field.option.default:g}" if name == "layer_decay" else field.option.none or field.option.default
    assert option.default == field.option.default or (option.help or "").endswith(f"[default: {shown}]")
