"""The precision of live routes. A patched PyTorch stands in for GPUs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from featcache.backbones import devices
from featcache.backbones.backbone import Backbone
from featcache.backbones.devices import resolve_precision
from featcache.backbones.float32 import ieee_float32, tf32_is_allowed
from featcache.extraction.extract import extract
from featcache.finetuning.finetune import finetune
from featcache.finetuning.pipelines import image as image_pipeline
from featcache.finetuning.precision import no_bf16_note, requested_precision, training_precision
from toys import toy_backbone
from trainable import trainable_backbone

AMPERE, TURING = (8, 0), (7, 5)
NOTE = "this GPU has no bf16: the network is trained in fp32, as gradients in fp16 would underflow"


def set_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] | None) -> None:
    """The device "auto" is a GPU of this capability, or the CPU, which multiplies in bf16."""
    monkeypatch.setattr(devices, "_accelerator_is_likely", lambda: capability is not None)
    monkeypatch.setattr(devices, "_cpu_multiplies_bf16", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)


@pytest.mark.parametrize(
    ("capability", "requested", "all_layers", "head"),
    [
        (None, None, "fp32", "fp32"),  # results on a CPU are those of earlier versions
        (None, "auto", "bf16", "auto"),
        (None, "fp32", "fp32", "fp32"),
        (AMPERE, None, "bf16", "auto"),
        (AMPERE, "auto", "bf16", "auto"),
        (AMPERE, "fp32", "fp32", "fp32"),
        (AMPERE, "bf16", "bf16", "bf16"),
        (TURING, None, "fp32", "auto"),
        (TURING, "auto", "fp32", "auto"),
        (TURING, "fp32", "fp32", "fp32"),
    ],
)
def test_live_routes_have_the_precision_of_extraction_on_a_gpu(
    capability: Any, requested: Any, all_layers: str, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_gpu(monkeypatch, capability)
    assert training_precision(requested, "auto", "all") == all_layers
    assert training_precision(requested, "auto", "head") == head  # which the network is then loaded with
    asked = requested or ("auto" if capability else "fp32")
    assert requested_precision(requested, "auto") == asked
    without_bf16 = capability == TURING and requested != "fp32"
    assert no_bf16_note(requested, "auto", "all") == (NOTE if without_bf16 else "")
    assert no_bf16_note(requested, "auto", "head") == ""


def test_the_frozen_network_runs_live_as_it_extracts(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, expected in ((AMPERE, "bf16"), (TURING, "fp16")):
        set_gpu(monkeypatch, capability)
        assert resolve_precision(training_precision(None, "auto", "head"), "cuda") == expected


@pytest.mark.parametrize(
    ("device", "precision", "capability", "convolutions", "expected"),
    [
        ("cuda", "bf16", AMPERE, "tf32", True),
        ("cuda:1", "fp16", AMPERE, "tf32", True),
        ("cuda", "bf16", AMPERE, "ieee", False),
        ("cuda", "bf16", TURING, "tf32", False),
        ("cuda", "fp32", AMPERE, "tf32", False),
        ("cpu", "bf16", AMPERE, "tf32", False),
    ],
)
def test_tf32_is_for_what_is_left_in_float32(
    device: str, precision: Any, capability: Any, convolutions: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    monkeypatch.setattr(torch.backends.cudnn, "conv", SimpleNamespace(fp32_precision=convolutions))
    backbone = toy_backbone()
    backbone.device, backbone.precision = device, precision
    assert backbone.allows_tf32 is expected


def test_pytorchs_own_settings_allow_tf32_and_ieee_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: AMPERE)
    assert tf32_is_allowed("cuda")
    with ieee_float32():
        assert not tf32_is_allowed("cuda")


@pytest.mark.parametrize("mode", ["all", "head"])
def test_a_run_says_how_its_network_computed(
    split_folder: Path, tmp_path: Path, mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finetune(split_folder, tmp_path / "cpu", backbone=trainable_backbone(), mode=mode, config={"epochs": 1})
    assert "\ncomputed in fp32 on cpu; TF32: no; torch.compile: no\nwaiting for images took " in str(run)
    values = run.to_dict()
    assert [values[name] for name in ("device", "precision", "tf32", "compiled")] == ["cpu", "fp32", False, False]
    monkeypatch.setattr(Backbone, "allows_tf32", True)
    other = finetune(split_folder, tmp_path / "tf32", backbone=trainable_backbone(), mode=mode, config={"epochs": 1})
    assert "; TF32: yes; " in str(other)


def test_a_run_names_a_gpu_without_bf16(split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def load(_name: str, **settings: Any) -> Backbone:
        loaded.append(settings["precision"])
        return trainable_backbone()

    monkeypatch.setattr(image_pipeline, "load_backbone", load)
    set_gpu(monkeypatch, TURING)
    run = finetune(split_folder, tmp_path / "run", config={"epochs": 1})
    assert loaded == ["fp32"]
    assert run.notes[0] == NOTE


def test_an_extraction_says_how_its_network_computed(split_folder: Path, tmp_path: Path) -> None:
    values = extract(split_folder, tmp_path / "c.h5", backbone=toy_backbone()).to_dict()
    assert [values[name] for name in ("device", "precision", "tf32", "compiled")] == ["cpu", "fp32", False, False]
