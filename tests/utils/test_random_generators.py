"""Seeds and states of PyTorch's generators, with stand-ins for two GPUs."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from featcache._utils.environment import peak_gpu_memory_bytes
from featcache._utils.random_generators import seeded
from featcache.backbones.load import load_backbone
from featcache.backbones.sources.registry import linear_classifiers
from featcache.training.loop import TrainConfig, TrainState, linear_layer, train


class TwoGPUs:
    """Generators on the CPU in place of those of two GPUs. `opened` : the numbers of the devices that were used."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.generators = [torch.Generator().manual_seed(10 + number) for number in range(2)]
        self.opened: list[int] = []
        stand_ins = {
            "device_count": lambda: 2,
            "current_device": lambda: 0,
            "get_rng_state": lambda device: self._open(device).get_state(),
            "set_rng_state": lambda state, device: self._open(device).set_state(state),
            "default_generators": tuple(
                SimpleNamespace(manual_seed=lambda seed, number=number: self._open(number).manual_seed(seed))
                for number in range(2)
            ),
            "manual_seed_all": lambda seed: [self._open(number).manual_seed(seed) for number in range(2)],
        }
        for name, value in stand_ins.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_: torch.device("cuda"))
        monkeypatch.setattr(torch.random, "_fork_rng_warned_already", False)

    def _open(self, device: int) -> torch.Generator:
        self.opened.append(device)
        return self.generators[device]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> TwoGPUs:
    return TwoGPUs(monkeypatch)


def test_work_on_the_cpu_opens_no_gpu_and_does_not_warn(gpus: TwoGPUs) -> None:
    state = TrainState(nn.Linear(3, 2), TrainConfig(epochs=1, batch_size=2))
    before = torch.get_rng_state()
    batch = torch.zeros(2, 3), torch.tensor([0, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_backbone("timm/test_resnet", weights="none", device="cpu", layers="stages")
        linear_classifiers("timm/test_resnet")
        linear_layer(3, 2, 0)
        train(state, lambda _: iter([batch]), lambda: iter([batch]), seed=0, on_epoch=lambda _: None)
    assert gpus.opened == []
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("device", "number"), [("cuda", 0), ("cuda:1", 1)])
def test_one_gpu_is_seeded_and_restored(device: str, number: int, gpus: TwoGPUs) -> None:
    before = [generator.get_state() for generator in gpus.generators]
    with seeded(3, torch.device(device)):
        assert gpus.generators[number].initial_seed() == 3
        assert torch.initial_seed() == 3
        draws = torch.rand(4), torch.rand(4, generator=gpus.generators[number])
    assert set(gpus.opened) == {number}
    assert all(torch.equal(x.get_state(), y) for x, y in zip(gpus.generators, before, strict=True))
    assert all(torch.equal(draw, torch.rand(4, generator=torch.Generator().manual_seed(3))) for draw in draws)


def test_the_peak_of_gpu_memory_is_that_of_the_device_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device=0: [100, 7_000][device])
    assert peak_gpu_memory_bytes() == 7_000
