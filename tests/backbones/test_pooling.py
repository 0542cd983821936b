from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from featcache.backbones.backbone import Backbone
from featcache.backbones.load import load_backbone
from featcache.backbones.pooling import expand_layers, pool, prefix_tokens
from featcache.backbones.sources.registry import build
from featcache.errors import BackboneError

MAPS = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 1 + 16, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("", lambda x: x.mean((2, 3))),
        ("mean", lambda x: x.mean((2, 3))),
        ("max", lambda x: x.max((2, 3))),
        ("std", lambda x: x.std((2, 3))),
        ("grid", lambda x: x.reshape(2, -1, 2, 2, 2, 2).mean((3, 5)).reshape(2, -1)),
        ("grid4", lambda x: x.reshape(2, -1)),
    ],
)
def test_maps_and_patches_are_pooled_over_their_places(kind: str, answer: object) -> None:
    features = pool(MAPS, kind).numpy()
    np.testing.assert_allclose(features, answer(MAPS.numpy()), rtol=1e-5, atol=1e-6)
    channels_last = MAPS.permute(0, 2, 3, 1).contiguous()  # as in Swin
    np.testing.assert_allclose(pool(channels_last, kind).numpy(), features, rtol=1e-5, atol=1e-6)
    if kind:
        patches = TOKENS[:, 1:].transpose(1, 2).reshape(2, 5, 4, 4).numpy()
        np.testing.assert_allclose(pool(TOKENS, kind).numpy(), answer(patches), rtol=1e-5, atol=1e-6)


def test_the_class_token_is_the_first_and_without_a_pool_it_counts_as_a_place() -> None:
    np.testing.assert_array_equal(pool(TOKENS, "cls"), TOKENS[:, 0])
    np.testing.assert_allclose(pool(TOKENS, ""), TOKENS.mean(1))
    assert [prefix_tokens(torch.zeros(1, t, 3)) for t in (16, 17, 18, 37 * 37 + 5)] == [0, 1, 2, 5]


def test_a_module_that_works_in_place_later_changes_nothing() -> None:
    for output, kind in ((MAPS.clone(), "grid4"), (TOKENS.clone(), "cls"), (TOKENS[:, 0].clone(), "")):
        features = pool(output, kind)
        before = features.clone()
        output.zero_()
        assert torch.equal(features, before)


@pytest.mark.parametrize(
    ("output", "kind", "message"),
    [
        (MAPS, "cls", "it has no class token"),
        (TOKENS[:, 1:], "cls", "it has no class token"),
        (TOKENS[:, 0], "max", "it returns vectors, which have no positions to pool by max"),
        ((MAPS, MAPS), "", "it does not return one tensor of 2 to 4 dimensions"),
    ],
)
def test_what_cannot_be_pooled_is_said(output: object, kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        pool(output, kind)


class TwoStages(nn.Module):
    """Four channels at 8 x 8, six at 4 x 4, eight at 2 x 2, whose mean is the features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.down = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.Conv2d(6, 6, 1))
        self.last = nn.Conv2d(6, 8, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.down(self.stem(x))).mean((2, 3))


def test_sets_of_layers_are_the_stages_less_what_is_the_penultimate_one() -> None:
    network = TwoStages().eval()
    assert expand_layers(network, ("last",), 8) == ("penultimate",)
    assert expand_layers(network, ("stages",), 8) == ("penultimate", "stem", "down")
    assert expand_layers(network, ("down:std", "last", "all"), 8) == (
        *("down:std", "penultimate", "stem", "stem:max", "stem:std", "stem:grid", "down", "down:max", "down:grid"),
        *("last:max", "last:std", "last:grid"),
    )


def test_a_transformer_gives_class_token_and_patches_apart() -> None:
    network, preprocessing = build("timm/test_vit", "none", 0)[:2]
    layers = expand_layers(network.eval(), ("stages",), preprocessing["image_size"])
    assert layers[0] == "penultimate"
    assert {name.partition(":")[2] for name in layers[1:]} == {"cls", "mean"}


def test_one_pass_gives_every_layer_of_a_set() -> None:
    network = TwoStages().eval()
    backbone = Backbone(network, name="two", image_size=8, resize_size=8, mean=(0, 0, 0), std=(1, 1, 1), layers=["all"])
    assert backbone.dims == {
        "penultimate": 8,
        "stem": 4,
        "stem:max": 4,
        "stem:std": 4,
        "stem:grid": 16,
        "down": 6,
        "down:max": 6,
        "down:std": 6,
        "down:grid": 24,
        "last:max": 8,
        "last:std": 8,
        "last:grid": 32,
    }
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    features = backbone.embed_layers(pixels)
    with torch.no_grad():
        stem = network.stem(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
        down = network.down(stem)
    np.testing.assert_allclose(features["stem:max"], stem.amax((2, 3)), atol=1e-6)
    np.testing.assert_allclose(features["down:std"], down.numpy().std((2, 3)), atol=1e-6)


def test_a_network_that_is_known_has_the_same_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the metadata of an earlier run, without building it."""
    options = {"weights": "none", "layers": ("stages",), "device": "cpu"}
    built = load_backbone("resnet18", **options)
    assert built.layers == ("penultimate", "layer1", "layer2", "layer3")  # the mean of layer4 is the penultimate one
    monkeypatch.setattr("featcache.backbones.sources.registry.build", None)
    lazy = load_backbone("resnet18", lazy=True, **options)
    assert (lazy.layers, lazy.dims) == (built.layers, built.dims)


def test_a_layer_without_places_is_refused_by_name() -> None:
    with pytest.raises(BackboneError, match=r"^layer layer1:cls of resnet18: it has no class token$"):
        load_backbone("resnet18", weights="none", layers=("layer1:cls",), device="cpu")
