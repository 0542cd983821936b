"""activation_maps: contributions of places, from a convolution whose outputs numpy gives, and their sum, the logit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from commands import featcache_cli, refused
from featcache import Backbone, Classifier, FeatureCache, TrainConfig, extract, finetune, fit_head
from featcache.core.model_card import ModelCard
from featcache.errors import HeadError, PictureError, UnreadableImageError
from featcache.heads.io import load_head
from featcache.heads.linear_layer import layer
from featcache.models.activation_maps import activation_maps
from featcache.reports.why_figure import why_figure
from toytexts import toy_text_encoder

SIDE = 8
LAYERS = "penultimate,stem,stem:max,stem:std,stem:grid,tail"


class Net(nn.Module):
    """Squares of 2 x 2 pixels become places with 5 channels; the features are their mean."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.stem = nn.Conv2d(3, 5, 2, stride=2)
        with torch.no_grad():
            self.stem.weight.copy_(torch.randn(5, 3, 2, 2, generator=generator))
            self.stem.bias.zero_()
        self.act = nn.ReLU(inplace=True)
        self.tail = nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.act(self.stem(x)).mean((2, 3)))


class Flat(nn.Module):
    """Features that have no places."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :6]


def network(module: Callable[[], nn.Module] = Net, **options: Any) -> Backbone:
    options = {"image_size": SIDE, "resize_size": SIDE, "mean": (0.5,) * 3, "std": (0.25,) * 3, **options}
    return Backbone(module(), name="squares", **options)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Red ants and blue bees: a coloured square of 2 x 2 pixels at a random place of a noisy grey image."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6)):
        for label, channel in (("ants", 0), ("bees", 2)):
            for number in range(count):
                pixels = rng.integers(90, 110, (SIDE, SIDE, 3)).astype(np.uint8)
                row, column = 2 * rng.integers(0, SIDE // 2, 2)
                pixels[row : row + 2, column : column + 2] = 30
                pixels[row : row + 2, column : column + 2, channel] = 250
                path = tmp_path / "photos" / split / label / f"{number}-{row // 2}-{column // 2}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return tmp_path / "photos"


def fitted(photos: Path, head: str = "ridge", layers: str = "penultimate", **options: Any) -> Path:
    out = photos.parent / "head"
    cache = extract(photos, photos.parent / "cache.h5", backbone=network(layers=layers), views=0, dtype="float32").cache
    fit_head(cache, out, head=head, layer=layers, **options)
    return out


def test_maps_are_weights_times_the_places_of_the_convolution(photos: Path) -> None:
    head, path = fitted(photos), next((photos / "val/bees").iterdir())
    (found,) = activation_maps(head, path, backbone=network())
    with Image.open(path) as image:
        net, pixels = Net(), np.asarray(image)
    np.testing.assert_array_equal(found.pixels, pixels)
    squares = ((pixels / 255 - 0.5) / 0.25).reshape(4, 2, 4, 2, 3)
    places = np.einsum("iakbj,ojab->iko", squares, net.stem.weight.detach().numpy()).clip(0)
    weight, bias = layer(load_head(head / "head.safetensors"), 2)
    np.testing.assert_allclose(found.maps["penultimate"], places @ weight[1] / 16, atol=1e-5)
    assert found.constant == pytest.approx(bias[1], abs=1e-6)
    assert found.logit == pytest.approx(places.mean((0, 1)) @ weight[1] + bias[1], abs=1e-5)


@pytest.mark.parametrize("layers", ["penultimate", "stem", "stem:max", "stem:std", "stem:grid", "stem,tail", LAYERS])
def test_the_sum_of_places_and_constant_is_the_logit_of_predict(layers: str, photos: Path) -> None:
    head = fitted(photos, layers=layers)
    images = sorted((photos / "val").rglob("*.png"))
    maps = activation_maps(head, images, backbone=network(layers=layers))
    predictions = Classifier.load(head, backbone=network(layers=layers)).predict(images)
    for found, prediction in zip(maps, predictions, strict=True):
        assert (found.path, found.label) == (prediction.path, prediction.label)
        assert found.probability == pytest.approx(prediction.probability, abs=1e-5)
        assert sum(one.sum() for one in found.maps.values()) + found.constant == pytest.approx(found.logit, abs=1e-4)
        probability = prediction.probability
        assert probability is not None
        assert 2 * found.logit == pytest.approx(np.log(probability / (1 - probability)), abs=1e-3)
    if "tail" not in layers:  # vectors have no places: they are part of the constant
        assert len({round(found.constant * (1 if found.label == "bees" else -1), 4) for found in maps}) == 1


def test_the_place_of_the_coloured_square_speaks_most_for_the_class(photos: Path) -> None:
    images = sorted((photos / "val").rglob("*.png"))
    for path, found in zip(images, activation_maps(fitted(photos), images, backbone=network()), strict=True):
        row, column = map(int, path.stem.split("-")[1:])
        assert np.unravel_index(found.maps["penultimate"].argmax(), (4, 4)) == (row, column)
        assert np.unravel_index(found.heat.argmax(), (SIDE, SIDE))[0] // 2 == row
        assert found.heat.sum() == pytest.approx(found.maps["penultimate"].sum(), rel=0.35)  # edges are interpolated


def test_another_class_has_the_opposite_map_of_two(photos: Path) -> None:
    head, path = fitted(photos), next((photos / "val/bees").iterdir())
    (bees,) = activation_maps(head, path, backbone=network(), label="bees")
    (ants,) = activation_maps(head, path, backbone=network(), label="ants")
    np.testing.assert_allclose(ants.maps["penultimate"], -bees.maps["penultimate"], atol=1e-12)
    assert ants.probability + bees.probability == pytest.approx(1)


def test_a_fine_tuned_network_is_explained_by_its_own_layer(photos: Path) -> None:
    out = photos.parent / "run"
    finetune(photos, out, backbone=network(), config=TrainConfig(epochs=2), device="cpu")
    path = next((photos / "val/bees").iterdir())
    (found,) = activation_maps(out, path, backbone=network(), device="cpu")
    (prediction,) = Classifier.load(out, backbone=network(), device="cpu").predict([path])
    assert (found.label, found.probability) == (prediction.label, pytest.approx(prediction.probability, abs=1e-5))
    assert found.maps["penultimate"].sum() + found.constant == pytest.approx(found.logit, abs=1e-4)


def test_what_cannot_be_explained_says_why(photos: Path, tmp_path: Path) -> None:
    path = next((photos / "val/bees").iterdir())
    head = fitted(photos, head="knn")
    with pytest.raises(HeadError, match="only the logits of linear heads are sums over places"):
        activation_maps(head, path, backbone=network())
    fit_head(photos.parent / "cache.h5", tmp_path / "linear", head="ridge")
    with pytest.raises(HeadError, match="has no class 'wasps'; it has ants, bees"):
        activation_maps(tmp_path / "linear", path, backbone=network(), label="wasps")
    (photos / "broken.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImageError):
        activation_maps(tmp_path / "linear", photos / "broken.png", backbone=network())
    with pytest.raises(PictureError, match="25 images are too many"):
        why_figure(tmp_path / "linear", [path] * 25)


def test_features_without_places_are_refused(photos: Path, tmp_path: Path) -> None:
    cache = extract(photos, tmp_path / "flat.h5", backbone=network(Flat), views=0).cache
    fit_head(cache, tmp_path / "flat", head="ridge")
    with pytest.raises(HeadError, match="features without places"):
        activation_maps(tmp_path / "flat", next((photos / "val/bees").iterdir()), backbone=network(Flat))


def test_texts_are_refused(tmp_path: Path) -> None:
    rows = [f"{word} film {number},{label}" for number in range(9) for word, label in (("good", "yes"), ("bad", "no"))]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *rows]))
    encoder = toy_text_encoder()
    extract(tmp_path / "texts.csv", tmp_path / "texts.h5", backbone=encoder, views=0)
    fit_head(tmp_path / "texts.h5", tmp_path / "head", head="ridge")
    assert ModelCard.read(tmp_path / "head").spec.modality == "text"
    with pytest.raises(HeadError, match="is for texts, whose features have no places in an image"):
        activation_maps(tmp_path / "head", "good", backbone=toy_text_encoder())


def test_the_figure_has_a_pair_for_each_image(photos: Path) -> None:
    images = sorted((photos / "val").rglob("*.png"))[:4]
    axes = why_figure(fitted(photos), images, backbone=network())().axes
    shown = [one for one in axes if one.images]
    assert [len(one.images) for one in shown] == [1, 2] * 4
    assert [one.get_title() for one in shown[::2]] == [path.name for path in images]
    assert shown[1].get_title().startswith("ants ")


def test_the_command_writes_the_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label in ("ants", "bees"):
        for number in range(8):
            path = tmp_path / "photos" / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    options = {"backbone": "timm/test_resnet", "weights": "none", "image_size": 96, "views": 0}
    assert isinstance(extract(tmp_path / "photos", tmp_path / "cache.h5", **options).cache, FeatureCache)
    fit_head(tmp_path / "cache.h5", tmp_path / "head", head="ridge", layer="last")
    done = featcache_cli("show", "why", tmp_path / "head", path, "-o", tmp_path / "why.png")
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "why.png") as picture:
        assert picture.width > 300
    assert "has no class 'x'" in refused(
        "show", "why", tmp_path / "head", path, "-o", tmp_path / "x.png", "--class", "x"
    )
    missing = refused("show", "why", tmp_path / "head", tmp_path / "no.jpg", "-o", tmp_path / "x.png")
    assert "no.jpg" in missing
