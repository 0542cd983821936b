"""The checks with images: batches, other features, other scales, plain pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from commands import toy_cache, write_folder
from diagnoses import find, kinds
from featcache.analysis.doctor.doctor import doctor
from featcache.analysis.doctor.findings import DoctorReport
from featcache.analysis.doctor.image_checks import _average_pixels, _of_few_classes
from featcache.backbones.backbone import Backbone
from featcache.cache.feature_cache import FeatureCache
from featcache.core.specs import StorageDtype
from featcache.errors import CacheMismatchError, EmptyFolderError
from featcache.extraction import request
from featcache.extraction.extract import extract
from toys import TOY_MEAN, TOY_SIZE, TOY_STD, ToyNet, random_image, toy_backbone

COUNTS = {"train/ants": 40, "train/bees": 40, "val/ants": 6, "val/bees": 6}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("probes") / "data", COUNTS)


@pytest.fixture(scope="module")
def cache(data: Path) -> Path:
    return toy_cache(data, data.parent / "a.h5")


def backbone_of(module: nn.Module, **options: object) -> Backbone:
    settings = {"image_size": TOY_SIZE, "resize_size": TOY_SIZE + 2, "mean": TOY_MEAN, "std": TOY_STD, **options}
    return Backbone(module, name="toy", **settings)  # type: ignore[arg-type]


def made_by(backbone: Backbone, data: Path, folder: Path) -> FeatureCache:
    return extract(data, folder / "b.h5", backbone=backbone, views=1, workers=2, dtype="float32").cache


def summary(report: DoctorReport, name: str) -> str:
    (check,) = (check for check in report.checks if check.name == name)
    return check.summary


def test_a_network_that_gives_what_is_stored_is_sound(data: Path, cache: Path) -> None:
    report = doctor(cache, data, backbone=toy_backbone())
    assert report.status == 0
    assert summary(report, "network") == (
        "features of 12 images differ by at most 0.00% between single images and a batch, and by 0.00% from the cache"
    )
    assert summary(report, "scales").startswith("a head is right on 100% of 80 images that it was not fitted to")
    assert kinds(report) == ["no better than pixels"]  # the tint is in the pixels, too
    assert report.findings[0].severity == "note"


class OfBatch(nn.Module):
    """Less the mean of its batch, as a BatchNorm in train mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = x.mean((2, 3))
        return means - means.mean(0)


class NeverEval(ToyNet):
    """Undoes `eval()`."""

    def train(self, mode: bool = True) -> NeverEval:
        super().train(True)
        return self


def test_features_that_depend_on_the_batch_are_an_error(data: Path, tmp_path: Path) -> None:
    backbone = backbone_of(OfBatch())
    report = doctor(made_by(backbone, data, tmp_path), data, backbone=backbone)
    finding = find(report, "drift with batch")
    assert finding is not None
    assert (finding.severity, len(finding.images), report.status) == ("error", 12, 4)
    assert "call eval()" in finding.remedy


