"""The attention head finds information that a mean over all positions loses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from featcache.cache.features import Features
from featcache.core.samples import Samples
from featcache.errors import HeadError
from featcache.heads.attention import AttentionConfig, AttentionHead, fit_attention
from featcache.heads.fit import fit
from featcache.heads.io import load_head, save_head
from featcache.heads.training_data import FitOptions, TrainingData

D, T = 6, 16
GRID = "map:grid4"  # the layer of such features


def scenes(n: int = 240, seed: int = 0) -> Features:
    """One place of sixteen, marked by a bright first channel, says the class; every other one is loud noise of the two
    channels that say it."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 2)
    x = rng.normal(size=(n, 1, D, T))
    x[:, 0, 1:3] *= 4
    position = rng.integers(0, T, n)
    x[np.arange(n), 0, 0, position] += 12
    x[np.arange(n), 0, 1, position] = np.where(y, 2.0, -2.0)
    x[np.arange(n), 0, 2, position] = 0
    sha256 = rng.integers(0, 256, (n, 32), dtype=np.uint8)
    samples = Samples(tuple(map(str, range(n))), y, np.zeros(n, np.uint8), sha256, ("ants", "bees"))
    return Features(x.reshape(n, 1, D * T).astype(np.float32), samples)


def mean_of_places(features: Features) -> Features:
    x = features.x.reshape(len(features.samples), 1, D, T).mean(axis=3)
    return Features(x, features.samples)


def test_a_place_that_matters_is_found() -> None:
    train, val = scenes(), scenes(seed=1)
    head = fit("attention", TrainingData(train, val, layers=(GRID,)), FitOptions()).estimator
    result = (head.predict(val.x[:, 0]) == val.y).mean()
    blind = fit("linear", TrainingData(mean_of_places(train), mean_of_places(val)), FitOptions()).estimator
    assert result > 0.95
    assert (blind.predict(mean_of_places(val).x[:, 0]) == val.y).mean() < 0.8
    looks = head.attention(val.x[:, 0])
    np.testing.assert_allclose(looks.sum(axis=2), 1)
    marked = val.x.reshape(-1, D, T)[:, 0].argmax(axis=1)
    assert np.mean(np.any(looks.argmax(axis=2) == marked[:, None], axis=1)) > 0.95


def test_its_answer_in_two_lines_of_numpy() -> None:
    rng = np.random.default_rng(0)
    queries, coef, intercept = rng.normal(size=(2, D)), rng.normal(size=(3, 2 * D)), rng.normal(size=3)
    head = AttentionHead.from_weights(queries, coef, intercept, np.array([0, 2, 5]), D * T)
    x = rng.normal(size=(7, D, T))
    probabilities = softmax(queries @ x / np.sqrt(D), axis=2)  # (7, 2, T)
    logits = (probabilities @ x.swapaxes(1, 2)).reshape(7, -1) @ coef.T + intercept
    np.testing.assert_allclose(head.decision_function(x.reshape(7, -1)), logits)
    np.testing.assert_array_equal(head.predict(x.reshape(7, -1)), np.array([0, 2, 5])[logits.argmax(axis=1)])


def test_what_is_kept_is_what_was_trained() -> None:
    """The scaling is part of the weights: other units of the channels give the same classifier."""
    train = scenes(60)
    units = np.repeat(np.logspace(-2, 2, D), T).astype(np.float32)
    other = Features(train.x * units + 3 * units, train.samples)
    recipe = AttentionConfig(epochs=3)
    first, second = fit_attention(train, T, recipe, 0), fit_attention(other, T, recipe, 0)
    np.testing.assert_allclose(second.predict_proba(other.x[:, 0]), first.predict_proba(train.x[:, 0]), atol=1e-3)


