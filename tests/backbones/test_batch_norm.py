"""BatchNorm folded into convolutions: known weights, equal features, and what is left as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featcache.backbones.backbone import Backbone
from featcache.backbones.batch_norm import fold_batch_norm
from featcache.backbones.engines.openvino import noise_pictures
from featcache.backbones.feature_extractor import FeatureExtractor

SIZE = 16


class Block(nn.Module):
    """Two convolutions with BatchNorm and a shortcut. shortcut_of : "input", or "convolution" (not to be folded)."""

    def __init__(self, shortcut_of: str = "input") -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.conv2, self.bn2 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, affine=False)
        self.bn3 = nn.BatchNorm2d(3)  # of a sum
        self.shortcut_of = shortcut_of
        for module in (self.bn1, self.bn2, self.bn3):
            module.running_mean, module.running_var = torch.tensor([0.3, -0.2, 0.1]), torch.tensor([2.0, 0.5, 1.5])
        self.bn1.weight.data, self.bn1.bias.data = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([1.0, 0.0, -1.0])

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv1(x)
        y = self.conv2(self.bn1(first).relu())
        return self.bn3(self.bn2(y) + (x if self.shortcut_of == "input" else first)).mean((2, 3))


def extractor(
    network: nn.Module, layers: tuple[str, ...] = ("penultimate",), precision: Any = "fp32"
) -> FeatureExtractor:
    torch.manual_seed(0)
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    return FeatureExtractor(network, name="n", mean=mean, std=std, layers=layers, device="cpu", precision=precision)


def test_the_weights_are_those_of_the_formula() -> None:
    network = Block().eval().requires_grad_(False)
    weight, scale = network.conv1.weight.clone(), network.bn1.weight / torch.sqrt(network.bn1.running_var + 1e-5)
    assert fold_batch_norm(network, lambda: network(torch.zeros(1, 3, 4, 4))) == 2
    torch.testing.assert_close(network.conv1.weight, weight * scale[:, None, None, None])
    torch.testing.assert_close(network.conv1.bias, network_bias(scale))
    assert [type(getattr(network, name)).__name__ for name in ("bn1", "bn2", "bn3")] == [
        "Identity", "Identity", "BatchNorm2d",
    ]  # fmt: skip


def network_bias(scale: Tensor) -> Tensor:
    return torch.tensor([1.0, 0.0, -1.0]) - torch.tensor([0.3, -0.2, 0.1]) * scale


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_features_of_all_layers_stay(precision: str) -> None:
    pixels, layers = noise_pictures(SIZE), ("penultimate", "conv1", "bn1", "bn2", "bn3")
    original = extractor(Block(), layers, precision)
    state = {name: value.clone() for name, value in original.network.state_dict().items()}
    folded = original.fold_batch_norm(pixels)
    assert folded is not original
    assert type(folded.network.bn1) is nn.BatchNorm2d  # its convolution is a layer
    assert type(folded.network.bn2) is nn.Identity
    tolerance = 1e-5 if precision == "fp32" else 0.05
    for found, expected in zip(folded.embed(pixels), original.embed(pixels), strict=True):
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    for name, value in original.network.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)


def test_a_network_that_uses_the_output_of_a_convolution_otherwise_stays_as_it_is() -> None:
    original = extractor(Block("convolution"))
    assert original.fold_batch_norm(noise_pictures(SIZE)) is original


class Shared(Block):
    """One convolution for two layers of BatchNorm."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        return (self.bn1(y) + self.bn2(y)).mean((2, 3))


def test_what_runs_or_is_taken_twice_is_not_folded() -> None:
    network = Shared().eval()
    assert fold_batch_norm(network, lambda: network(torch.zeros(1, 3, 4, 4))) == 0
    network = Block().train()
    assert fold_batch_norm(network, lambda: network(torch.zeros(2, 3, 4, 4))) == 0


def test_a_network_of_timm_keeps_its_activations() -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model("test_efficientnet", pretrained=False, num_classes=0).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    original = extractor(network)
    folded = original.fold_batch_norm(noise_pictures(SIZE))
    assert folded is not original
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.network.modules())
    pixels = noise_pictures(2 * SIZE)
    np.testing.assert_allclose(folded.embed(pixels)[0], original.embed(pixels)[0], rtol=1e-3, atol=1e-5)


def test_only_gpus_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    folded: list[int] = []
    monkeypatch.setattr(
        FeatureExtractor, "fold_batch_norm", lambda self, pixels: folded.append(pixels.shape[1]) or self
    )
    backbone = Backbone(Block(), name="block", image_size=SIZE, resize_size=SIZE)
    weights = backbone.weights_sha256
    assert len(backbone._extractors) == 1
    assert folded == []
    del vars(backbone)["_extractors"]
    backbone.device = "cuda:0"
    assert len(backbone._extractors) == 1
    assert folded == [SIZE]
    assert backbone.weights_sha256 == weights