def test_a_network_in_train_mode_is_an_error(data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the width is measured with one image, which a network in train mode refuses
    monkeypatch.setattr("featcache.backbones.backbone.measure_dims", lambda _backbone: {"penultimate": 3})
    report = doctor(cache, data, backbone=backbone_of(NeverEval()))
    finding = find(report, "drift with batch")
    assert finding is not None
    assert "does not accept a single image: Expected more than 1 value per channel" in finding.what
    assert report.status == 4


def test_other_features_than_stored_are_an_error(data: Path, cache: Path) -> None:
    other = ToyNet()
    other.norm.running_mean = torch.tensor([0.5, 0.5, 0.5])
    report = doctor(cache, data, backbone=backbone_of(other))
    finding = find(report, "other features")
    assert finding is not None
    assert (finding.severity, len(finding.images)) == ("error", 12)
    assert find(report, "drift with batch") is None
    scores = [example.score or 0.0 for example in finding.images]
    assert scores == sorted(scores, reverse=True)


def test_another_scale_than_the_networks_own_is_an_error_that_names_the_fields(data: Path, tmp_path: Path) -> None:
    cache = made_by(toy_backbone(mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3), data, tmp_path)
    report = doctor(cache, data, backbone=toy_backbone())
    finding = find(report, "input scale")
    assert finding is not None
    assert finding.severity == "error"
    assert "mean (0.0, 0.0, 0.0), toy has (0.5, 0.25, 0.75); std (0.00392" in finding.what
    assert "interpolation" not in finding.what
    assert find(report, "other features") is None  # on that scale they are what is stored


class Saturating(nn.Module):
    """The tint, where pixels are about 0 to 1; of raw pixels hardly anything, and noise."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = x.mean((2, 3))
        return torch.cat([10 * means.clamp(0, 1), torch.sin(1e5 * means)], 1)


@pytest.mark.parametrize("layer", ["all", "stages", "last", "layer2,layer1:std", "layer1:max"])
def test_one_of_several_layers_is_asked_of_the_network(layer: str, data: Path, tmp_path: Path) -> None:
    made = {"backbone": "timm/test_resnet", "weights": "none", "image_size": 32, "precision": "fp32"}
    cache = extract(data, tmp_path / "l.h5", views=1, layers=["all"], dtype="float32", device="cpu", **made).cache
    report = doctor(cache, data, layer=layer, device="cpu")
    assert summary(report, "network").startswith(
        "features of 12 images differ by at most 0.00% between single images and a batch, and by 0.0"
    )
    assert not {"other features", "drift with batch", "input scale"} & set(kinds(report))
    assert summary(report, "scales").startswith("a head is right on ")


def test_a_scale_that_the_weights_were_not_trained_on_is_told(data: Path, tmp_path: Path) -> None:
    raw = backbone_of(Saturating(), mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3)
    report = doctor(made_by(raw, data, tmp_path), data, backbone=raw)
    assert report.status == 4
    assert {"no better than guessing", "no better than pixels"} <= set(kinds(report, "error"))
    finding = find(report, "other scale is better")
    assert finding is not None
    assert finding.severity == "warning"
    assert "mean 0 and std 1, gives 100%" in finding.what
    assert find(report, "input scale") is None


def test_images_that_changed_or_are_gone_are_named(data: Path, cache: Path, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other", COUNTS)
    random_image(4711).save(other / "train/ants/003.png")
    (other / "train/bees/005.png").unlink()
    finding = find(doctor(cache, other, backbone=toy_backbone()), "other images")
    assert finding is not None
    assert {example.image for example in finding.images} == {"train/ants/003.png", "train/bees/005.png"}
    assert finding.severity == "warning"


def test_another_folder_is_refused(data: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        EmptyFolderError,
        match=r"^none of the 80 images of .* is in .*empty; for example train/.*: .*\. Give the folder or the CSV",
    ):
        doctor(cache, tmp_path / "empty")


def test_a_network_that_cannot_be_had_is_not_looked_at(
    data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = doctor(cache, data)
    assert (report.status, summary(report, "network")[:14]) == (0, "not run again:")
    assert "network" in [check.name for check in report.checks if not check.ran]

    def others(*_: object) -> Backbone:
        raise CacheMismatchError("the weights are others")

    monkeypatch.setattr(request, "load_cache_backbone", others)
    report = doctor(cache, data)
    assert (kinds(report, "error"), report.status) == (["other weights"], 4)


def test_squares_of_pixels_are_means() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 19, 19, 3), dtype=np.uint8)
    averages = _average_pixels(pixels)
    assert averages.shape == (2, 8, 8, 3)
    np.testing.assert_allclose(averages[1, 2, 5], pixels[1, 4:6, 10:12].mean(axis=(0, 1)) / 255, rtol=1e-5)
    np.testing.assert_allclose(_average_pixels(pixels[:, :5, :5]), pixels[:, :5, :5] / 255, rtol=1e-5)


def test_scales_are_tried_on_images_of_the_largest_classes() -> None:
    y = np.repeat(np.arange(6), [5, 60, 50, 40, 30, 2])
    assert np.bincount(y[_of_few_classes(y)], minlength=6).tolist() == [0, 24, 24, 24, 24, 0]
    assert np.bincount(y[_of_few_classes(y[:65])]).tolist() == [5, 48]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_network_loaded_by_its_name_gives_what_is_stored(data: Path, tmp_path: Path, dtype: StorageDtype) -> None:
    """Random weights of this network make features of 1e-9: float16 holds zeros, which is report, and no drift."""
    made = extract(
        data,
        tmp_path / "r.h5",
        backbone="mobilenet_v3_small",
        weights="none",
        image_size=32,
        views=1,
        dtype=dtype,
    )
    report = doctor(made.cache, data)
    assert "network" in [check.name for check in report.checks if check.ran]
    assert not {"other features", "input scale", "drift with batch"} & set(kinds(report))
    assert ("dead dimensions" in kinds(report, "error")) == (dtype == "float16")
