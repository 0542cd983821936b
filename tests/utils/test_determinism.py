"""`--deterministic`: which settings of PyTorch hold, and the error of an operation without an implementation."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from commands import SMALL, as_json
from featcache._utils.determinism import deterministic_algorithms
from featcache.analysis.benchmark.routes import BenchmarkOptions, routes_for, tasks_for_route
from featcache.backbones.backbone import Backbone
from featcache.core.options import with_defaults
from featcache.errors import BackboneError, RunError
from featcache.extraction.extract import extract
from featcache.finetuning.finetune import finetune
from toys import TOY_SIZE, ToyNet, toy_backbone
from trainable import TrainableNet, trainable_backbone

CONFIG = {"epochs": 1, "batch_size": 4}


def settings() -> tuple[Any, ...]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )


@pytest.fixture
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Settings of a program that differ from PyTorch's."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_own_settings")
@pytest.mark.parametrize(
    ("workspace", "during"), [(None, ":4096:8"), (":16:8", ":16:8"), (":4096:2", ":4096:8"), (":4096:8", ":4096:8")]
)
def test_each_setting_holds_within_and_has_its_former_value_afterwards(
    workspace: str | None, during: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if workspace:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", workspace)
    before = settings()
    with deterministic_algorithms(False, RunError):
        assert settings() == before
    with deterministic_algorithms(True, RunError):
        assert settings() == (True, False, True, False, during)
    assert settings() == before == (True, True, False, True, workspace)

    def fail() -> None:
        with deterministic_algorithms(True, RunError):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert settings() == before


class Scatters(ToyNet):
    """Calls an operation that has no deterministic implementation, not even on the CPU."""

    def forward(self, x: Tensor) -> Tensor:
        return put(super().forward(x))


class ScattersInTraining(TrainableNet):
    def forward(self, x: Tensor) -> Tensor:
        return put(super().forward(x)) if self.training else super().forward(x)


def put(values: Tensor) -> Tensor:
    return values.clone().put_(torch.tensor([0]), values.detach().flatten()[:1])


MESSAGE = (
    rf"put_ has no deterministic implementation in PyTorch {torch.__version__.partition('+')[0]} on this device. Drop "
    r"--deterministic \(two runs then differ by rounding\), or give --device cpu or another network."
)


def test_an_operation_without_an_implementation_is_named_in_extraction(split_folder: Path, tmp_path: Path) -> None:
    backbone = Backbone(Scatters(), name="scatters", image_size=TOY_SIZE, resize_size=TOY_SIZE)
    with pytest.raises(BackboneError, match=f"^{MESSAGE}$"):
        extract(split_folder, tmp_path / "a.h5", backbone=backbone, deterministic=True)
    assert settings()[0] is False
    assert extract(split_folder, tmp_path / "b.h5", backbone=backbone).extracted == 18


def test_an_operation_without_an_implementation_is_named_in_training(split_folder: Path, tmp_path: Path) -> None:
    backbone = Backbone(ScattersInTraining(3), name="scatters", image_size=8, resize_size=10)
    with pytest.raises(RunError, match=f"^{MESSAGE}$"):
        finetune(split_folder, tmp_path / "run", backbone=backbone, config=CONFIG, deterministic=True)
    run = finetune(split_folder, tmp_path / "run", backbone=backbone, config=CONFIG)
    assert len(run.history) == 1, "as the message says, the same command works without the option"


def test_features_and_their_digest_are_the_same_on_a_cpu(split_folder: Path, tmp_path: Path) -> None:
    """So caches with and without the option are compared as equal; the provenance says which one it is."""
    usual = extract(split_folder, tmp_path / "a.h5", backbone=toy_backbone(), views=1)
    found = extract(split_folder, tmp_path / "b.h5", backbone=toy_backbone(), views=1, deterministic=True)
    np.testing.assert_array_equal(found.cache.features("train").x, usual.cache.features("train").x)
    assert found.cache.spec.digest() == usual.cache.spec.digest()
    assert found.cache.provenance["deterministic"] is True
    assert "deterministic" not in usual.cache.provenance
    again = extract(split_folder, tmp_path / "a.h5", backbone=toy_backbone(), views=1, deterministic=True)
    assert again.extracted == 0


def test_two_runs_of_training_are_equal_bit_by_bit(split_folder: Path, tmp_path: Path) -> None:
    saved = []
    for name, deterministic in (("a", True), ("b", True), ("c", False)):
        out = tmp_path / name
        finetune(split_folder, out, backbone=trainable_backbone(), config=CONFIG, deterministic=deterministic)
        saved.append((out / "network.safetensors").read_bytes())
    assert saved[0] == saved[1] == saved[2]


def test_the_command_line_takes_it(split_folder: Path, tmp_path: Path) -> None:
    found = as_json("extract", split_folder, "-o", tmp_path / "c.h5", "--deterministic", *SMALL)
    usual = as_json("extract", split_folder, "-o", tmp_path / "d.h5", *SMALL)
    assert found["spec_digest"] == usual["spec_digest"]


@pytest.mark.parametrize("route", routes_for("image"))
def test_every_route_of_a_benchmark_that_runs_the_network_gets_it(route: str, tmp_path: Path) -> None:
    settings = {**with_defaults(BenchmarkOptions, {"deterministic": True}), "data": "d", "backbone": "b"}
    settings |= {"head": "linear", "recipe": {}, "train_precision": "fp32"}
    tasks = tasks_for_route(route, tmp_path, 0, settings)
    assert [task.get("deterministic") for task in tasks if task["task"] != "fit-head"].count(True) == sum(
        task["task"] != "fit-head" for task in tasks
    )
