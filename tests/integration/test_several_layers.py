"""Several layers, from images to predictions: extracted in one pass, chosen at fit time, found again by the head."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from commands import write_folder
from featcache.analysis.curves import label_curve
from featcache.backbones.backbone import Backbone
from featcache.backbones.load import load_backbone
from featcache.cache.feature_cache import FeatureCache
from featcache.core.model_card import ModelCard
from featcache.errors import CacheIncompleteError, ExportError
from featcache.extraction.estimate import estimate
from featcache.extraction.extract import extract
from featcache.heads.fit_head import fit_head
from featcache.metrics.predictions import FILE
from featcache.models.classifier import Classifier
from featcache.models.export.export import export
from featcache_cli.main import main

BACKBONE = {"backbone": "timm/test_resnet", "weights": "none", "image_size": 32, "device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_folder(folder)
    return folder


@pytest.fixture(scope="module")
def cache(data: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    path = tmp_path_factory.mktemp("cache") / "cache.h5"
    return extract(data, path, views=2, layers=["all"], dtype="float32", engine="pytorch", **BACKBONE).cache


def test_each_layer_is_a_dataset_of_its_own(cache: FeatureCache, data: Path, tmp_path: Path) -> None:
    """Extracted alone or with all the others, a layer is the same."""
    assert cache.spec.layers[0] == "penultimate"
    assert {layer.partition(":")[2] for layer in cache.spec.layers} == {"", "max", "std", "grid"}
    some = cache.spec.layers[2::3]
    alone = extract(
        data, tmp_path / "some.h5", views=2, layers=some, dtype="float32", engine="pytorch", **BACKBONE
    ).cache
    for layer in some:
        np.testing.assert_allclose(alone.features("train", layer).x, cache.features("train", layer).x, atol=1e-6)


def test_layers_lie_side_by_side_in_the_order_asked_for(cache: FeatureCache) -> None:
    first, second = cache.spec.layers[3], cache.spec.layers[1]
    joined = cache.features("train", f"{first},{second}").x[:]
    parts = [np.asarray(cache.features("train", layer).x) for layer in (first, second)]
    np.testing.assert_array_equal(joined, np.concatenate(parts, axis=2))
    assert cache.features("val", "all").x.shape[2] == sum(cache.dims.values())


@pytest.mark.parametrize("head", ["linear", "head2toe", "knn"])
def test_a_saved_head_predicts_what_it_said_of_val(head: str, cache: FeatureCache, data: Path, tmp_path: Path) -> None:
    fit_head(cache, tmp_path / "head", head=head, layer="all")
    assert ModelCard.read(tmp_path / "head").layer == ",".join(cache.spec.layers)
    lines = (tmp_path / "head" / FILE).read_text(encoding="utf-8").splitlines()[1:]
    said = {line.split(",")[0]: line.split(",")[2:] for line in lines}
    assert len(said) == len(cache.samples.rows("val"))
    for one in Classifier.load(tmp_path / "head", device="cpu").predict(sorted((data / "val").rglob("*.png"))):
        label, probability = said[Path(one.path).relative_to(data).as_posix()]
        assert one.label == label
        assert one.probability == pytest.approx(float(probability), abs=1e-4)


def test_a_head_of_several_layers_is_exported_as_a_graph(cache: FeatureCache, tmp_path: Path) -> None:
    """`export` runs it in a fresh process, where it has to give the same logits."""
    fit_head(cache, tmp_path / "head", layer="stages")
    assert export(tmp_path / "head", tmp_path / "head.pt2", "torch-export").difference < 1e-5
    with pytest.raises(ExportError, match="A state dict holds the plain network, which continues after that layer"):
        export(tmp_path / "head", tmp_path / "head.pth", "state-dict")


def test_a_curve_is_of_the_layers_that_are_named(cache: FeatureCache) -> None:
    curve = label_curve(cache, shares=[1.0], layer="stages")
    assert curve.points[-1].accuracy == fit_head(cache, layer="stages").accuracy.accuracy


def test_a_layer_that_was_not_extracted_is_refused(cache: FeatureCache) -> None:
    with pytest.raises(CacheIncompleteError) as error:
        fit_head(cache, layer="penultimate,layer9")
    assert str(error.value) == (
        f"{cache.path} has no layer 'penultimate,layer9'; it has {', '.join(cache.dims)}. "
        "Extract again to another file with --layers penultimate,layer9."
    )


def test_the_command_line_extracts_stages_and_fits_all_of_them(data: Path, tmp_path: Path) -> None:
    options = ["--backbone", "timm/test_resnet", "--weights", "none", "--image-size", "32", "--views", "0"]
    command = ["extract", str(data), "-o", str(tmp_path / "c.h5"), *options, "--layers", "stages"]
    run = CliRunner().invoke(main, command)
    assert run.exit_code == 0, run.output
    stages = FeatureCache.open(tmp_path / "c.h5").spec.layers
    assert stages == load_backbone("timm/test_resnet", weights="none", layers=("stages",), device="cpu").layers
    again = CliRunner().invoke(
        main, ["extract", str(data), "-o", str(tmp_path / "c.h5"), *options, "--layers", "stages"]
    )
    assert "nothing to extract" in again.output
    fit = CliRunner().invoke(main, ["fit-head", str(tmp_path / "c.h5"), "--layer", "all", "--head", "head2toe"])
    assert fit.exit_code == 0, fit.output
    assert "features, C=" in fit.output


@pytest.mark.parametrize(
    ("text", "names"),
    [("stages", ["stages"]), ("penultimate", ["penultimate"]), ("layer1:max, last", ["layer1:max", "last"])],
)
def test_a_text_names_layers_as_a_sequence_does(text: str, names: list[str], data: Path, tmp_path: Path) -> None:
    network: dict[str, Any] = {**BACKBONE, "views": 0}
    cache = extract(data, tmp_path / "text.h5", layers=text, **network).cache
    assert cache.spec == extract(data, tmp_path / "names.h5", layers=names, **network).cache.spec
    assert estimate(data, tmp_path / "text.h5", layers=text, **network).views == 0
    load: dict[str, Any] = {"name": "timm/test_resnet", "weights": "none", "device": "cpu"}
    backbone = load_backbone(layers=text, **load)
    assert backbone.layers == load_backbone(layers=names, **load).layers == cache.spec.layers
    assert Backbone(backbone.module, name="own", layers=text).layers == cache.spec.layers
    backbone.keep_layers(backbone.layers[0])
    assert backbone.layers == cache.spec.layers[:1]
    one = dataclasses.replace(cache.spec, layers=cache.spec.layers[:1])
    assert dataclasses.replace(cache.spec, layers=cache.spec.layers[0]) == one
