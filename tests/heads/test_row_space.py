"""Heads fitted in the space that few rows span are those of the rows themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from caches import clouds
from featcache.cache.features import Features
from featcache.core.samples import Samples
from featcache.heads.solvers import row_space
from featcache.heads.solvers.path import Layer
from featcache.heads.solvers.row_space import RowSpace
from featcache.heads.tuning import tuning_data
from featcache.heads.tuning.tuning_data import TunedHead, TuningData
from tuned import tune, unprojected


def wide(n: int, d: int, views: int = 1, seed: int = 0, classes: int = 3, dtype: str = "float64") -> Features:
    """More features than rows; far from the origin, and with units that differ by feature."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    x = 5 + rng.normal(size=(classes, d))[y][:, None] / 2 + rng.normal(size=(n, views, d)) * np.geomspace(0.3, 3, d)
    return features(x.astype(dtype), y)


def features(x: NDArray[Any], y: NDArray[Any]) -> Features:
    sha256 = np.random.default_rng(5).integers(0, 256, (len(x), 32), dtype=np.uint8)
    classes = tuple("abcdef"[: y.shape[1] if y.ndim == 2 else int(y.max()) + 1])
    return Features(
        x, Samples(tuple(f"{row}.png" for row in range(len(x))), y, np.zeros(len(x), np.uint8), sha256, classes)
    )


def both(
    name: str, train: Features, monkeypatch: pytest.MonkeyPatch, use: Any = "all", **options: Any
) -> list[TunedHead]:
    """The head fitted in the space of the rows, and to the rows themselves, each to the optimum."""
    monkeypatch.setattr(tuning_data, "CV_TOL", 1e-10)
    monkeypatch.setattr(tuning_data, "TOL", 1e-10)
    projected = TuningData(train, use, **options)
    assert projected._row_space is not None
    assert projected.problem.x.shape[1] < train.x.shape[2]
    whole = unprojected(train, use, **options)
    assert whole.problem.x.shape[1] == train.x.shape[2]
    return [tune(name, data) for data in (projected, whole)]


