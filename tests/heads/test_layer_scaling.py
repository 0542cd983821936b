from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier

from featcache.cache.features import Features
from featcache.cache.lazy_arrays import ConcatenatedFeatures, LazyRows
from featcache.core.samples import Samples
from featcache.heads.fit import fit
from featcache.heads.io import load_head, save_head
from featcache.heads.layer_scaling import standardize_layers, without_scaling
from featcache.heads.linear import LinearHead
from featcache.heads.linear_layer import as_linear
from featcache.heads.one_vs_rest import OneVsRestHead
from featcache.heads.training_data import FitOptions, TrainingData

N = 60
LAYERS = ("penultimate", "layer1:mean", "layer2:mean")


def layered(n: int = N, seed: int = 0) -> Features:
    """A wide layer of noise in large units, a narrow one in small units that says the class, a constant one."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 2)
    noise = 100 * rng.normal(size=(n, 1, 40))
    calls = 0.01 * (rng.normal(size=(n, 1, 3)) + 3 * y[:, None, None])
    parts = tuple(part.astype(np.float32) for part in (noise, calls, np.full((n, 1, 2), 7.0)))
    sha256 = rng.integers(0, 256, (n, 32), dtype=np.uint8)
    samples = Samples(tuple(map(str, range(n))), y, np.zeros(n, np.uint8), sha256, ("ants", "bees"))
    return Features(LazyRows(ConcatenatedFeatures(parts), np.arange(n)), samples)


def test_layers_count_alike_and_so_do_their_features() -> None:
    features = layered()
    scale = standardize_layers(features)
    x = features.clean()[:] * scale
    np.testing.assert_allclose(x[:, :40].var(axis=0), 1 / 40, rtol=1e-4)
    np.testing.assert_allclose(x[:, 40:43].var(axis=0), 1 / 3, rtol=1e-4)
    assert np.isfinite(scale).all()
    assert x[:, 43:].var(axis=0).max() < 1e-9


def test_a_feature_that_hardly_moves_is_not_blown_up() -> None:
    features = layered()
    parts = features.concatenated.parts
    parts[0][:, :, 5] = 1e-9 * parts[0][:, :, 6]
    assert standardize_layers(features)[5] <= 1001 * standardize_layers(features)[6]


@pytest.mark.parametrize("head", ["linear", "ridge", "lda", "centroid", "knn", "head2toe", "sgd", "logreg"])
def test_a_head_takes_features_as_they_are(head: str) -> None:
    """The saved head needs no scaling: its predictions of unscaled features are right."""
    train, val = layered(), layered(seed=1)
    estimator = fit(
        head, TrainingData(train, val, layers=LAYERS), FitOptions(parameters={"lr": 0.1} if head == "sgd" else {})
    ).estimator
    assert (estimator.predict(np.asarray(val.clean()[:])) == val.y).mean() >= 0.95
    again = save_head(estimator)
    assert again[0] == ("head.skops" if head == "knn" else "head.safetensors")


@pytest.mark.parametrize("head", ["forest", "sklearn.ensemble.ExtraTreesClassifier", DecisionTreeClassifier()], ids=str)
def test_trees_need_no_scaling_and_are_saved(head: Any, tmp_path: Path) -> None:
    train, val = layered(), layered(seed=1)
    estimator = fit(head, TrainingData(train, val, layers=LAYERS), FitOptions()).estimator
    x = np.asarray(val.clean()[:])
    assert (estimator.predict(x) == val.y).mean() >= 0.9
    file, data = save_head(estimator)
    (tmp_path / file).write_bytes(data)
    np.testing.assert_array_equal(load_head(tmp_path / file).predict(x), estimator.predict(x))


def test_without_scaling_the_units_would_decide() -> None:
    """The tests above depend on this: without scaling, noise dominates the same features."""
    train, val = layered(), layered(seed=1)
    item = Features(train.x[:], train.samples)
    head = fit("centroid", TrainingData(item, val), FitOptions()).estimator
    assert (head.predict(np.asarray(val.clean()[:])) == val.y).mean() < 0.8


@pytest.mark.parametrize("kind", ["linear", "labels", "logistic", "bayes"])
def test_without_scaling_is_the_head_on_scaled_features(kind: str, tmp_path: Any) -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(50, 6)), np.arange(50) % 3
    scale = rng.uniform(0.01, 100, 6).astype(np.float32)
    made: Any = {
        "linear": lambda: LinearHead().fit(x * scale, y),
        "labels": lambda: OneVsRestHead().fit(x * scale, np.stack([y == 0, y != 1], axis=1).astype(np.uint8)),
        "logistic": lambda: LogisticRegression(max_iter=1000).fit(x * scale, y),
        "bayes": lambda: GaussianNB().fit(x * scale, y),
    }[kind]()
    result = without_scaling(made, scale)
    np.testing.assert_allclose(result.predict_proba(x), made.predict_proba(x * scale), rtol=1e-5)
    if kind == "logistic":
        np.testing.assert_allclose(as_linear(result).predict_proba(x), made.predict_proba(x * scale), rtol=1e-5)
    file, data = save_head(result)
    (tmp_path / file).write_bytes(data)
    np.testing.assert_allclose(load_head(tmp_path / file).predict_proba(x), result.predict_proba(x), rtol=1e-9)
