"""A capture that fails leaves PyTorch as it was. In PyTorch 2.11 the generator and the memory stay in its state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from featcache.backbones.engines import cuda_graph
from featcache.backbones.engines.pytorch import PyTorchEngine
from simulated_gpu import SimulatedGPU
from toys import TOY_SIZE, ToyNet


class Generator:
    """capturing : whether random numbers outside of a capture are an error."""

    def __init__(self, capturing: bool) -> None:
        self.capturing, self.offset = capturing, 4

    def get_state(self) -> int:
        """The offset."""
        return self.offset

    def set_state(self, offset: int) -> None:
        """Set the offset."""
        self.offset = offset

    def clone_state(self) -> Generator:
        """A copy, which is in no capture."""
        return Generator(False)

    def graphsafe_set_state(self, other: Generator) -> None:
        """Take the state of another generator."""
        self.capturing, self.offset = other.capturing, other.offset

    def rand(self, *_: object, **__: object) -> None:
        """As torch.rand."""
        if self.capturing:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")
        self.offset += 4


@pytest.mark.parametrize("stays", [True, False])
def test_a_failed_capture_is_ended(stays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, generator, ended = SimulatedGPU(monkeypatch), Generator(stays), list[str]()

    class Failing(ToyNet):
        def forward(self, pixels: Tensor) -> Tensor:
            if gpu.capturing:
                raise RuntimeError("not permitted")
            return super().forward(pixels)

    def end(name: str, *args: object) -> None:
        ended.append(f"{name}{args}")

    monkeypatch.setattr(cuda_graph, "EAGER_BATCHES", 1)
    monkeypatch.setattr(torch.cuda, "default_generators", (generator,))
    monkeypatch.setattr(torch, "rand", generator.rand)
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        monkeypatch.setattr(torch._C, name, lambda *args, name=name: end(name, *args), raising=False)
    engine = PyTorchEngine(gpu.extractor(Failing()))
    engine.submit(np.zeros((2, TOY_SIZE, TOY_SIZE, 3), np.uint8))
    assert engine.note.endswith(": not permitted")
    assert ended == ["_cuda_endAllocateToPool(0, (0, 1))", "_cuda_releasePool(0, (0, 1))"]
    assert (generator.capturing, generator.offset) == (False, 4)
