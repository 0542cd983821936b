"""Features on all GPUs of a machine: two networks on the CPU stand in for those of two GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from commands import refused
from featcache.backbones import devices
from featcache.backbones import frozen_network as backbones
from featcache.backbones.backbone import Backbone
from featcache.backbones.engines.base import PendingFeatures
from featcache.backbones.engines.data_parallel import DataParallelEngine, join_engines
from featcache.core.specs import EngineName
from featcache.errors import BackboneError, HeadError
from featcache.extraction.estimate import estimate
from featcache.extraction.extract import extract
from featcache.heads.fit_head import fit_head
from toys import TOY_SIZE, ToyNet, toy_answer, toy_backbone
from trainable import TrainableNet


class Counting(ToyNet):
    """`sizes` : those of its batches. `most` : images that fit; more raise."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes, self.most = list[int](), 10**6

    def forward(self, pixels: Tensor) -> Tensor:
        if len(pixels) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.sizes.append(len(pixels))
        return super().forward(pixels)


@pytest.fixture
def _two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        backbones, "expand_device", lambda device: ("cpu", "cpu") if device == "cuda:all" else (device,)
    )


def on_two(network: torch.nn.Module, **options: Any) -> tuple[Backbone, list[Any]]:
    """A backbone on two devices, and the network on each."""
    toy = toy_backbone()
    common = {"name": "toy", "image_size": TOY_SIZE, "resize_size": toy.resize_size, "mean": toy.mean, "std": toy.std}
    backbone = Backbone(network, device="cuda:all", **{**common, **options})
    networks = [extractor.network for extractor in backbone._extractors]
    for each in networks:
        getattr(each, "sizes", []).clear()
    return backbone, networks


def noise(n: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, TOY_SIZE, TOY_SIZE, 3), dtype=np.uint8)


@pytest.mark.usefixtures("_two_devices")
def test_batches_alternate_and_each_has_its_own_features() -> None:
    backbone, networks = on_two(Counting())
    batches = [noise(size, size) for size in (4, 3, 2, 1, 5)]
    waiting = [backbone.submit(batch) for batch in batches]
    for batch, features in reversed(list(zip(batches, waiting, strict=True))):
        np.testing.assert_allclose(features()[0], toy_answer(batch), rtol=1e-5, atol=1e-5)
    assert [network.sizes for network in networks] == [[3, 2, 5], [4, 1]]  # the probe of widths had turn 0


@pytest.mark.usefixtures("_two_devices")
@pytest.mark.parametrize("engine", ["pytorch", "auto"])
def test_a_copy_has_its_own_inner_layers(engine: EngineName) -> None:
    layers = ("conv", "penultimate")
    torch.manual_seed(0)
    backbone, networks = on_two(TrainableNet(3), layers=layers)
    alone = Backbone(networks[0], name="toy", image_size=TOY_SIZE, mean=backbone.mean, std=backbone.std, layers=layers)
    backbone.select_engine(TOY_SIZE, engine, views=1)
    batches = [noise(3, seed) for seed in range(4)]
    waiting = [backbone.submit(batch) for batch in batches]
    for batch, features in zip(batches, waiting, strict=True):
        expected = alone.embed_layers(batch)
        for layer, values in zip(layers, features(), strict=True):
            np.testing.assert_array_equal(values, expected[layer])


@pytest.mark.usefixtures("_two_devices")
def test_an_extraction_has_the_rows_of_one_device(split_folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"views": 2, "batch_size": 9, "dtype": "float32"}
    expected = extract(split_folder, tmp_path / "a.h5", backbone=toy_backbone(), **options).cache
    backbone, networks = on_two(Counting())
    found = extract(split_folder, tmp_path / "b.h5", backbone=backbone, **options).cache
    for split in ("train", "val"):
        np.testing.assert_array_equal(found.features(split).x, expected.features(split).x)
        assert found.features(split).samples.ids == expected.features(split).samples.ids
    assert [network.sizes for network in networks] == [[9, 9, 5], [9, 9, 3]]
    assert found.spec == expected.spec


@pytest.mark.usefixtures("_two_devices")
def test_a_device_with_less_memory_takes_smaller_batches(split_folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"views": 2, "batch_size": 9, "dtype": "float32"}
    expected = extract(split_folder, tmp_path / "a.h5", backbone=toy_backbone(), **options).cache
    backbone, networks = on_two(Counting())
    networks[1].most = 5
    found = extract(split_folder, tmp_path / "b.h5", backbone=backbone, **options)
    np.testing.assert_allclose(found.cache.features("train").x, expected.features("train").x, rtol=1e-5, atol=1e-5)
    assert networks[0].sizes == [9, 9, 5]
    assert max(networks[1].sizes) == 5
    assert found.note == "cpu has too little free memory for larger batches: batches have 5 views"
    networks[1].most = 0
    with pytest.raises(BackboneError, match=r"^one view of this network does not fit into the free memory of cpu"):
        extract(split_folder, tmp_path / "c.h5", backbone=backbone, **options)


