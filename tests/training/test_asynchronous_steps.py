"""A step of training on a GPU does not wait for it. A device without values, and one without a GPU, stand in."""

from __future__ import annotations

import io
from contextlib import closing, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from featcache._utils.timing import PhaseTimer
from featcache.backbones.engines.pytorch import CompiledEngine, PyTorchEngine
from featcache.backbones.feature_extractor import FeatureExtractor
from featcache.backbones.transfer import to_device, to_host
from featcache.data.manifest import read_manifest
from featcache.models.network_classifier import network_classifier
from featcache.training import loop
from featcache.training.config import Optimizer
from featcache.training.distributed import SINGLE_PROCESS
from featcache.training.evaluation import EvalAccumulator
from featcache.training.live_batches import LiveBatches
from featcache.training.loop import Batches, TrainConfig, TrainState, _optimizer, train
from featcache.training.loss import ClassificationLoss
from featcache.training.network import BackboneWithHead
from featcache.vision.loader import ViewLoader
from simulated_gpu import SimulatedGPU
from stand_in_gpu import Recorder, StandInEvent, move_to_stand_in, stand_in_gpu
from toys import TOY_SIZE, toy_backbone
from trainable import TrainableNet, trainable_backbone


class DoneError(Exception):
    """The batches are used up."""


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("weights", [None, np.array([0.5, 2.0])])
@pytest.mark.parametrize("multilabel", [False, True])
def test_a_step_waits_for_nothing(
    optimizer: Optimizer, weights: Any, multilabel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "forked", lambda _device: nullcontext())  # PyTorch seeds no device without values
    monkeypatch.setattr(TrainState, "begin_epoch", lambda _state, _seed: EvalAccumulator())
    module = nn.Sequential(TrainableNet(3), nn.Linear(4, 2)).to("meta")
    if weights is not None and multilabel:
        weights = np.stack([weights, weights], axis=1)
    state = TrainState(module, TrainConfig(optimizer=optimizer), loss=ClassificationLoss(0.1, weights))
    labels = torch.zeros((6, 2) if multilabel else 6, dtype=torch.int64, device="meta")
    steps: list[int] = []

    def batches(_epoch: int) -> Batches:
        for step in range(4):
            yield torch.zeros(6, 3, 8, 8, device="meta"), labels
            if step == 0:
                recorder.waits.clear()  # the weights of classes are copied once
            steps.append(step)
        waits.extend(recorder.waits)
        raise DoneError

    waits: list[str] = []
    with Recorder("meta") as recorder, pytest.raises(DoneError):
        train(state, batches, lambda: iter(()), seed=0, on_epoch=lambda _state: None)
    assert (steps, waits) == ([0, 1, 2, 3], [])


def test_weights_of_classes_are_copied_once() -> None:
    loss = ClassificationLoss(0.0, np.array([0.5, 2.0]))
    with Recorder("meta") as recorder:
        for _ in range(3):
            loss(torch.zeros(2, 2, device="meta"), torch.zeros(2, dtype=torch.int64, device="meta"))
    assert recorder.waits == ["blocking copy cpu to meta"]