def assert_alike(projected: TunedHead, whole: TunedHead, rtol: float, least: float = 0.0) -> None:
    """least : the weakest penalty whose scores are compared."""
    assert projected.setting == whole.setting
    coef, expected = projected.estimator.coef_, whole.estimator.coef_
    assert np.abs(coef - expected).max() <= rtol * np.abs(expected).max()
    np.testing.assert_allclose(projected.estimator.intercept_, whole.estimator.intercept_, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(projected.probabilities, whole.probabilities, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(projected.temperature, whole.temperature, rtol=rtol)
    for trial, other in zip(projected.trials, whole.trials, strict=True):
        assert trial.value == pytest.approx(other.value, rel=rtol)
        if trial.value >= least:
            np.testing.assert_allclose(trial, other, rtol=rtol)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("name", "rtol"), [("linear", 1e-4), ("ridge", 1e-8), ("lda", 1e-8)])
def test_a_head_in_the_space_of_the_rows_is_that_of_the_rows(
    name: str, rtol: float, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_alike(*both(name, wide(40, 90, classes=classes), monkeypatch), rtol)


@pytest.mark.parametrize(("name", "rtol"), [("linear", 1e-4), ("ridge", 1e-8), ("lda", 1e-8)])
@pytest.mark.parametrize("use", ["all", "mean", "clean"])
def test_clean_views_need_not_lie_in_the_space(
    name: str, rtol: float, use: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Means of views span no clean view: what is outside the space changes no logit, as no coefficient sees it."""
    train = wide(20, 120, views=4)
    if use == "mean":
        space = RowSpace.from_rows(train.flatten("mean").x)
        assert space
        clean = np.asarray(train.clean()[:], np.float64)
        outside = clean - space.mean - space.project(clean) @ space.basis.T
        assert np.linalg.norm(outside, axis=1).min() > 1
    if use == "mean":  # means are float32, whose rounding errors weak penalties amplify
        assert_alike(*both(name, train, monkeypatch, use), max(rtol, 1e-6), least=1.0)
    else:
        assert_alike(*both(name, train, monkeypatch, use), rtol)


def test_several_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (50, 3)).astype(np.uint8)
    x = rng.normal(size=(50, 1, 100)) + (y @ rng.normal(size=(3, 100)) / 2)[:, None]
    assert_alike(*both("linear", features(x, y), monkeypatch), 1e-4)


def test_class_weights_and_centroids(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weighted mean of the rows lies in the space, too."""
    train = wide(40, 90)
    for name in ("ridge", "lda", "centroid"):
        assert_alike(*both(name, train, monkeypatch, class_weight={0: 3.0, 1: 1.0, 2: 0.2}), 1e-8)


def test_float32_rows_give_the_head_of_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    single, double = wide(40, 90, dtype="float32"), wide(40, 90)
    for name in ("ridge", "lda"):
        (head, _), (expected, _) = both(name, single, monkeypatch), both(name, double, monkeypatch)
        assert head.setting == expected.setting
        np.testing.assert_allclose(head.probabilities, expected.probabilities, atol=1e-4)


def test_a_layer_is_expanded_without_a_change_of_logits() -> None:
    rng = np.random.default_rng(0)
    x = 3 + rng.normal(size=(20, 50))
    space = RowSpace.from_rows(x)
    assert space is not None
    assert space.basis.shape == (50, 20)
    np.testing.assert_allclose(space.basis.T @ space.basis, np.eye(20), atol=1e-12)
    np.testing.assert_allclose(space.project(x) @ space.basis.T + x.mean(axis=0), x, atol=1e-12)
    layer = Layer(rng.normal(size=(3, 20)), rng.normal(size=3))
    expanded, new = space.expand(layer), rng.normal(size=(7, 50))
    np.testing.assert_allclose(
        new @ expanded.coef.T + expanded.intercept, space.project(new) @ layer.coef.T + layer.intercept, atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.norm(expanded.coef, axis=1), np.linalg.norm(layer.coef, axis=1))  # the penalty


@pytest.mark.parametrize(("n", "is_small"), [(2, True), (75, True), (76, False), (100, False), (500, False)])
def test_many_rows_are_not_projected(n: int, is_small: bool) -> None:
    rows = np.random.default_rng(0).normal(size=(n, 100))
    assert (RowSpace.from_rows(rows) is not None) == is_small
    data = TuningData(wide(max(n, 10), 100))
    assert data.is_projected == is_small


def test_rows_that_do_not_fit_in_memory_are_not_projected(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.zeros((10, 100), np.float32)
    monkeypatch.setattr(row_space, "_MAX_BYTES", 4000)
    assert RowSpace.from_rows(rows) is not None
    monkeypatch.setattr(row_space, "_MAX_BYTES", 3999)
    assert RowSpace.from_rows(rows) is None


def test_equal_rows_and_constant_features_are_no_error() -> None:
    x, y = clouds(12, 3, d=40)
    for rows in (np.zeros_like(x), np.full_like(x, 0.1), np.repeat(x[:3], 4, axis=0)):
        data = TuningData(features(rows, y if rows[0, 0, 0] in (0, np.float32(0.1)) else np.repeat([0, 1, 2], 4)))
        assert data._row_space is not None
        for name in ("linear", "ridge", "lda", "centroid"):
            assert np.isfinite(tune(name, data).estimator.coef_).all()


def test_penalties_are_in_units_of_the_features_variance() -> None:
    """The path of C and of strengths is that of all features, not of the smaller space."""
    data = TuningData(wide(40, 90))
    whole = unprojected(wide(40, 90))
    np.testing.assert_allclose(data.c_path, whole.c_path, rtol=1e-9)
    np.testing.assert_allclose(data.covariances().scale, whole.covariances().scale, rtol=1e-9)
