"""JoinedNetwork: a head on two networks predicts images as it predicts the features of both caches."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import done, refused
from featcache.errors import HeadError
from featcache.extraction.extract import extract
from featcache.heads.fit_head import fit_head
from featcache.models.activation_maps import activation_maps
from featcache.models.classifier import Classifier
from featcache.models.evaluate import evaluate
from featcache.models.export.export import export
from featcache.models.feature_classifier import FeatureClassifier
from featcache.models.load import open_model

MakeFolder = Callable[..., Path]


@pytest.fixture
def work(make_folder: MakeFolder) -> Path:
    """A folder with images, a cache at 32 and one at 48 pixels, and a head on both."""
    folder = make_folder({"train/ants": 8, "train/bees": 8, "val/ants": 4, "val/bees": 4})
    work = folder.parent
    for size in (32, 48):
        extract(folder, work / f"at{size}.h5", backbone="timm/test_resnet", weights="none", image_size=size, views=0)
    fit_head([work / "at48.h5", work / "at32.h5"], work / "head", head="ridge", layer="last")
    return work


def test_images_and_caches_have_the_same_predictions(work: Path) -> None:
    folder = work / "data"
    classifier = Classifier.load(work / "head")
    assert "features (at48/penultimate,at32/penultimate) of timm/test_resnet and timm/test_resnet" in str(classifier)
    live = classifier.predict(folder / "val", batch_size=3)
    caches = [work / "at32.h5", work / "at48.h5"]
    cached = FeatureClassifier.load(work / "head").predict(caches, folder, split="val")
    assert [prediction.path for prediction in live] == [prediction.path for prediction in cached]
    assert [prediction.label for prediction in live] == [prediction.label for prediction in cached]
    for one, other in zip(live, cached, strict=True):
        np.testing.assert_allclose(dict(one.top)["ants"], dict(other.top)["ants"], atol=2e-3)
    assert classifier.predict(caches, split="val")[0].label == cached[0].label
    with Image.open(live[0].path) as image:
        (in_memory,) = classifier.predict(np.asarray(image.convert("RGB")))
    assert in_memory.label == live[0].label
    broken = folder / "val" / "ants" / "broken.png"
    broken.write_bytes(b"")
    assert classifier.predict([broken])[0].error
    assert evaluate(work / "head", folder).accuracy.n == 8


def test_what_needs_one_network_is_refused(work: Path) -> None:
    message = r"uses features of several networks \(at48: timm/test_resnet, at32: .*Fit a head to one of the caches"
    with pytest.raises(HeadError, match=message):
        export(work / "head", work / "x.onnx", "onnx")
    with pytest.raises(HeadError, match=message):
        activation_maps(work / "head", work / "data/val")
    with pytest.raises(HeadError, match="--backbone gives one network"):
        open_model(work / "head", backbone=object(), several=True)  # type: ignore[arg-type]
    with pytest.raises(HeadError, match=r"say which of them 'w.pth' is for, as in at48=PATH, at32=PATH"):
        Classifier.load(work / "head", weights="w.pth")
    assert not (work / "x.onnx").exists()


def test_commands_take_several_caches(work: Path) -> None:
    caches = [work / "at32.h5", work / "at48.h5"]
    text = done("fit-head", *caches, "-o", work / "both", "--head", "ridge", "--layer", "last", "--report",
                work / "report.html")  # fmt: skip
    assert re.search("the head uses at.. and at.., as the layers were named", text)
    page = (work / "report.html").read_text()
    assert "ridge head on timm/test_resnet and timm/test_resnet" in page
    assert page.count("Where the features come from") == 2
    lines = done("predict", work / "both", *caches[::-1], "--split", "val", "--format", "csv").splitlines()
    assert len(lines) == 9
    assert "takes features of 2 networks (at32: timm/test_resnet" in refused("predict", work / "both", caches[0])
    assert "took" in done("info", caches[0])
