from __future__ import annotations

import pytest
import torch
from torch import nn

from featcache.backbones.sources.registry import build
from featcache.backbones.stages import find_stages, stage_of
from toys import TOY_SIZE, ToyNet


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("efficientnet_lite0", ["blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.6"]),
        ("mobilenet_v2", ["features.1", "features.3", "features.6", "features.13", "features.17"]),
        ("resnet18", ["layer1", "layer2", "layer3", "layer4"]),
        ("swin_t", ["features.1", "features.3", "features.5", "features.7"]),
        ("alexnet", ["features.1", "features.4", "features.11"]),
        ("timm/vit_tiny_patch16_224", ["blocks.2", "blocks.5", "blocks.8", "blocks.11"]),
    ],
)
def test_a_network_has_the_stages_that_its_makers_see(name: str, stages: list[str]) -> None:
    network, preprocessing = build(name, "none", 0)[:2]
    assert find_stages(network.eval(), preprocessing["image_size"]) == stages


def test_a_network_without_maps_has_no_stages() -> None:
    assert find_stages(ToyNet().eval(), TOY_SIZE) == []


class Chain(nn.Module):
    """Stem, two convolutions at each of three resolutions, and a norm at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.blocks = nn.Sequential(*(nn.Conv2d(4, 4, 3, stride, 1) for stride in (1, 1, 2, 1, 2, 1)))
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.blocks(self.stem(x)).mean((2, 3)))


def test_a_chain_of_plain_layers_is_cut_where_the_resolution_changes() -> None:
    network = Chain().eval()
    stages = find_stages(network, 16)
    assert stages == ["blocks.1", "blocks.3", "blocks.5"]
    numbers = stage_of(network, stages)
    assert {name for name, stage in numbers.items() if stage == 0} == {
        f"{module}.{kind}" for module in ("stem", "blocks.0", "blocks.1") for kind in ("weight", "bias")
    }
    assert {name.rpartition(".")[0] for name, stage in numbers.items() if stage == 1} == {"blocks.2", "blocks.3"}
    assert {name.rpartition(".")[0] for name, stage in numbers.items() if stage == 2} == {
        "blocks.4",
        "blocks.5",
        "norm",
    }
    assert numbers.keys() == network.state_dict().keys()


def test_looking_for_stages_leaves_no_hook_behind() -> None:
    network = Chain().eval()
    find_stages(network, 16)
    assert [name for name, module in network.named_modules() if module._forward_hooks] == []
