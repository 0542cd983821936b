"""Cross-validation and calibration of any classifier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from caches import cache_of, clouds
from featcache.cache.features import Features, ViewUse
from featcache.core.splitting import assign_folds
from featcache.errors import HeadError
from featcache.heads.estimators import fit_estimator, with_scaling
from featcache.heads.io import load_head, save_head
from featcache.heads.tuning.cross_validation import calibrate_platt, cross_validate


def features(
    tmp_path: Path, n: int = 60, views: int = 3, copies: bool = False, random_labels: bool = False
) -> Features:
    x, y = clouds(n, 3, views)
    hashes = np.random.default_rng(5).integers(0, 256, (n + 3, 32), dtype=np.uint8)
    if random_labels:
        y = np.random.default_rng(6).permutation(y)
    if copies:  # each image twice
        x, y, hashes = (
            np.repeat(x, 2, axis=0),
            np.repeat(y, 2),
            np.vstack([np.repeat(hashes[:n], 2, axis=0), hashes[n:]]),
        )
    return cache_of(tmp_path / "c.h5", (x, y), (x[:3, 0], np.arange(3)), hashes).features("train")


def test_left_out_predictions_are_those_of_fits_without_them(tmp_path: Path) -> None:
    train = features(tmp_path)
    rows, predicted, probabilities = cross_validate(GaussianNB(), train, "all", 4)
    fold = assign_folds(train.y, train.samples.sha256, 4)
    assert rows.tolist() == list(range(60))
    for number in range(4):
        out = fold == number
        x = np.asarray(train.x)[~out].reshape(-1, 8)
        alone = GaussianNB().fit(x, np.repeat(train.y[~out], 3), np.full(len(x), 1 / 3))
        np.testing.assert_array_equal(predicted[out], alone.predict(np.asarray(train.clean())[out]))
        assert probabilities is not None
        np.testing.assert_allclose(probabilities[out], alone.predict_proba(np.asarray(train.clean())[out]), atol=1e-6)


def test_neither_views_nor_copies_of_an_image_help_to_predict_it(tmp_path: Path) -> None:
    """With random labels the nearest neighbor is right only for images that it was fitted to."""
    train = features(tmp_path, copies=True, random_labels=True)
    neighbour = KNeighborsClassifier(1)
    rows, predicted, _ = cross_validate(neighbour, train, "all", 5)
    assert np.mean(predicted == train.y[rows]) < 0.55
    x, y = np.asarray(train.clean()), train.y
    naive = np.concatenate([clone(neighbour).fit(np.delete(x, row, 0), np.delete(y, row)).predict(x[[row]])
                            for row in range(len(x))])  # fmt: skip
    assert np.mean(naive == y) == 1.0  # the trap works


@pytest.mark.parametrize("use", ["all", "mean", "clean"])
def test_the_use_of_views_is_that_of_flatten(use: ViewUse, tmp_path: Path) -> None:
    train = features(tmp_path)
    flat = train.flatten(use)
    x = np.asarray(train.x)
    expected = {"all": x.reshape(-1, 8), "mean": x.mean(axis=1), "clean": x[:, 0]}[use]
    np.testing.assert_allclose(np.asarray(flat.x), expected, atol=1e-6)
    assert flat.y.tolist() == np.repeat(train.y, len(expected) // 60).tolist()
    assert flat.weights.sum() == pytest.approx(60)


def test_a_head_without_probabilities_has_none_and_gets_some(tmp_path: Path) -> None:
    train = features(tmp_path)
    assert cross_validate(SVC(), train, "clean", 3)[2] is None
    result = calibrate_platt(SVC(), train, "all")
    probabilities = result.predict_proba(np.asarray(train.clean()))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    right = probabilities[np.arange(60), train.y]
    assert right.mean() > 0.6
    assert result.cv is None


@pytest.mark.parametrize(
    "estimator", [SVC(), RidgeClassifier(), make_pipeline(StandardScaler(), RidgeClassifier())], ids=str
)
def test_a_calibrated_head_is_saved_and_predicts_the_same(estimator: object, tmp_path: Path) -> None:
    train = features(tmp_path)
    result = calibrate_platt(estimator, train, "all")
    name, data = save_head(result)
    (tmp_path / name).write_bytes(data)
    x = np.asarray(train.clean())
    np.testing.assert_array_equal(load_head(tmp_path / name).predict_proba(x), result.predict_proba(x))


@pytest.mark.parametrize("scaling", ["standard", "l2"])
def test_scaling_is_a_step_and_images_count_once_behind_it(scaling: str, tmp_path: Path) -> None:
    train = features(tmp_path)
    many, once = (with_scaling(LogisticRegression(tol=1e-8), scaling) for _ in range(2))
    same = Features(np.repeat(np.asarray(train.clean())[:, None], 4, axis=1), train.samples)
    fit_estimator(many, same.flatten())
    fit_estimator(once, same.flatten("clean"))
    np.testing.assert_allclose(many[-1].coef_, once[-1].coef_, atol=3e-3)
    scaled = once[0].transform(np.asarray(train.clean()))
    size = scaled.std(axis=0) if scaling == "standard" else np.linalg.norm(scaled, axis=1)
    np.testing.assert_allclose(size, 1, rtol=1e-4)


def test_nothing_to_leave_out_is_said(tmp_path: Path) -> None:
    x, y = clouds(3, 3)
    train = cache_of(tmp_path / "c.h5", (x, y), (x[:, 0], y)).features("train")
    with pytest.raises(HeadError, match=r"^no class has two different training images, so nothing can be held out$"):
        cross_validate(DummyClassifier(), train, "all", 2)
