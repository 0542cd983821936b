"""Test-time augmentation: the views of val images in the cache, and of pictures that are predicted."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from caches import SPEC
from commands import SMALL, as_json, done
from featcache.cache.feature_cache import FeatureCache
from featcache.core.specs import ExtractSpec
from featcache.errors import CacheIncompleteError, CacheMismatchError, SpecError
from featcache.extraction.extract import extract
from featcache.heads.fit_head import fit_head
from featcache.heads.predict import average_views, evaluate_head
from featcache.models.classifier import Classifier
from featcache.vision.augment import make_views
from featcache.vision.decode import decode
from toys import toy_answer, toy_backbone

MakeFolder = Callable[..., Path]


@pytest.fixture
def cache(split_folder: Path, tmp_path: Path) -> FeatureCache:
    return extract(
        split_folder, tmp_path / "c.h5", backbone=toy_backbone(), views=3, val_views=2, dtype="float32"
    ).cache


def test_val_images_have_the_views_that_training_would_have_shown(cache: FeatureCache, split_folder: Path) -> None:
    val = cache.features("val")
    assert val.x.shape == (5, 3, 3)
    assert cache.features("train").x.shape == (13, 4, 3)
    for row, name in enumerate(val.samples.ids):
        pixels = decode((split_folder / name).read_bytes())
        views = make_views(pixels, cache.spec.view, val.samples.sha256[row].tobytes(), range(3))
        np.testing.assert_allclose(val.x[row], toy_answer(views), atol=2e-5)


def test_without_views_of_val_a_spec_has_the_digest_that_it_had() -> None:
    assert "val_views" not in SPEC.flat()
    with_views = ExtractSpec(**{**vars(SPEC), "val_views": 1})
    assert ExtractSpec.from_json(with_views.to_json()) == with_views
    assert with_views.digest() != SPEC.digest()
    assert SPEC.differences(with_views) == [("val_views", 0, 1)]
    assert with_views.differences(SPEC) == [("val_views", 1, 0)]
    with pytest.raises(SpecError, match=r"^val_views is 3; it must be between 0 and views, which is 2$"):
        ExtractSpec(**{**vars(SPEC), "val_views": 3})


def test_a_cache_with_other_views_of_val_is_refused(cache: FeatureCache, split_folder: Path) -> None:
    with pytest.raises(CacheMismatchError, match=r"was made with val_views=2, you asked for 0"):
        extract(split_folder, cache.path, backbone=toy_backbone(), views=3, dtype="float32")


def test_probabilities_are_averaged_and_votes_counted() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4], [0.4, 0.6], [0.4, 0.6]])
    predicted, mean = average_views(probabilities.argmax(1), probabilities, 3, 2)
    assert mean is not None
    np.testing.assert_allclose(mean, [[1.4 / 3, 1.6 / 3], [1.4 / 3, 1.6 / 3]])
    assert predicted.tolist() == [1, 1]
    assert average_views(np.array([0, 1, 0, 1, 1, 0]), None, 3, 2)[0].tolist() == [0, 1]
    assert average_views(np.array([0, 1]), None, 1, 2)[0].tolist() == [0, 1]


@pytest.mark.parametrize("head", ["linear", "svm"])
def test_evaluation_averages_the_views_that_are_asked_for(head: str, cache: FeatureCache) -> None:
    fit = fit_head(cache, head=head, tta=2)
    val, estimator = cache.features("val"), fit.estimator
    x = np.asarray(val.x)
    if head == "linear":
        probabilities = np.mean([estimator.predict_proba(x[:, view]) for view in range(3)], axis=0)
        right = probabilities.argmax(1) == val.y
        assert fit.accuracy.log_loss == pytest.approx(-np.log(probabilities[np.arange(5), val.y]).mean())
        alone = evaluate_head(estimator, val)
        assert alone.log_loss == pytest.approx(-np.log(estimator.predict_proba(x[:, 0])[np.arange(5), val.y]).mean())
        assert alone.log_loss != fit.accuracy.log_loss
    else:
        right = np.mean([estimator.predict(x[:, view]) for view in range(3)], axis=0).round() == val.y
    assert fit.accuracy.accuracy == right.mean()


def test_views_that_are_not_there_are_refused(cache: FeatureCache) -> None:
    with pytest.raises(CacheIncompleteError) as caught:
        fit_head(cache, tta=3)
    assert str(caught.value) == (
        "tta averages 3 augmented views of a sample, but the cache has 2 of its val samples. Extract with "
        "--val-views 3."
    )


def test_pictures_are_predicted_from_the_very_views_of_the_cache(split_folder: Path, tmp_path: Path) -> None:
    done("extract", split_folder, "-o", tmp_path / "c.h5", "--views", 2, "--val-views", 2, "--augment", "tutorial",
         "--precision", "fp32", "--dtype", "float32", *SMALL)  # fmt: skip
    done("fit-head", tmp_path / "c.h5", "-o", tmp_path / "head", "--tta", 2)
    result = as_json("predict", tmp_path / "head", split_folder / "val")["predictions"]
    requested = as_json("predict", tmp_path / "head", split_folder / "val", "--tta", 2)["predictions"]
    clean = as_json("predict", tmp_path / "head", split_folder / "val", "--tta", 0)["predictions"]
    assert requested == result
    evaluated = [
        as_json("evaluate", tmp_path / "head", split_folder, "-o", tmp_path / f"tta{len(more)}", *more)["log_loss"]
        for more in ([], ["--tta", 0])
    ]
    card = json.loads((tmp_path / "head/model.json").read_text())
    assert card["tta"] == 2
    assert evaluated[0] == pytest.approx(card["metrics"]["log_loss"], abs=1e-4)
    assert abs(evaluated[1] - evaluated[0]) > 1e-4
    assert "averages 2 augmented views of an image with the clean one" in str(Classifier.load(tmp_path / "head"))
    with (tmp_path / "head" / "val.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["predicted"] for row in rows] == [row_values["label"] for row_values in result]
    probabilities = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose([row_values["probability"] for row_values in result], probabilities, atol=1e-4)
    assert not np.allclose([row_values["probability"] for row_values in clean], probabilities, atol=1e-4)
