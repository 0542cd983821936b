"""Every kind of file that this version keeps is read by every later one, and says what it said.

tests/golden/make.py wrote the files, and what each said then.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import sklearn

from featcache.cache.feature_cache import FeatureCache
from featcache.cache.verify import verify
from featcache.extraction.update import update
from featcache.finetuning.finetune import finetune
from featcache.heads.fit_head import fit_head
from featcache.metrics.predictions import read_predictions
from featcache.models.evaluate import evaluate
from featcache.training.loop import TrainConfig
from trainable import staged_backbone, trainable_backbone

GOLDEN = Path(__file__).parents[1] / "golden"
CONFIG = TrainConfig(epochs=2, batch_size=4, lr=0.02)


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_golden", GOLDEN / "make.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE = _module()
CACHES = ["one-layer", "several-layers", "several-labels"]
OF_LABELS = ["several-labels", "several-labels-bayes"]
MODELS = [*(f"heads/{name}" for name in (*MAKE.HEADS, *OF_LABELS)), "runs/all", "runs/head"]


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("golden")
    with tarfile.open(GOLDEN / "formats-1.tar.xz") as archive:
        archive.extractall(place, filter="data")
    return place / "formats-1"


@pytest.fixture(scope="module")
def said(golden: Path) -> dict[str, Any]:
    found = json.loads((golden / "said.json").read_text())
    assert isinstance(found, dict)
    return found


def backbone_of(model: str) -> Any:
    if model.startswith("runs/"):
        return trainable_backbone()
    return MAKE.layered() if "layer" in MAKE.HEADS.get(Path(model).name, {}) else staged_backbone()


def test_all_that_was_written_is_looked_at(said: dict[str, Any]) -> None:
    assert (list(said["caches"]), sorted(said["models"])) == (CACHES, sorted(MODELS))


@pytest.mark.parametrize("name", CACHES)
def test_a_cache_opens_and_has_its_features(name: str, golden: Path, said: dict[str, Any]) -> None:
    cache, before = FeatureCache.open(golden / f"{name}.h5"), said["caches"][name]
    assert cache.complete
    assert (cache.spec.digest(), cache.samples.digest()) == (before["digest"], before["samples"])
    assert list(cache.samples.classes) == before["classes"]
    for layer, sums in before["sums"].items():
        found = [np.asarray(cache.features(split, layer).x, np.float64).sum() for split in ("train", "val")]
        np.testing.assert_allclose(found, sums, rtol=1e-12)
    assert verify(golden / f"{name}.h5", golden / ("colours/list.csv" if "labels" in name else "photos")).ok


def test_a_cache_is_brought_up_to_date_and_learnt_from(golden: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(golden / "one-layer.h5", tmp_path / "c.h5"))
    photos = Path(shutil.copytree(golden / "photos", tmp_path / "photos"))
    (photos / "train/ants/000.png").unlink()
    found = update(path, photos, backbone=staged_backbone())
    assert (found.carried, found.extracted, list(found.changes)) == (17, 0, ["removed"])
    assert fit_head(path, head="linear").accuracy.n == 5


@pytest.mark.parametrize("name", MODELS)
def test_a_model_predicts_what_it_predicted(name: str, golden: Path, said: dict[str, Any]) -> None:
    if (golden / name / "head.skops").exists() and tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 9):
        pytest.skip("written by scikit-learn 1.9, whose objects older versions do not read")
    found, before = MAKE.answers(golden / name, backbone_of(name)), said["models"][name]
    assert [one["label"] for one in found] == [one["label"] for one in before]
    for after, expected in zip(found, before, strict=True):
        shares = [dict(map(tuple, one["top"])) for one in (after, expected)]
        assert shares[0].keys() == shares[1].keys()
        for label, share in shares[1].items():
            assert shares[0][label] == (share if share is None else pytest.approx(share, abs=2e-4))


@pytest.mark.parametrize("name", MODELS)
def test_the_predictions_beside_a_model_are_read(name: str, golden: Path) -> None:
    rows = read_predictions(golden / name)
    assert len(rows) == (8 if "several-labels" in name else 5)
    if name.startswith("runs/"):
        figures = evaluate(golden / name, golden / "photos", split="val", backbone=trainable_backbone(), device="cpu")
        assert figures.accuracy.accuracy == np.mean([row.right for row in rows])


@pytest.mark.parametrize("mode", ["all", "head"])
def test_a_run_goes_on(mode: Any, golden: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(golden / f"runs/{mode}", tmp_path / "run"))
    before = json.loads((run / "run.json").read_text())["history"]
    longer = TrainConfig(**{**vars(CONFIG), "epochs": 3})
    images = shutil.copy(golden / "images.h5", tmp_path / "images.h5") if mode == "all" else None
    options: dict[str, Any] = {"backbone": trainable_backbone(), "mode": mode, "workers": 1, "image_cache": images}
    same = finetune(golden / "photos", run, config=CONFIG, **options)
    assert "the run was finished: nothing was trained. To train longer: more --epochs, with --resume" in same.notes
    found = finetune(golden / "photos", run, config=longer, resume=True, **options)
    assert [epoch.loss for epoch in found.history[:2]] == [epoch["loss"] for epoch in before]
    assert len(found.history) == 3


def test_an_image_cache_gives_the_pixels_that_it_gave(golden: Path, tmp_path: Path) -> None:
    images = Path(shutil.copy(golden / "images.h5", tmp_path / "images.h5"))
    written = images.stat().st_mtime_ns
    before = json.loads((golden / "runs/all/run.json").read_text())["history"]
    found = finetune(
        golden / "photos", tmp_path / "run", backbone=trainable_backbone(), config=CONFIG, workers=1, image_cache=images
    )
    np.testing.assert_allclose([epoch.loss for epoch in found.history], [epoch["loss"] for epoch in before], rtol=1e-4)
    assert images.stat().st_mtime_ns == written  # nothing was decoded again
