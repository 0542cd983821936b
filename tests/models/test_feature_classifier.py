"""FeatureClassifier: what a saved head says of cached features is what the model says of the images and texts."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from caches import SPEC, cache_of, cache_of_layers, clouds
from featcache.cache import rows as cache_rows
from featcache.cache.feature_cache import FeatureCache
from featcache.core.model_card import ModelCard
from featcache.core.specs import StorageDtype
from featcache.errors import (
    CacheDamagedError,
    CacheIncompleteError,
    CacheMismatchError,
    DataLayoutError,
    HeadError,
    IgnoredFilesWarning,
    NotACacheError,
    SpecError,
)
from featcache.extraction.extract import extract
from featcache.heads.fit_head import fit_head
from featcache.models.classifier import Classifier
from featcache.models.feature_classifier import FeatureClassifier
from featcache.models.prediction import Prediction
from toys import random_image, toy_backbone
from toytexts import toy_text_encoder

MakeFolder = Callable[..., Path]
TOLERANCE = {"float32": 1e-5, "float16": 2e-3}
"""Of probabilities: the features are those of the pictures, rounded to the dtype of the cache."""


@pytest.fixture
def folder(split_folder: Path) -> Path:
    """13 train and 5 val images, and one of each that cannot be read."""
    (split_folder / "train/ants/broken.png").write_bytes(b"")
    (split_folder / "val/bees/0-broken.png").write_bytes(b"no image")
    return split_folder


def extracted(folder: Path, dtype: StorageDtype = "float32", **options: object) -> FeatureCache:
    out = folder.parent / f"{len(list(folder.parent.glob('*.h5')))}.h5"
    return extract(folder, out, backbone=toy_backbone(), workers=2, dtype=dtype, **{"views": 0, **options}).cache


def same(cached: list[Prediction], live: list[Prediction], folder: Path, tolerance: float) -> None:
    """The rows are equal, but for the folder in the path, and probabilities within the tolerance."""
    assert [str(folder / one.path) for one in cached] == [one.path for one in live]
    for name in ("label", "error", "several"):
        assert [getattr(one, name) for one in cached] == [getattr(one, name) for one in live], name
    for one, other in zip(cached, live, strict=True):
        mine, theirs = dict(one.top), dict(other.top)
        assert list(mine) == list(theirs)
        if None in theirs.values():
            assert mine == theirs
        else:
            np.testing.assert_allclose(list(mine.values()), list(theirs.values()), atol=tolerance)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("head", ["linear", "lda", "knn", "svm"])
def test_a_cache_gives_the_rows_that_its_images_give(head: str, dtype: StorageDtype, folder: Path) -> None:
    cache = extracted(folder, dtype)
    fit_head(cache, folder.parent / "head", head=head)
    cached = FeatureClassifier.load(folder.parent / "head").predict(cache)
    live = Classifier.load(folder.parent / "head", backbone=toy_backbone())
    same(cached, live.predict([folder / name for name in cache.samples.ids]), folder, TOLERANCE[dtype])
    reasons = {one.path: one.error for one in cached if one.error}
    assert reasons == {
        "train/ants/broken.png": "the file is empty (0 bytes)",
        "val/bees/0-broken.png": "not an image that Pillow can identify",
    }
    assert (len(cached), {one.label for one in cached}) == (20, {"ants", "bees", None})
    assert cached == live.predict(cache) == live.predict(str(cache.path)) == live.predict(cache.path)


def test_views_are_averaged_that_the_cache_has(folder: Path) -> None:
    cache = extracted(folder, views=3, val_views=2)
    fit_head(cache, folder.parent / "head", head="linear", tta=2)
    model, live = (
        FeatureClassifier.load(folder.parent / "head"),
        Classifier.load(folder.parent / "head", backbone=toy_backbone()),
    )
    paths = [folder / name for name in cache.samples.ids]
    averaged, clean = model.predict(cache), model.predict(cache, tta=0)
    same(averaged, live.predict(paths), folder, 1e-5)
    same(clean, live.predict(paths, tta=0), folder, 1e-5)
    assert averaged != clean
    same(model.predict(cache, split="train", tta=3), live.predict(paths[:14], tta=3), folder, 1e-5)
    with pytest.raises(CacheIncompleteError) as caught:
        model.predict(cache, tta=3)
    assert str(caught.value) == (
        f"tta averages 3 augmented views of an image, but {cache.path} has 2 of its val images. Extract with "
        "--val-views 3, or average none (--tta 0)."
    )


def test_augmented_views_of_other_settings_are_not_averaged(folder: Path) -> None:
    fit_head(extracted(folder, views=1, val_views=1), folder.parent / "head", head="linear", tta=1)
    other = extracted(folder, views=1, val_views=1, augment="tutorial", seed=3)
    model = FeatureClassifier.load(folder.parent / "head")
    with pytest.raises(CacheMismatchError, match=r"it has augment=tutorial, the head needs gentle; seed=3, the head"):
        model.predict(other)
    assert len(model.predict(other, tta=0)) == 20


def test_the_samples_of_a_split(folder: Path) -> None:
    cache = extracted(folder)
    fit_head(cache, folder.parent / "head", head="linear")
    model = FeatureClassifier.load(folder.parent / "head")
    every = model.predict(cache)
    assert model.predict(cache, split="train") + model.predict(cache, split="val") == every
    assert [one.path for one in every] == [*cache.samples.ids]
    with pytest.raises(CacheIncompleteError, match=r"0\.h5 has no images of test; it has 14 train, 6 val\.$"):
        model.predict(cache, split="test")
    with pytest.raises(SpecError, match="there is no split 'vla'"):
        model.predict(cache, split="vla")


def test_samples_without_a_label_are_predicted(folder: Path) -> None:
    (folder / "unlabeled").mkdir()
    for number in range(3):
        random_image(900 + number, tint=number % 2).save(folder / "unlabeled" / f"{number}.png")
    cache = extracted(folder)
    fit_head(cache, folder.parent / "head", head="linear")
    found = FeatureClassifier.load(folder.parent / "head").predict(cache, split="unlabeled")
    live = Classifier.load(folder.parent / "head", backbone=toy_backbone()).predict(folder / "unlabeled")
    same(found, live, folder, 1e-5)
    assert [one.label for one in found] == ["ants", "bees", "ants"]


def test_blocks_of_any_size_give_the_same_predictions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = extracted(folder)
    fit_head(cache, folder.parent / "head", head="linear")
    model = FeatureClassifier.load(folder.parent / "head")
    expected = model.predict(cache)
    for size in (1, 3, 7):
        monkeypatch.setattr(cache_rows, "_BLOCK_ROWS", size)
        blocks = [len(rows) for rows, _ in cache_rows.iter_features(cache, "train", "penultimate")]
        assert (max(blocks), sum(blocks)) == (size, 14)
        same(model.predict(cache), expected, Path(), 1e-6)
    monkeypatch.setattr(cache_rows, "_BLOCK_BYTES", 3 * 4 * 5)
    assert [len(rows) for rows, _ in cache_rows.iter_features(cache, "val", "penultimate")] == [5, 1]


def test_several_labels_and_their_thresholds(folder: Path) -> None:
    with (folder.parent / "traits.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "split"])
        for number, path in enumerate(sorted(folder.rglob("[0-9][0-9][0-9].png"))):
            labels = ("a|b", "a", "", "b")[number % 4]
            table.writerow([path.relative_to(folder.parent), labels, path.relative_to(folder).parts[0]])
    cache = extract(folder.parent / "traits.csv", folder.parent / "t.h5", backbone=toy_backbone(), views=0).cache
    fit_head(cache, folder.parent / "head", head="linear", thresholds={"a": 0.3, "b": 0.6})
    cached = FeatureClassifier.load(folder.parent / "head").predict(cache)
    live = Classifier.load(folder.parent / "head", backbone=toy_backbone())
    same(
        cached, live.predict([folder.parent / name for name in cache.samples.ids]), folder.parent, TOLERANCE["float16"]
    )
    assert all(one.several for one in cached)
    has_label = ["a" in (one.label or "").split("|") for one in cached]
    assert has_label == [(dict(one.top)["a"] or 0.0) > 0.3 for one in cached]


def test_texts_are_predicted_from_their_features(tmp_path: Path) -> None:
    texts = [
        "good film",
        "a very good film",
        "the good",
        "very good",
        "bad film",
        "dull",
        "not good",
        "a bad dull film",
    ]
    with (tmp_path / "reviews.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "label", "split"])
        table.writerows([text, "bad" if row > 3 else "good", "train" if row % 4 < 3 else "val"]
                        for row, text in enumerate(texts))  # fmt: skip
    encoder = toy_text_encoder()
    cache = extract(tmp_path / "reviews.csv", tmp_path / "c.h5", backbone=encoder, views=0, dtype="float16").cache
    fit_head(cache, tmp_path / "head", head="linear")
    live = Classifier.load(tmp_path / "head", backbone=toy_text_encoder())
    of_text = {one.text: one for one in live.predict(tmp_path / "reviews.csv")}
    cached = FeatureClassifier.load(tmp_path / "head").predict(cache)
    assert [one.path for one in cached] == [*cache.samples.ids]
    assert len(cached) == 8
    same(
        [dataclasses.replace(one, path="") for one in sorted(cached, key=lambda one: (one.label, one.probability))],
        [
            dataclasses.replace(one, path=".")
            for one in sorted(of_text.values(), key=lambda one: (one.label, one.probability))
        ],
        Path(),
        TOLERANCE["float16"],
    )
    assert live.predict(cache) == live.predict(cache.path) == cached
    with pytest.raises(DataLayoutError, match=r"is the name of a file or a folder, and a string is a text here\."):
        live.predict(str(cache.path))


def test_more_layers_in_another_order_do_not_matter(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = {name: (rng.normal(size=(60, 1, 4)) + y[:, None, None]).astype(np.float32) for name in ("p", "q", "r")}

    def of(name: str, layers: list[str]) -> FeatureCache:
        parts = {layer: x[layer] for layer in layers}
        return cache_of_layers(
            tmp_path / name,
            ({layer: part[:40] for layer, part in parts.items()}, y[:40]),
            ({layer: part[40:] for layer, part in parts.items()}, y[40:]),
        )

    two, more, one = of("two.h5", ["p", "q"]), of("more.h5", ["r", "q", "p"]), of("one.h5", ["q"])
    fit_head(two, tmp_path / "head", head="linear", layer="p,q")
    model = FeatureClassifier.load(tmp_path / "head")
    assert model.predict(more) == model.predict(two)
    with pytest.raises(CacheMismatchError) as caught:
        model.predict(one)
    assert caught.value.fields == ("layers",)
    assert str(caught.value) == (
        f"{one.path} lacks the features that {tmp_path / 'head'} was fitted on: it has layers=q, the head needs p. "
        f"Extract with these settings to another file, or predict the images themselves: featcache predict "
        f"{tmp_path / 'head'} DATA"
    )


def test_other_features_are_refused_by_the_names_of_their_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, val = clouds(30, 2), clouds(10, 2, seed=1)
    val = (val[0][:, 0], val[1])
    fit_head(cache_of(tmp_path / "c.h5", train, val), tmp_path / "head", head="ridge")
    model = FeatureClassifier.load(tmp_path / "head")
    view = dataclasses.replace(SPEC.image_view, image_size=9, augment="crop", seed=7)
    other = dataclasses.replace(SPEC, weights_sha256="cd" * 32, view=view, precision="bf16")
    monkeypatch.setattr("caches.SPEC", other)
    with pytest.raises(CacheMismatchError) as caught:
        model.predict(cache_of(tmp_path / "other.h5", train, val))
    assert set(caught.value.fields) == {"weights_sha256", "image_size", "precision"}
    for text in ("weights_sha256=cdcdcdcdcdcd..., the head needs abababababab...", "image_size=9, the head needs 8",
                 "precision=bf16, the head needs fp32"):  # fmt: skip
        assert text in str(caught.value)
    monkeypatch.setattr("caches.SPEC", dataclasses.replace(SPEC, view=dataclasses.replace(SPEC.image_view, seed=7)))
    stored = cache_of(tmp_path / "more.h5", (np.repeat(train[0], 3, axis=1), train[1]), val)  # views and their seed
    assert len(model.predict(stored)) == 40


def test_texts_and_images_are_refused_in_one_word(folder: Path, tmp_path: Path) -> None:
    (folder.parent / "t.csv").write_text("text,label,split\ngood,a,train\nbad,b,train\nfilm,a,val\n")
    texts = extract(folder.parent / "t.csv", tmp_path / "t.h5", backbone=toy_text_encoder(), views=0).cache
    fit_head(extracted(folder), folder.parent / "head", head="linear")
    with pytest.raises(CacheMismatchError, match=r"it has modality=text, the head needs image\."):
        FeatureClassifier.load(folder.parent / "head").predict(texts)


def test_arrays_are_predicted_without_any_network(tmp_path: Path) -> None:
    x, y = clouds(80, 3)
    cache = FeatureCache.from_arrays(x, y, name="my encoder")
    fit = fit_head(cache, tmp_path / "head", head="linear")
    model = FeatureClassifier.load(tmp_path / "head")
    expected = fit.estimator.predict_proba(np.asarray(cache.features("val").clean()))
    found = [[dict(one.top)[name] for name in model.classes] for one in model.predict(cache, split="val")]
    np.testing.assert_allclose(np.array(found, float), expected, atol=1e-6)
    later, _ = clouds(40, 3, seed=1)
    assert len(model.predict(FeatureCache.from_arrays(later, np.arange(40) % 3, name="my encoder"))) == 40
    text = r"it has backbone=arrays:another, the head needs arrays:my encoder\. Give a cache of the same features"
    with pytest.raises(CacheMismatchError, match=text):
        model.predict(FeatureCache.from_arrays(later, np.arange(40) % 3, name="another"))
    with pytest.raises(HeadError, match="its head has 8 features and 3 classes, the cache gives 4"):
        model.predict(FeatureCache.from_arrays(later[..., :4], np.arange(40) % 3, name="my encoder"))


def test_a_damaged_row_is_an_error_and_no_prediction(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = extracted(folder)
    fit_head(cache, folder.parent / "head", head="linear")
    location = cache.layout.layers["penultimate"]
    with cache.path.open("r+b") as file:
        file.seek(location.offset + 9 * location.stride)
        file.write(b"\xff")
    monkeypatch.setattr(cache_rows, "_BLOCK_ROWS", 4)
    stream = FeatureClassifier.load(folder.parent / "head").stream(cache.path)
    assert [next(stream).path for _ in range(8)] == [*cache.samples.ids[:8]]
    with pytest.raises(CacheDamagedError, match=r"1 images of train do not have the checksums"):
        next(stream)


def test_a_fine_tuned_network_has_no_cache(folder: Path) -> None:
    cache = extracted(folder)
    fit_head(cache, folder.parent / "head", head="linear")
    card = dataclasses.replace(ModelCard.read(folder.parent / "head"), kind="network", file="network.safetensors")
    (folder.parent / "run").mkdir()
    card.write(folder.parent / "run", b"")
    with pytest.raises(HeadError, match=r"run is a fine-tuned network, whose features no cache has\. Give the images"):
        FeatureClassifier.load(folder.parent / "run")


def test_options_and_files_that_do_not_fit_a_cache_are_refused(folder: Path) -> None:
    cache = extracted(folder)
    fit_head(cache, folder.parent / "head", head="linear")
    model = Classifier.load(folder.parent / "head", backbone=toy_backbone())
    for options in ({"batch_size": 2}, {"text_column": "a"}):
        with pytest.raises(DataLayoutError, match="batch_size and text_column are not for caches"):
            model.predict(cache, **options)  # type: ignore[arg-type]
    image = folder / cache.samples.ids[0]
    with pytest.raises(DataLayoutError, match="split is for the samples of a cache"):
        model.predict(image, split="val")
    assert [one.error for one in model.predict([image, cache.path])] == [None, "a cache of featcache, not an image"]
    for name in ("gone.h5", "GONE.HDF5"):
        with pytest.raises(NotACacheError, match=f"{name} does not exist"):
            model.predict(folder / name)
    (folder / "other.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(NotACacheError, match=r"other\.h5 is not a feature cache"):
        model.predict(folder / "other.h5")
    shutil.copy(cache.path, folder / "train" / "features")  # found by its content
    assert model.predict(folder / "train" / "features") == model.predict(cache)
    with pytest.warns(IgnoredFilesWarning, match=r"ignored 1 file: not an image \(\.h5\)"):
        assert len(model.predict(folder)) == 20  # a folder is one of images, whatever else is in it