@pytest.mark.usefixtures("_two_devices")
def test_an_estimate_measures_both_devices(split_folder: Path, tmp_path: Path) -> None:
    backbone, networks = on_two(Counting())
    cost = estimate(split_folder, tmp_path / "a.h5", backbone=backbone, views=1)
    assert (cost.images, cost.views, cost.measured) == (18, 31, 36)
    assert len(networks[0].sizes) == len(networks[1].sizes) == 4, "once before, and three times"


class Later:
    """An engine that computes when the features are requested. `given` : the sizes of its batches."""

    max_in_flight = 8

    def __init__(self, note: str = "", error: Exception | None = None) -> None:
        self.note, self.error, self.given = note, error, list[int]()

    def submit(self, pixels: NDArray[np.uint8]) -> PendingFeatures:
        if self.error:
            raise self.error
        self.given.append(len(pixels))
        return lambda: [toy_answer(pixels).astype(np.float32)]


def test_a_device_that_is_behind_gets_no_more_work() -> None:
    slow, fast = Later("a"), Later("a")
    engine = DataParallelEngine([slow, fast])
    assert (engine.max_in_flight, engine.note) == (16, "a")
    slow_features = engine.submit(noise(8))
    for _ in range(3):
        engine.submit(noise(4))()
    assert (slow.given, fast.given) == ([8], [4, 4, 4])
    slow_features()
    slow_features()  # counts once
    engine.submit(noise(1))
    engine.submit(noise(1))
    assert (len(slow.given), len(fast.given)) == (2, 4)


def test_rows_keep_their_order_with_batches_under_way_on_both(
    split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"views": 2, "batch_size": 6, "dtype": "float32"}
    expected = extract(split_folder, tmp_path / "a.h5", backbone=toy_backbone(), **options).cache
    toy, engines = toy_backbone(), [Later(), Later()]
    monkeypatch.setattr(toy, "_selected", (TOY_SIZE, DataParallelEngine(engines)))
    found = extract(split_folder, tmp_path / "b.h5", backbone=toy, **options).cache
    assert [engine.given for engine in engines] == [[6, 6, 6, 3, 5], [6, 6, 6]]  # at last 3 views against 6
    for split in ("train", "val"):
        np.testing.assert_allclose(found.features(split).x, expected.features(split).x, rtol=1e-5, atol=1e-5)


def test_an_error_of_one_device_is_raised_and_not_counted() -> None:
    broken, sound = Later(error=BackboneError("broken")), Later()
    engine = DataParallelEngine([broken, sound])
    for _ in range(2):
        with pytest.raises(BackboneError, match=r"^broken$"):
            engine.submit(noise(3))
        assert len(engine.submit(noise(3))()[0]) == 3
    assert engine._under_way == [0, 0]
    assert join_engines([sound]) is sound


class Machine:
    """Two GPUs of different kinds, or `count` of them, which nothing is computed on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        self.opened: list[str] = []
        names = ["Tesla T4", "NVIDIA A100"]
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[int(device[-1])])
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: [(7, 5), (8, 0)][int(device[-1])])
        monkeypatch.setattr(torch, "empty", lambda _size, device: self.opened.append(device))


def test_all_gpus_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 2)
    assert devices.resolve_device("cuda:all") == "cuda:all"
    assert machine.opened == ["cuda:0", "cuda:1"]
    assert devices.expand_device("cuda:all") == ("cuda:0", "cuda:1")
    assert devices.expand_device("cuda:1") == ("cuda:1",)
    assert devices.resolve_precision("auto", "cuda:all") == "fp16", "the T4 has no bf16"
    assert devices.resolve_precision("auto", "cuda:1") == "bf16"
    assert devices.name_devices(("cuda:0", "cuda:1")) == "Tesla T4, NVIDIA A100"
    assert devices.name_devices(("cuda:1", "cuda:1")) == "2 x NVIDIA A100"
    assert devices.name_devices(("cuda:1",)) == "NVIDIA A100"
    assert devices.unused_gpus_note("auto") == "one of 2 GPUs computes; --device cuda:all takes all of them"
    assert devices.unused_gpus_note("cuda:1") == ""


def test_without_a_gpu_it_is_an_error_and_auto_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, 0)
    assert devices.unused_gpus_note("auto") == ""
    for resolve in (devices.resolve_device, devices.expand_device):
        with pytest.raises(BackboneError) as error:
            resolve("cuda:all")
        message = "device 'cuda:all' cannot be used: PyTorch finds no GPU. Try --device auto or cpu."
        assert str(error.value) == message


def test_commands_that_train_refuse_it(split_folder: Path, tmp_path: Path) -> None:
    for command in ("finetune", "benchmark"):
        message = refused(command, split_folder, "-o", tmp_path / command, "--device", "cuda:all")
        assert "a process trains on one GPU, not on cuda:all: give --device cuda or cuda:1." in " ".join(
            message.split()
        )
        assert not (tmp_path / command).exists()
    extract(split_folder, tmp_path / "c.h5", backbone=toy_backbone())
    with pytest.raises(HeadError, match=r"^a head is fitted on one GPU, not on cuda:all: give cuda or cuda:1"):
        fit_head(tmp_path / "c.h5", device="cuda:all")
