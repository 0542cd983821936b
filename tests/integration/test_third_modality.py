"""A modality is a folder: the commands take signals in .npy files with the modules of tests/helpers/toysignals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import featcache
from commands import as_json, done, featcache_cli, refused
from featcache.analysis.planning.rates import measure_rates
from featcache.cache.feature_cache import FeatureCache
from featcache.core.specs import ExtractSpec
from featcache.errors import SpecError
from toysignals import install, register
from toysignals.encoder import SignalEncoder, signal_answer
from toysignals.views import SignalSpec, make_signal_views


@pytest.fixture(autouse=True)
def _modality(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Quiet and loud signals; one of train is no signal."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 20), ("val", 6)):
        for label, scale in (("loud", 3.0), ("quiet", 1.0)):
            (tmp_path / "signals" / split / label).mkdir(parents=True)
            for number in range(n):
                np.save(tmp_path / f"signals/{split}/{label}/{number:02d}.npy", scale * rng.normal(size=16))
    (tmp_path / "signals/train/loud/broken.npy").write_bytes(b"no signal")
    return tmp_path / "signals"


def values_of(data: Path, name: str) -> NDArray[np.float32]:
    return np.load(data / name).astype(np.float32)


def test_features_are_those_of_the_network_and_views_those_of_the_recipe(data: Path, tmp_path: Path) -> None:
    done("extract", data, "-o", tmp_path / "c.h5", "--views", 2, "--dtype", "float32")
    cache = FeatureCache.open(tmp_path / "c.h5")
    train = cache.features("train")
    assert [name for name, _ in cache.skipped] == ["train/loud/broken.npy"]
    view = SignalSpec(augment="volume")
    for row, name in enumerate(train.samples.ids):
        sha256 = train.samples.sha256[row].tobytes()
        views = make_signal_views(values_of(data, name), view, sha256, range(3))
        np.testing.assert_array_equal(train.x[row], signal_answer(views))
    assert ExtractSpec.from_json(cache.spec.to_json()) == cache.spec
    assert cache.spec.flat()["modality"] == "signal"


def test_the_commands_work_on_signals(data: Path, tmp_path: Path) -> None:
    cache, head = tmp_path / "c.h5", tmp_path / "head"
    done("extract", data, "-o", cache)
    assert "of each training signal" in done("info", cache)
    done("fit-head", cache, "-o", head)
    predictions = as_json("predict", head, data / "val")["predictions"]
    assert [each["path"] for each in predictions] == [str(path) for path in sorted(data.glob("val/*/*.npy"))]
    right = sum(each["label"] == Path(each["path"]).parent.name for each in predictions)
    accuracy = json.loads((head / "run.json").read_text())["accuracy"]
    assert right == round(12 * accuracy)
    assert right > 9
    assert as_json("evaluate", head, data)["accuracy"] == accuracy
    (loud,) = featcache.Classifier.load(head).predict([9 * np.cos(np.arange(16.0))])
    assert loud.label == "loud"
    for arguments in (("verify", cache), ("diff", cache, data), ("curve", cache), ("doctor", cache, data),
                      ("update", cache, data), ("show", "confusion", head, "-o", tmp_path / "c.svg"),
                      ("show", "map", cache, "-o", tmp_path / "m.svg"), ("compare-heads", head, head),
                      ("predict", head, cache, "--data", data),
                      ("similar", cache, data / "val/loud/00.npy")):  # fmt: skip
        result = featcache_cli(*arguments)
        assert result.exit_code in ((0, 3) if arguments[0] == "doctor" else (0,)), (arguments, result.output)
        assert "image" not in result.output, arguments


def test_try_plan_and_views_auto_work_on_signals(data: Path, tmp_path: Path) -> None:
    text = done("try", data, "-o", tmp_path / "tried")
    assert "signals of 2 classes" in text
    assert "image" not in text
    assert (tmp_path / "tried/report.html").exists()
    rates = measure_rates(data, provided=dict.fromkeys(("forward_s", "solver_s_per_row"), 1.0))
    assert rates.modality == "signal"
    assert rates.sample_bytes == 128 + 16 * 8
    record = featcache.extract(data, tmp_path / "auto.h5", views="auto").view_trial
    assert record is not None
    assert record["recipes"] == ["volume"]


def test_what_the_modality_has_not_says_so(data: Path, tmp_path: Path) -> None:
    for arguments, reason in (
        (("extract", data, "-o", tmp_path / "c.h5", "--image-size", 32), "holds signals, and image_size is for images"),
        (("extract", data, "-o", tmp_path / "c.h5", "--backbone", "resnet18"), "resnet18 is a network for images"),
        (("finetune", data, "-o", tmp_path / "run"), "there is no modality 'signal'; there are: image, text"),
    ):
        assert reason in " ".join(refused(*arguments).split()), arguments


def test_own_networks_of_the_modality(data: Path, tmp_path: Path) -> None:
    cache = featcache.extract(data, tmp_path / "c.h5", backbone=SignalEncoder(("stage",)), dtype="float32").cache
    assert cache.dims == {"stage": 2}


def test_another_package_adds_it_by_entry_points(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = featcache.extract(data, tmp_path / "a.h5", views=1).cache
    monkeypatch.undo()
    install(monkeypatch, tmp_path / "site")
    done("extract", data, "-o", tmp_path / "b.h5", "--views", 1, "--backbone", "signal-statistics")
    there = FeatureCache.open(tmp_path / "b.h5")
    there.check_matches(here.spec, here.samples)
    assert np.array_equal(there.features("train").x, here.features("train").x)
    done("fit-head", tmp_path / "b.h5", "-o", tmp_path / "head", "--head", "centroid")
    assert done("predict", tmp_path / "head", data / "val/loud").count("loud") >= 6


def test_without_the_modality_its_caches_are_refused_by_name(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ExtractSpec("signal-statistics", "5a" * 32, SignalSpec(), views=0).to_json()
    monkeypatch.undo()
    with pytest.raises(SpecError, match=r"^there is no modality 'signal'; there are: image, text\."):
        ExtractSpec.from_json(spec)
