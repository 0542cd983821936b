"""A small network that can be trained, and runs of it that kill themselves."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from featcache._utils.files import atomic_write
from featcache.backbones.backbone import Backbone
from featcache.core.model_card import ModelCard
from featcache.finetuning import finetune as finetuning
from featcache.finetuning.run_logs import RunLogs
from featcache.training.loop import EpochMetrics, TrainConfig, TrainState

CONFIG = TrainConfig(epochs=4, batch_size=4, lr=0.02, schedule="cosine", weight_decay=1e-3)

SEED = 5  # with these, epoch 2 is the best on conftest's split_folder


class TrainableNet(nn.Module):
    """Convolution, BatchNorm, ReLU, dropout, mean: 4 features."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, kernel)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.norm(self.conv(x)).relu()).mean((2, 3))


def trainable_backbone(kernel: int = 3, weights: str = "none") -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = TrainableNet(kernel)
    return Backbone(net, name="trainable", weights=weights, image_size=8, resize_size=10)


class StagedNet(nn.Module):
    """A stem and three stages, blocks.0 to blocks.2, of convolution, BatchNorm, ReLU and dropout: 4 features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 1, 1)
        self.blocks = nn.Sequential(*(self._stage(stride) for stride in (1, 2, 2)))
        self.norm = nn.BatchNorm1d(4)

    @staticmethod
    def _stage(stride: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(4, 4, 3, stride, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.blocks(self.stem(x)).mean((2, 3)))


def staged_backbone() -> Backbone:
    """With statistics that no batch has."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        net = StagedNet()
        norms = (module for module in net.modules() if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)))
        for norm, var in zip(norms, (0.1, 0.25, 0.2, 0.04), strict=True):  # about what noise gives
            norm.running_mean.copy_(torch.linspace(0, 0.3, 4))
            norm.running_var.copy_(torch.linspace(0.7, 1.4, 4) * var)
    return Backbone(net, name="staged", image_size=16, resize_size=18)


def finetune_and_die(data: str, out: str, moment: str, epoch: int, log: Sequence[str] = ()) -> None:
    """Start a run and kill the process with SIGKILL at a moment of an epoch."""
    torch.set_num_threads(1)  # as conftest does: the results must be equal bit by bit
    finished: list[EpochMetrics] = []

    def die(*_args: Any) -> None:
        if len(finished) == epoch - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def half(self: ModelCard, folder: Path, weights: bytes | None, others: Mapping[str, bytes | None]) -> None:
        if len(finished) == epoch - 1 and weights is not None:
            with atomic_write(folder / self.file) as file:
                file.write(weights[: len(weights) // 2])
                file.flush()
                die()
        write(self, folder, weights, others)

    def card(self: ModelCard, folder: Path, weights: bytes | None, others: Mapping[str, bytes | None]) -> None:
        die()
        write(self, folder, weights, others)

    def checkpoint(value: Any, file: Any) -> None:
        if len(finished) == epoch - 1:
            file.write(b"half")
            file.flush()
        die()
        dump(value, file)

    def on_epoch(value: EpochMetrics) -> None:
        if moment == "after the epoch":
            die()
        finished.append(value)

    def logged(self: RunLogs, state: TrainState) -> None:
        die()
        write_logs(self, state)

    write, dump, write_logs = ModelCard.write, torch.save, RunLogs.write
    if moment == "while weights are written":
        ModelCard.write = half  # type: ignore[method-assign]
    if moment == "before model.json":
        ModelCard.write = card  # type: ignore[method-assign]
    if moment == "while the checkpoint is written":
        torch.save = checkpoint  # type: ignore[assignment]
    if moment == "before the log is written":
        RunLogs.write = logged  # type: ignore[method-assign]
    options: dict[str, Any] = {"config": CONFIG, "seed": SEED, "on_epoch": on_epoch, "log": log}
    finetuning.finetune(data, out, backbone=trainable_backbone(), **options)
