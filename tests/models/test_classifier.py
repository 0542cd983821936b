"""Classifier: what the cache's head said of an image is what the saved model says of its file."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from commands import drop_hashes
from featcache.backbones.backbone import Backbone
from featcache.backbones.engines.select import CONVERSION_PAYS
from featcache.backbones.load import load_backbone
from featcache.cache.feature_cache import FeatureCache
from featcache.core.model_card import FILE, write_json
from featcache.core.specs import StorageDtype
from featcache.data.manifest import read_manifest
from featcache.errors import BackboneError, DataLayoutError, HeadError
from featcache.extraction.extract import extract
from featcache.finetuning.finetune import finetune
from featcache.heads.fit_head import fit_head
from featcache.heads.predict import classify
from featcache.models.classifier import Classifier
from featcache.models.prediction import Prediction
from featcache.training.loop import TrainConfig
from featcache.vision.decode import decode
from featcache.vision.memory_images import check_picture
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
    return np.array([[dict(prediction.top)[name] for name in classes] for prediction in predictions])


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 1e-3)])
@pytest.mark.parametrize("head", ["linear", "sgd", "knn"])
def test_cached_features_and_files_give_the_same_probabilities(
    head: str, dtype: StorageDtype, tolerance: float, data: Path, paths: list[Path], tmp_path: Path
) -> None:
    cache = cached(data, dtype, seed=4)
    fit = fit_head(cache, tmp_path / "model", head=head, parameters={"lr": 0.1} if head == "sgd" else {})
    expected = classify(fit.estimator, np.asarray(cache.features("val", ",".join(fit.layers)).clean()), 3)[1]
    classifier = Classifier.load(tmp_path / "model", device="cpu")
    results = classifier.predict(paths, batch_size=5)
    assert expected is not None
    assert np.ptp(expected, axis=0).max() > 0.1
    np.testing.assert_allclose(table(results, classifier.classes), expected, atol=tolerance)
    assert [prediction.path for prediction in results] == [str(path) for path in paths]
    sure = np.diff(np.sort(expected, axis=1)[:, -2:])[:, 0] > 2 * tolerance
    assert sure.any()
    labels = np.array([prediction.label for prediction in results])
    assert labels[sure].tolist() == np.array(classifier.classes)[expected.argmax(1)][sure].tolist()


def test_the_top_classes_are_named_most_probable_first(model: Path, paths: list[Path]) -> None:
    classifier = Classifier.load(model, device="cpu")
    every, two = classifier.predict(paths), classifier.predict(paths, top=2)
    for prediction, short in zip(every, two, strict=True):
        probabilities = [class_probability for _, class_probability in prediction.top]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1)
        assert short.top == prediction.top[:2]
        assert (prediction.label, prediction.probability, prediction.error) == (*prediction.top[0], None)
        assert str(short) == "\t".join(
            [short.path, *(f"{name} {class_probability:.4f}" for name, class_probability in short.top)]
        )
        assert json.loads(json.dumps(prediction.to_dict()))["top"][0] == {
            "label": prediction.label,
            "probability": prediction.probability,
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
    results = classifier.predict(map(str, mixed), batch_size=batch_size)
    assert [prediction.path for prediction in results] == [str(path) for path in mixed]
    assert [prediction.error for prediction in results if prediction.error] == [
        "the file is empty (0 bytes)",
        "No such file or directory",
        "the file is empty (0 bytes)",
        "Is a directory",
    ]
    good = [prediction for prediction in results if not prediction.error]
    assert [prediction.label for prediction in good] == [prediction.label for prediction in clean]
    np.testing.assert_allclose(table(good, classifier.classes), table(clean, classifier.classes), atol=1e-5)
    bad = results[0]
    assert (bad.label, bad.top, bad.probability) == (None, (), None)
    assert str(bad) == f"{tmp_path / 'broken.png'}\tunreadable: the file is empty (0 bytes)"


def test_arrays_are_taken_like_files(model: Path, paths: list[Path]) -> None:
    classifier = Classifier.load(model, device="cpu")
    arrays = [decode(path.read_bytes()) for path in paths]
    results = classifier.predict(arrays)
    expected = classifier.predict(paths)
    assert [prediction.path for prediction in results] == [""] * len(paths)
    assert [prediction.top for prediction in results] == [prediction.top for prediction in expected]
    assert [prediction.top for prediction in classifier.predict(np.stack(arrays))] == [
        prediction.top for prediction in expected
    ]
    assert classifier.predict([]) == []


def test_one_image_is_as_good_as_a_list(model: Path, paths: list[Path]) -> None:
    classifier = Classifier.load(model, device="cpu")
    (expected,) = classifier.predict(paths[:1])
    assert classifier.predict(paths[0]) == classifier.predict(str(paths[0])) == [expected]
    for picture in (decode(paths[0].read_bytes()), Image.open(paths[0])):
        (results,) = classifier.predict(picture)
        assert results.top == expected.top


GREY = np.linspace(0, 255, 50 * 40).reshape(40, 50).astype(np.uint8)
COLOUR = np.stack([GREY, GREY.T.reshape(40, 50), GREY[::-1]], axis=2)
CLEAR = np.dstack([COLOUR, GREY])


def files(folder: Path) -> list[Path]:
    """What Pillow opens in many ways: turned, transparent, of 16 bits, CMYK, with a palette, grey."""
    turned = Image.Exif()
    turned[0x0112] = 6
    pictures: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "a.png": (Image.fromarray(COLOUR), {}),
        "b.jpg": (Image.fromarray(COLOUR), {}),
        "turned.jpg": (Image.fromarray(COLOUR), {"exif": turned}),
        "turned.png": (Image.fromarray(COLOUR), {"exif": turned}),
        "clear.png": (Image.fromarray(CLEAR), {}),
        "deep.png": (Image.fromarray(GREY.astype(np.uint16) * 257), {}),
        "cmyk.jpg": (Image.fromarray(COLOUR).convert("CMYK"), {}),
        "grey.jpg": (Image.fromarray(GREY), {}),
        "palette.png": (Image.fromarray(COLOUR).convert("P"), {"transparency": 7}),
    }
    for name, (image, how) in pictures.items():
        image.save(folder / name, **how)
    return [folder / name for name in pictures]


def test_what_pillow_opened_gives_what_its_file_gives(model: Path, tmp_path: Path) -> None:
    paths = files(tmp_path)
    for path in paths:
        np.testing.assert_array_equal(check_picture(Image.open(path), "x").pixels, decode(path.read_bytes()), str(path))
    classifier = Classifier.load(model, device="cpu")
    expected = [prediction.top for prediction in classifier.predict(paths)]
    assert [prediction.top for prediction in classifier.predict([Image.open(path) for path in paths])] == expected
    assert len(set(expected)) == len(paths)
    white = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert check_picture(white, "x").pixels.tolist() == [[[255] * 3] * 8] * 8


def test_arrays_are_grey_colour_or_transparent() -> None:
    np.testing.assert_array_equal(check_picture(COLOUR, "x").pixels, COLOUR)
    assert not np.shares_memory(check_picture(COLOUR, "x").pixels, COLOUR)  # its owner may fill it again
    np.testing.assert_array_equal(check_picture(COLOUR[::-1, ::2], "x").pixels, COLOUR[::-1, ::2])
    np.testing.assert_array_equal(check_picture(GREY, "x").pixels, np.dstack([GREY] * 3))
    on_white = CLEAR[..., :3] * (GREY / 255)[..., None] + 255 - GREY[..., None]
    assert np.abs(check_picture(CLEAR, "x").pixels - on_white).max() < 2


@pytest.mark.parametrize(
    ("image", "shape_text"),
    [
        (np.zeros((4, 5, 3), np.float32), "has shape (4, 5, 3) and type float32"),
        (np.zeros((3, 4, 5), np.uint8), "has shape (3, 4, 5) and type uint8"),
        (np.zeros((4, 5, 2), np.uint8), "has shape (4, 5, 2) and type uint8"),
        (np.zeros((0, 5, 3), np.uint8), "has shape (0, 5, 3) and type uint8"),
        (np.zeros(5, np.uint8), "has shape (5,) and type uint8"),
    ],
)
def test_other_arrays_are_refused(image: np.ndarray, shape_text: str, model: Path, paths: list[Path]) -> None:
    with pytest.raises(DataLayoutError) as caught:
        Classifier.load(model, device="cpu").predict([paths[0], image])
    assert str(caught.value) == (
        f"image 1 {shape_text}; give pixels of shape (h, w, 3) (RGB), (h, w) (grey) or (h, w, 4) (RGBA), of type "
        "uint8, 0 to 255."
    )


def test_what_is_no_image_is_refused(model: Path) -> None:
    classifier = Classifier.load(model, device="cpu")
    with pytest.raises(DataLayoutError, match=r"^image 0 is of type int; give a path, a Pillow image or an array\.$"):
        classifier.predict([3])  # type: ignore[list-item]
    message = r"^images is of type \w+; give paths, URLs, bytes, open files, Pillow images or arrays\.$"
    for images in (3, None):
        with pytest.raises(DataLayoutError, match=message):
            classifier.predict(images)  # type: ignore[arg-type]


def test_a_broken_picture_of_pillow_has_its_error(model: Path, paths: list[Path], tmp_path: Path) -> None:
    (tmp_path / "half.jpg").write_bytes(files(tmp_path)[1].read_bytes()[:-300])
    with Image.open(tmp_path / "half.jpg") as image:
        bad, good = Classifier.load(model, device="cpu").predict([image, paths[0]])
    assert (bad.path, bad.label, bad.error is not None, good.error) == ("", None, True, None)
    assert "truncated" in str(bad.error).lower()


def test_what_is_no_file_is_not_waited_for(model: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    results = Classifier.load(model, device="cpu").predict([tmp_path / "pipe.png", "a\0.png"])
    assert results[0].error == "not a regular file, but a pipe"
    assert "null" in str(results[1].error)


def test_an_owner_may_fill_or_close_a_picture_again(model: Path, paths: list[Path]) -> None:
    def frames() -> Any:
        buffer = np.zeros((40, 50, 3), np.uint8)
        for path in paths:
            buffer[:] = decode(path.read_bytes())
            yield buffer
        for path in paths:
            with Image.open(path) as image:
                yield image
            image.close()

    classifier = Classifier.load(model, device="cpu")
    expected = [prediction.top for prediction in classifier.predict(paths * 2)]
    assert [prediction.top for prediction in classifier.predict(frames())] == expected


def test_pictures_are_taken_as_far_ahead_as_keeps_the_network_busy(model: Path, paths: list[Path]) -> None:
    taken: list[Path] = []

    def give() -> Any:
        for number in range(1000):
            taken.append(paths[number % len(paths)])
            yield taken[-1]

    stream = Classifier.load(model, device="cpu").stream(give(), batch_size=3)
    results = [next(stream) for _ in range(5)]
    assert [prediction.path for prediction in results] == [str(path) for path in taken[:5]]
    assert len(taken) < 200
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("predict")]


def test_what_came_before_an_error_of_the_caller_is_predicted(model: Path, paths: list[Path]) -> None:
    def give() -> Any:
        yield from paths[:4]
        raise RuntimeError("the list ends here")

    stream = Classifier.load(model, device="cpu").stream(give(), batch_size=3)
    assert [next(stream).path for _ in range(4)] == [str(path) for path in paths[:4]]
    with pytest.raises(RuntimeError, match="the list ends here"):
        next(stream)


def test_what_has_come_slowly_waits_for_a_batch_and_not_for_the_end(model: Path, paths: list[Path]) -> None:
    results: list[Prediction] = []

    def give() -> Any:
        yield from paths[:3]
        for number in range(6):  # fewer than are taken ahead where nobody waits
            time.sleep(0 if number == 0 else 0.5)
            yield paths[3 + number]
            if len(results) >= 3:
                ended_early.append(True)
                return

    ended_early: list[bool] = []
    for prediction in Classifier.load(model, device="cpu").stream(give(), batch_size=3):
        results.append(prediction)
    assert ended_early == [True]


def test_batches_and_unreadable_files_change_nothing_but_rounding(model: Path, paths: list[Path]) -> None:
    classifier = Classifier.load(model, device="cpu")
    mixed = [paths[0], Path("gone.png"), *paths[1:7], Path("gone.png"), *paths[7:]] * 4
    expected = classifier.predict(mixed, tta=2)
    for batch_size in (1, 3, 7, 64):
        results = classifier.predict(mixed, tta=2, batch_size=batch_size)
        assert [(prediction.path, prediction.label, prediction.error) for prediction in results] == [
            (prediction.path, prediction.label, prediction.error) for prediction in expected
        ]
        good = [
            [prediction for prediction in some_predictions if not prediction.error]
            for some_predictions in (results, expected)
        ]
        np.testing.assert_allclose(table(good[0], classifier.classes), table(good[1], classifier.classes), atol=1e-5)


def test_an_error_of_the_head_comes_out(model: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = Classifier.load(model, device="cpu")
    monkeypatch.setattr(classifier, "card", dataclasses.replace(classifier.card, classes=("ants",)))
    with pytest.raises(IndexError):
        classifier.predict(paths)


@pytest.mark.parametrize("views", [0, CONVERSION_PAYS])
def test_the_network_is_told_how_many_views_are_to_come(
    views: int, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine_calls: list[tuple[int, int, str]] = []
    monkeypatch.setattr(
        Backbone, "select_engine", lambda _, size, views, like: engine_calls.append((size, views, like))
    )
    Classifier.load(model, device="cpu", views=views)
    assert engine_calls == [(32, views, "pytorch")]  # made this model's features


def test_a_head_without_probabilities_gives_the_class_alone(
    cache: FeatureCache, paths: list[Path], tmp_path: Path
) -> None:
    fit = fit_head(cache, tmp_path / "model", head="svm")
    classifier = Classifier.load(tmp_path / "model", device="cpu")
    expected = fit.estimator.predict(cache.features("val").clean())
    results = classifier.predict(paths)
    assert [prediction.label for prediction in results] == [classifier.classes[index] for index in expected]
    assert all(
        prediction.top == ((prediction.label, None),) and prediction.probability is None for prediction in results
    )
    assert str(results[0]) == f"{paths[0]}\t{results[0].label}"


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
    fitted_hash, file_hash = cache.spec.weights_sha256[:12], other.spec.weights_sha256[:12]
    for weights_option in (None, str(weights)):
        with pytest.raises(BackboneError) as caught:
            Classifier.load(tmp_path / "model", weights=weights_option, device="cpu")
        assert str(caught.value) == (
            f"{tmp_path / 'model'} was fitted on weights {fitted_hash}... of efficientnet_lite0, but "
            f"{weights} has {file_hash}.... Give the right file with --weights."
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
    drop_hashes(model)
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
        config=TrainConfig(epochs=3, batch_size=6, lr=0.005),
        seed=4,
        **NET,
    )
    classifier = Classifier.load(tmp_path / "run", device="cpu")
    results = classifier.predict(paths)
    right = [prediction.label == Path(prediction.path).parent.name for prediction in results]
    assert np.mean(right) == run.best.val_accuracy == classifier.card.metrics["accuracy"]
    probabilities = table(results, classifier.classes)
    truth = [classifier.classes.index(Path(prediction.path).parent.name) for prediction in results]
    loss = -np.log(probabilities[np.arange(len(truth)), truth]).mean()
    assert loss == pytest.approx(run.best.val_loss, rel=1e-4)


@pytest.mark.parametrize("kind", ["pipe", "absent"])
def test_a_model_without_its_weights_is_refused_and_not_waited_for(kind: str, model: Path) -> None:
    (model / "head.safetensors").unlink()
    if kind == "pipe":
        os.mkfifo(model / "head.safetensors")
    with pytest.raises(HeadError) as caught:
        Classifier.load(model, device="cpu")
    assert str(caught.value) == f"{model} is damaged: it has no head.safetensors. Fit or train it again."