def test_the_seed_decides_and_nothing_else() -> None:
    train, recipe = scenes(60), AttentionConfig(epochs=2)
    first, same, other = (fit_attention(train, T, recipe, seed).queries_ for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert not np.allclose(first, other)


def test_view_e_is_seen_in_epoch_e() -> None:
    """Of two augmented views the second one matters from the second epoch on."""
    train = scenes(60)
    views = np.concatenate([train.x, train.x, train.x], axis=1)
    other = views.copy()
    other[:, 2] *= -1
    for epochs, same in ((1, True), (2, False)):
        recipe = AttentionConfig(epochs=epochs)
        first, second = (fit_attention(Features(x, train.samples), T, recipe, 0).coef_ for x in (views, other))
        assert np.array_equal(first, second) == same


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    train = scenes(40)
    head = fit_attention(train, T, AttentionConfig(epochs=1), 0)
    file, data = save_head(head)
    assert file == "head.safetensors"
    (tmp_path / file).write_bytes(data)
    again = load_head(tmp_path / file)
    np.testing.assert_array_equal(again.predict_proba(train.x[:, 0]), head.predict_proba(train.x[:, 0]))
    assert again.n_features_in_ == D * T


@pytest.mark.parametrize("damage", ["queries", "coef", "intercept", "classes", "features"])
def test_a_file_that_contradicts_itself_is_refused(damage: str, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    arrays = {
        "queries": np.ones((2, D)),
        "coef": np.ones((3, 2 * D)),
        "intercept": np.ones(3),
        "classes": np.arange(3),
        "features": np.array([D * T]),
    }
    save_file(arrays, tmp_path / "head.safetensors")
    assert load_head(tmp_path / "head.safetensors").n_features_in_ == D * T
    worse = {
        "queries": np.full((2, D), np.nan),
        "coef": np.ones((3, 2 * D + 1)),
        "intercept": np.ones(2),
        "classes": np.arange(4),
        "features": np.array([D * T + 1]),
    }
    save_file({**arrays, damage: worse[damage]}, tmp_path / "head.safetensors")
    with pytest.raises(HeadError, match="is not a head that can be loaded safely"):
        load_head(tmp_path / "head.safetensors")


@pytest.mark.parametrize(
    ("options", "layer", "message"),
    [
        (
            FitOptions(),
            "penultimate",
            "attention needs features of a grid, and the layer penultimate has none. Extract such",
        ),
        (FitOptions({"rate": 1}), GRID, r"'rate'\. It takes queries, epochs, batch_size, lr, weight_decay\.$"),
        (FitOptions({"queries": 0}), GRID, "attention: queries is 0; it must be a whole number, 1 or more"),
        (FitOptions({"queries": 2.5}), GRID, "attention: queries is 2.5; it must be a whole number, 1 or more"),
        (FitOptions({"epochs": 2.5}), GRID, "attention: epochs is 2.5; it must be a whole number, 1 or more"),
        (
            FitOptions({"batch_size": "x"}),
            GRID,
            "attention: batch_size is 'x'; it must be a whole number, 1 or more",
        ),
        (FitOptions({"lr": "abc"}), GRID, "attention: lr is 'abc'; it must be a number greater than 0"),
        (FitOptions({"lr": 0}), GRID, "attention: lr is 0; it must be a number greater than 0"),
        (FitOptions({"lr": float("inf")}), GRID, "attention: lr is inf; it must be a number greater than 0"),
        (
            FitOptions({"weight_decay": -1}),
            GRID,
            "attention: weight_decay is -1; it must be a number, 0 or greater",
        ),
        (FitOptions({"lr": 1e30}), GRID, "attention: its weights are not finite numbers. Give a lower lr"),
        (FitOptions({"queries": 10**12}), GRID, "attention could not be fitted: "),
        (
            FitOptions(),
            "x:grid7",
            "attention: 96 features are not a multiple of the 49 positions that the name of their layer",
        ),
        (FitOptions(use_views="mean"), GRID, "attention trains on one view an epoch"),
        (FitOptions(cv=3), GRID, "cv has no effect on attention: leave it out"),
    ],
)
def test_what_it_cannot_do_is_said(options: FitOptions, layer: str, message: str) -> None:
    with pytest.raises(HeadError, match=message):
        fit("attention", TrainingData(scenes(20), scenes(20), layers=(layer,)), options)
