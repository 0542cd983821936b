"""What test_world runs, alone or in several processes: a fine-tuning of a small network."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn

from featcache.backbones.backbone import Backbone
from featcache.finetuning.finetune import finetune
from featcache.training.distributed import ProcessGroup
from featcache.training.loop import EpochMetrics
from trainable import CONFIG


class Net(nn.Module):
    """Two convolutions with BatchNorm, the second as timm has it: 4 features."""

    def __init__(self) -> None:
        from timm.layers import BatchNormAct2d

        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.last, self.act = nn.Conv2d(6, 4, 3), BatchNormAct2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.last(self.norm(self.conv(x)).relu())).mean((2, 3))


class Attentive(nn.Module):
    """4 features. It has a view that refuses an empty batch, pooling, attention, BatchNorm of tokens, and a parameter
    without a use."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.tokens, self.last = nn.BatchNorm1d(4, momentum=None), nn.Linear(36, 4)
        self.mask_token = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = torch.nn.functional.max_pool2d(self.norm(self.conv(x)).relu(), 2)
        tokens = maps.flatten(2).transpose(1, 2)
        attended = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.last(self.tokens(attended.flatten(0, 1)).view(len(x), -1))


class Reporting(nn.Dropout):
    """It writes to standard error what it would drop of a first image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            mask = super().forward(torch.ones_like(x[:1])) > 0
            sys.stderr.write("mask " + "".join(map(str, mask.int().flatten().tolist())) + "\n")
        return super().forward(x)


class Dropping(Net):
    """With dropout of the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = Reporting(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.drop(x))


NETWORKS = {network.__name__: network for network in (Net, Attentive, Dropping)}


def backbone(network: str = "Net") -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Backbone(NETWORKS[network](), name="together", image_size=8, resize_size=10)


def tune(data: str, out: str, process_group: ProcessGroup, **options: Any) -> list[dict[str, Any]]:
    """The epochs, as JSON values."""
    last, stop_in = options.pop("die_after", None), options.pop("stop_in", None)
    net = backbone(options.pop("network", "Net"))
    recipe = replace(CONFIG, epochs=3, batch_size=options.pop("batch_size", 5))

    def die(epoch: EpochMetrics) -> None:
        if epoch.epoch == last:
            os.kill(os.getpid(), signal.SIGKILL)

    def wait(phase: str, _done: int, _total: int) -> None:
        """After the first batch of an epoch, for SIGTERM; the command line raises at such a report, too."""
        if phase == f"epoch {stop_in}":
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
            sys.stderr.write("waiting\n")
            sys.stderr.flush()
            while True:
                signal.pause()

    options = {"progress": wait if stop_in else None, **options}
    result = finetune(
        data, out, backbone=net, config=recipe, workers=1, process_group=process_group, on_epoch=die, **options
    )
    return [asdict(epoch) for epoch in result.history]


def run_as(environment: dict[str, str], output: str, data: str, out: str, options: dict[str, Any]) -> None:
    """One of several processes, as torchrun starts them: the first one prints the epochs. What it writes goes to files.

    output : path of the files, without `.out` and `.err`.
    """
    for number, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(output + suffix, os.O_WRONLY | os.O_CREAT), number)
    os.environ.update(environment)
    torch.set_num_threads(1)
    process_group = ProcessGroup.from_torchrun()
    history = tune(data, out, process_group, **options)
    if process_group.is_main_process:
        sys.stdout.write(json.dumps(history))