@pytest.mark.parametrize("mode", ["all", "head"])
def test_batches_reach_the_gpu_through_pinned_memory(
    split_folder: Path, monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    backbone = trainable_backbone()
    spec = backbone.extract_spec(image_size=None, augment="tutorial", seed=0, views=0, dtype="float32")
    with (
        closing(ViewLoader(read_manifest(split_folder), spec.view, workers=1)) as loader,
        stand_in_gpu(monkeypatch) as (gpu, pinned),
    ):
        move_to_stand_in(backbone.feature_extractor)
        backbone.device = "cuda"
        batches = LiveBatches(backbone, spec, loader, mode, PhaseTimer(), None, SINGLE_PROCESS)
        batches.batch_size = 4
        gpu.waits.clear()
        (inputs, labels), *_ = found = list(batches.train(1))
        assert gpu.waits == []
        assert StandInEvent.waits == 0
        assert [tensor.device.type for pair in found for tensor in pair] == ["cuda"] * 2 * len(found)
        assert [id(tensor) for tensor in gpu.copies] == [id(tensor) for tensor in pinned]
        assert len(pinned) == 2 * len(found)  # pixels and labels
        assert (inputs.shape, inputs.dtype) == ((4, 3, 8, 8) if mode == "all" else (4, 4), torch.float32)
        assert mode == "head" or inputs.is_contiguous(memory_format=torch.channels_last)
        assert not inputs.is_inference()
        assert not labels.is_inference()


def test_predictions_of_a_fine_tuned_network_are_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their copies end with an event. A plain copy would wait for the batches behind it."""
    backbone = trainable_backbone()
    card = SimpleNamespace(multilabel=False, thresholds=None)
    network = BackboneWithHead(backbone.module, nn.Linear(4, 2))
    engines: list[PyTorchEngine] = []
    start = PyTorchEngine.__init__

    def init(engine: PyTorchEngine, extractor: FeatureExtractor) -> None:
        start(engine, extractor)
        engines.append(engine)

    monkeypatch.setattr(PyTorchEngine, "__init__", init)

    classify = network_classifier(backbone, network, card)  # type: ignore[arg-type]
    with stand_in_gpu(monkeypatch) as (gpu, pinned):
        move_to_stand_in(engines[0]._extractor)
        gpu.waits.clear()
        for n in range(3):
            classify(np.zeros((2 + n, 8, 8, 3), np.uint8))
        assert (gpu.waits, len(pinned), len(gpu.copies), StandInEvent.waits) == ([], 3, 6, 0)


def test_a_trained_network_is_channels_last() -> None:
    module = trainable_backbone().trainable_module()
    assert isinstance(module, TrainableNet)
    assert module.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert not module.conv.weight.is_contiguous()


def test_features_on_the_device_are_the_features(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, TOY_SIZE, TOY_SIZE, 3), dtype=np.uint8)
    backbone = toy_backbone()
    expected = backbone.embed(pixels)
    np.testing.assert_array_equal(backbone.embed_on_device(pixels).numpy(), expected)
    engine = PyTorchEngine(SimulatedGPU(monkeypatch).extractor())
    (features,) = engine.embed_on_device(pixels)
    assert not features.is_inference()
    np.testing.assert_array_equal(features.numpy(), expected)
    engine._max_batch = 2  # halved for lack of memory
    np.testing.assert_allclose(engine.embed_on_device(pixels)[0].numpy(), expected, rtol=1e-6)
    np.testing.assert_array_equal(engine.submit(pixels)()[0], engine.embed_on_device(pixels)[0].numpy())


def test_compiled_code_gets_whole_batches_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def compiled(extractor: FeatureExtractor, **_options: Any) -> Any:
        def run(pixels: torch.Tensor) -> Any:
            sizes.append(len(pixels))
            return extractor(pixels)

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    pixels = np.random.default_rng(0).integers(0, 256, (300, TOY_SIZE, TOY_SIZE, 3), dtype=np.uint8)
    expected = toy_backbone().embed(pixels)
    engine = CompiledEngine(SimulatedGPU(monkeypatch).extractor(), TOY_SIZE)
    sizes.clear()
    np.testing.assert_allclose(engine.embed_on_device(pixels)[0].numpy(), expected, rtol=1e-5, atol=1e-6)
    assert sizes == [256, 256]


def test_copies_to_the_host_wait_for_their_event_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with stand_in_gpu(monkeypatch) as (gpu, pinned):
        on_gpu = to_device(np.arange(3), "cuda")
        assert on_gpu.device.type == "cuda"
        assert len(pinned) == 1
        wait = to_host([on_gpu], torch.device("cuda"))
        assert (gpu.waits, len(gpu.copies), StandInEvent.waits) == ([], 2, 0)
        assert wait()[0].device.type == "cpu"
        assert StandInEvent.waits == 1
    assert to_host([torch.ones(2)], torch.device("cpu"))()[0].tolist() == [1, 1]
    assert to_device(np.arange(3), "cpu").tolist() == [0, 1, 2]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_optimizer_is_fused_on_a_gpu_alone(optimizer: Optimizer, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(optimizer=optimizer)
    assert _optimizer(nn.Linear(2, 2), config, None).param_groups[0]["fused"] is None
    with stand_in_gpu(monkeypatch):
        module = nn.Linear(2, 2, device="cuda")
        groups = [{"params": [module.weight], "lr": 0.1}, {"params": [module.bias], "lr": 0.2}]
        found = _optimizer(module, config, groups)
        assert [group["fused"] for group in found.param_groups] == [True, True]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("fused", [None, True])
def test_a_run_resumes_with_the_optimizer_of_its_device(optimizer: Optimizer, fused: bool | None) -> None:
    def trained(steps: int) -> TrainState:
        torch.manual_seed(0)
        state = TrainState(nn.Linear(3, 2), TrainConfig(optimizer=optimizer))
        for _ in range(steps):
            step(state)
        return state

    def step(state: TrainState) -> None:
        state.optimizer.zero_grad()
        state.module(torch.ones(1, 3)).square().sum().backward()
        state.optimizer.step()

    saved = trained(2).state_dict()
    saved["optimizer"]["param_groups"][0]["fused"] = fused  # by a GPU
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    resumed = trained(0)
    resumed.load_state_dict(torch.load(file))
    assert resumed.optimizer.param_groups[0]["fused"] is None
    step(resumed)
    expected = trained(3).module.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.module.state_dict().items())
