"""Classifier: what the cache's head said of an image is what the saved model says of its file."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featcache.backbones import load_backbone
from featcache.cache import FeatureCache
from featcache.card import FILE, write_json
from featcache.classifier import Classifier, Prediction
from featcache.errors import BackboneError, HeadError
from featcache.extraction import extract
from featcache.finetuning import finetune
from featcache.fitting import fit_head
from featcache.heads import classify
from featcache.images import decode
from featcache.manifest import read_manifest
from featcache.spec import StorageDtype
from featcache.training import Recipe
from toys import random_image, toy_backbone

NET: dict[str, Any] = {"image_size": 32, "device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for split, count in (("train", 6), ("val", 4)):
        for label, name in enumerate(("ants", "bees", "wasps")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                seed = 100 * label + 10 * number + len(split)
                random_image(seed, 50, 40, tint=label).save(root / split / name / f"{number}.png")
    return root


def cached(data: Path, dtype: StorageDtype, **options: Any) -> FeatureCache:
    out = data.parent / f"{data.name}-{dtype}.h5"
    return extract(data, out, dtype=dtype, views=1, **NET, **options).cache


@pytest.fixture(scope="module")
def cache(data: Path) -> FeatureCache:
    return cached(data, "float32", seed=4)


@pytest.fixture
def model(cache: FeatureCache, tmp_path: Path) -> Path:
    fit_head(cache, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def paths(data: Path) -> list[Path]:
    manifest = read_manifest(data)
    return [manifest.path(row) for row in manifest.samples.rows("val")]


def table(predictions: list[Prediction], classes: tuple[str, ...]) -> np.ndarray:
    """Probabilities, shape (n, c), in the order of the classes."""
    return np.array([[dict(one.top)[name] for name in classes] for one in predictions])


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 1e-3)])
@pytest.mark.parametrize("head", ["linear", "sgd", "knn"])
def test_cached_features_and_files_give_the_same_probabilities(
    head: str, dtype: StorageDtype, tolerance: float, data: Path, paths: list[Path], tmp_path: Path
) -> None:
    cache = cached(data, dtype, seed=4)
    fit = fit_head(cache, tmp_path / "model", head=head, parameters={"lr": 0.1} if head == "sgd" else {})
    expected = classify(fit.estimator, cache.features("val").clean(), 3)[1]
    classifier = Classifier.load(tmp_path / "model", device="cpu")
    found = classifier.predict(paths, batch_size=5)
    assert expected is not None
    assert np.ptp(expected, axis=0).max() > 0.1
    np.testing.assert_allclose(table(found, classifier.classes), expected, atol=tolerance)
    assert [one.path for one in found] == [str(path) for path in paths]
    sure = np.diff(np.sort(expected, axis=1)[:, -2:])[:, 0] > 2 * tolerance
    assert sure.any()
    labels = np.array([one.label for one in found])
    assert labels[sure].tolist() == np.array(classifier.classes)[expected.argmax(1)][sure].tolist()


def test_the_top_classes_are_named_most_probable_first(model: Path, paths: list[Path]) -> None:
    classifier = Classifier.load(model, device="cpu")
    every, two = classifier.predict(paths), classifier.predict(paths, top=2)
    for one, short in zip(every, two, strict=True):
        shares = [share for _, share in one.top]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1)
        assert short.top == one.top[:2]
        assert (one.label, one.probability, one.error) == (*one.top[0], None)
        assert str(short) == "\t".join([short.path, *(f"{name} {share:.4f}" for name, share in short.top)])
        assert json.loads(json.dumps(one.to_dict()))["top"][0] == {
            "label": one.label,
            "probability": one.probability,
        }


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_unreadable_files_keep_their_place(batch_size: int, model: Path, paths: list[Path], tmp_path: Path) -> None:
    classifier = Classifier.load(model, device="cpu")
    clean = classifier.predict(paths)
    (tmp_path / "broken.png").write_bytes(b"")
    mixed = [
        tmp_path / "broken.png",
        *paths[:2],
        tmp_path / "absent.png",
        tmp_path / "broken.png",
        *paths[2:],
        tmp_path,
    ]
    found = classifier.predict(map(str, mixed), batch_size=batch_size)
    assert [one.path for one in found] == [str(path) for path in mixed]
    assert [one.error for one in found if one.error] == [
        "the file is empty (0 bytes)",
        "No such file or directory",
        "the file is empty (0 bytes)",
        "Is a directory",
    ]
    good = [one for one in found if not one.error]
    assert [one.label for one in good] == [one.label for one in clean]
    np.testing.assert_allclose(table(good, classifier.classes), table(clean, classifier.classes), atol=1e-5)
    bad = found[0]
    assert (bad.label, bad.top, bad.probability) == (None, (), None)
    assert str(bad) == f"{tmp_path / 'broken.png'}\tunreadable: the file is empty (0 bytes)"


def test_arrays_are_taken_like_files(model: Path, paths: list[Path]) -> None:
    classifier = Classifier.load(model, device="cpu")
    arrays = [decode(path.read_bytes()) for path in paths]
    found = classifier.predict(arrays)
    assert [one.path for one in found] == [""] * len(paths)
    assert [one.top for one in found] == [one.top for one in classifier.predict(paths)]
    assert classifier.predict([]) == []


def test_pictures_are_predicted_as_they_come(model: Path, paths: list[Path]) -> None:
    taken: list[Path] = []

    def give() -> Any:
        for path in paths:
            taken.append(path)
            yield path

    stream = Classifier.load(model, device="cpu").stream(give(), batch_size=3)
    assert next(stream).path == str(paths[0])
    assert taken == paths[:3]
    stream.close()


def test_a_head_without_probabilities_gives_the_class_alone(
    cache: FeatureCache, paths: list[Path], tmp_path: Path
) -> None:
    fit = fit_head(cache, tmp_path / "model", head="svm")
    classifier = Classifier.load(tmp_path / "model", device="cpu")
    expected = fit.estimator.predict(cache.features("val").clean())
    found = classifier.predict(paths)
    assert [one.label for one in found] == [classifier.classes[index] for index in expected]
    assert all(one.top == ((one.label, None),) and one.probability is None for one in found)
    assert str(found[0]) == f"{paths[0]}\t{found[0].label}"


def state_file(path: Path, factor: float) -> Path:
    state = load_backbone(device="cpu").module.state_dict()
    state["conv_stem.weight"] *= factor
    torch.save(state, path)
    return path


def test_moved_weights_are_found_and_changed_ones_refused(data: Path, paths: list[Path], tmp_path: Path) -> None:
    weights, moved = state_file(tmp_path / "a.pth", 1.0), tmp_path / "moved.pth"
    cache = extract(data, tmp_path / "own.h5", views=0, weights=str(weights), **NET).cache
    fit_head(cache, tmp_path / "model")
    before = Classifier.load(tmp_path / "model", device="cpu").predict(paths)
    shutil.move(weights, moved)
    with pytest.raises(BackboneError, match=f"there is no weights file {weights}"):
        Classifier.load(tmp_path / "model", device="cpu")
    assert Classifier.load(tmp_path / "model", weights=str(moved), device="cpu").predict(paths) == before
    state_file(weights, 1.5)
    other = extract(data, tmp_path / "other.h5", views=0, weights=str(weights), **NET).cache
    ours, theirs = cache.spec.weights_sha256[:12], other.spec.weights_sha256[:12]
    for given in (None, str(weights)):
        with pytest.raises(BackboneError) as caught:
            Classifier.load(tmp_path / "model", weights=given, device="cpu")
        assert str(caught.value) == (
            f"{tmp_path / 'model'} was fitted on weights {ours}... of efficientnet_lite0, but "
            f"{weights} has {theirs}.... Give the right file with --weights."
        )


def change(model: Path, **fields: Any) -> None:
    write_json(model / FILE, {**json.loads((model / FILE).read_text()), **fields})


def test_a_tampered_model_json_is_refused(model: Path, tmp_path: Path) -> None:
    whole = (model / FILE).read_bytes()
    change(model, digest="0" * 64)
    with pytest.raises(HeadError, match=r"model\.json is damaged: its spec does not have its digest$"):
        Classifier.load(model)
    (model / FILE).write_bytes(whole)
    shutil.copy(model / "head.safetensors", tmp_path / "head.safetensors")
    change(model, file="../head.safetensors")
    with pytest.raises(HeadError, match=r"names a file outside its folder: \.\./head\.safetensors$"):
        Classifier.load(model)


def test_class_names_that_are_not_as_many_as_the_head_s_are_refused(model: Path) -> None:
    change(model, classes=["ants", "bees"])
    with pytest.raises(HeadError, match="classes"):
        Classifier.load(model, device="cpu")


def test_a_head_of_another_width_is_refused(model: Path, data: Path, tmp_path: Path) -> None:
    toy = extract(data, tmp_path / "toy.h5", backbone=toy_backbone(), views=0).cache
    fit_head(toy, tmp_path / "toy")
    shutil.copy(tmp_path / "toy" / "head.safetensors", model / "head.safetensors")
    with pytest.raises(HeadError, match="features"):
        Classifier.load(model, device="cpu")


def test_another_layer_is_predicted_from(data: Path, paths: list[Path], tmp_path: Path) -> None:
    cache = extract(data, tmp_path / "a.h5", views=0, dtype="float32", layers=("penultimate", "blocks.3"), **NET).cache
    fit = fit_head(cache, tmp_path / "model", layer="blocks.3")
    classifier = Classifier.load(tmp_path / "model", device="cpu")
    expected = classify(fit.estimator, cache.features("val", "blocks.3").clean(), 3)[1]
    np.testing.assert_allclose(table(classifier.predict(paths), classifier.classes), expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["all", "head"])
def test_a_fine_tuned_run_loads_and_reproduces_its_val_accuracy(
    mode: Any, data: Path, paths: list[Path], tmp_path: Path
) -> None:
    run = finetune(
        data,
        tmp_path / "run",
        mode=mode,
        recipe=Recipe(epochs=3, batch_size=6, lr=0.005),
        seed=4,
        **NET,
    )
    classifier = Classifier.load(tmp_path / "run", device="cpu")
    found = classifier.predict(paths)
    right = [one.label == Path(one.path).parent.name for one in found]
    assert np.mean(right) == run.best.val_accuracy == classifier.card.metrics["accuracy"]
    shares = table(found, classifier.classes)
    truth = [classifier.classes.index(Path(one.path).parent.name) for one in found]
    loss = -np.log(shares[np.arange(len(truth)), truth]).mean()
    assert loss == pytest.approx(run.best.val_loss, rel=1e-4)


@pytest.mark.parametrize("what", ["pipe", "absent"])
def test_a_model_without_its_weights_is_refused_and_not_waited_for(what: str, model: Path) -> None:
    (model / "head.safetensors").unlink()
    if what == "pipe":
        os.mkfifo(model / "head.safetensors")
    with pytest.raises(HeadError) as caught:
        Classifier.load(model, device="cpu")
    assert str(caught.value) == f"{model} is damaged: it has no head.safetensors. Fit or train it again."
