"""Head2Toe keeps the informative features; it is scored on images that neither head nor choice has used."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from featcache.cache.features import Features
from featcache.cache.lazy_arrays import CenteredMatrix
from featcache.core.samples import Samples
from featcache.heads.solvers.dual_ridge import DualRidge, Kernel
from featcache.heads.solvers.preconditioner import LowRankPreconditioner
from featcache.heads.solvers.softmax import CVSoftmaxProblem, solve_path
from featcache.heads.tuning import feature_selection, tuning_data
from featcache.heads.tuning.feature_selection import rank_features, select_features
from featcache.heads.tuning.selected_features import fit_selected
from featcache.heads.tuning.tuning_data import TunedHead, TuningData
from tuned import tune, unprojected

NAMES = ("ants", "bees", "cats")


def needles(n: int = 90, d: int = 256, seed: int = 0, is_separable: bool = True) -> Features:
    """Four features out of 256, here and there of other width, say the class; the others are noise."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 3)
    x = rng.normal(size=(n, 1, d))
    if is_separable:
        x[:, 0, NEEDLES] += 3 * np.random.default_rng(1).normal(size=(3, 4))[labels]
    x[:, 0, ::2] *= 50  # half of all, needles too
    sha256 = rng.integers(0, 256, (n, 32), dtype=np.uint8)
    samples = Samples(tuple(f"{row}" for row in range(n)), labels, np.zeros(n, np.uint8), sha256, NAMES)
    return Features(x.astype(np.float32), samples)


NEEDLES = np.array([10, 75, 133, 220])


def standard(features: Features) -> Features:
    return Features(features.x / features.x.std(axis=0), features.samples)


@pytest.mark.parametrize("seed", range(3))
def test_needles_are_found_in_the_haystack_and_help(seed: int) -> None:
    features = standard(needles(seed=seed))
    toe, linear = tune("head2toe", TuningData(features)), tune("linear", TuningData(features))
    mask = np.flatnonzero(np.any(toe.estimator.coef_ != 0, axis=0))
    assert set(NEEDLES) <= set(mask.tolist())
    assert len(mask) <= 256 / 8
    assert toe.setting.startswith(f"{len(mask)} of 256 features, C=")
    y = features.y
    rows = np.arange(len(y))  # each image is left out once

    def right(tuned: TunedHead) -> float:
        return float((tuned.probabilities.argmax(axis=1) == y[rows]).mean())

    assert right(toe) > right(linear)
    fresh = standard(needles(seed=seed + 100))
    assert (toe.estimator.predict(fresh.x[:, 0]) == fresh.y).mean() > (
        linear.estimator.predict(fresh.x[:, 0]) == fresh.y
    ).mean()


def test_noise_is_not_made_to_look_like_knowledge() -> None:
    """Features chosen on all images, the left-out ones too, would be right of 0.6 of them. Settings that were chosen by
    the left-out images flatter by less."""
    probabilities = []
    for seed in range(4):
        features = needles(seed=seed, is_separable=False)
        toe = tune("head2toe", TuningData(features))
        probabilities.append(float((toe.probabilities.argmax(axis=1) == features.y).mean()))
    assert np.mean(probabilities) < 0.5


def test_the_width_of_a_feature_is_no_reason_to_keep_it() -> None:
    """Scores are as of standardised features: a head with equal coefficients prefers the wider ones."""
    coef, deviation = np.tile([1.0, 0.05, 1.0, 1.0], (3, 1)), np.array([1, 10, 3, 0.1])
    assert rank_features([coef, 2 * coef], deviation).tolist() == [[2, 0, 1, 3]] * 2


@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_the_ridge_of_the_screening_is_that_of_scikit_learn(strength: float) -> None:
    """Each problem has its own rows, mean, weights and penalty."""
    features = needles(n=60)
    data = TuningData(features, class_weight={0: 1.0, 1: 2.0, 2: 0.5})
    x, held_out = data.sample(1000)
    np.testing.assert_array_equal(x, features.x[:, 0])
    shifted = x - x.mean(axis=0)
    weight = np.array([1.0, 2.0, 0.5])[features.y]
    targets = np.eye(3)[features.y]
    coefs = DualRidge(targets, weight, held_out.fold, data.folds).coefs(Kernel.of(shifted), strength, shifted)
    for number, coef in enumerate(coefs):
        train = held_out.fold != number
        share = weight[train] / weight[train].sum()
        rows = x[train].astype(np.float64)
        variance = share @ (rows - share @ rows) ** 2
        ridge = Ridge(strength * variance.mean()).fit(rows, np.eye(3)[features.y[train]], share)
        np.testing.assert_allclose(coef, ridge.coef_, atol=2e-4 * np.abs(ridge.coef_).max())


def test_the_screening_takes_a_part_of_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image of the part keeps its fold, so that no fold sees the images that it holds out."""
    monkeypatch.setattr(feature_selection, "_IMAGES", 120)
    features = standard(needles(n=300))
    data = TuningData(features)
    x, held_out = data.sample(120)
    assert len(x) == 120
    place = [int(np.flatnonzero((features.x[:, 0] == row).all(axis=1))[0]) for row in x]
    np.testing.assert_array_equal(held_out.fold, data.held_out.fold[place])
    np.testing.assert_array_equal(held_out.labels, features.y[place])
    mask = select_features(data, lambda: False).mask
    assert mask is not None
    assert mask[-1, NEEDLES].all()


@pytest.mark.parametrize("n", [90, 300])
def test_features_that_all_help_are_all_kept(n: int) -> None:
    """The head is then linear on all features."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    x = (rng.normal(size=(n, 1, 128)) + rng.normal(size=(3, 128))[labels][:, None] / 2).astype(np.float32)
    samples = Samples(tuple(map(str, range(n))), labels, np.zeros(n, np.uint8),
                      rng.integers(0, 256, (n, 32), dtype=np.uint8), NAMES)  # fmt: skip
    data = TuningData(Features(x, samples))
    toe, linear = tune("head2toe", data), tune("linear", data)
    assert toe.setting.startswith("128 of 128 features, C=")
    np.testing.assert_array_equal(toe.estimator.coef_, linear.estimator.coef_)


def test_a_head_of_some_features_is_that_of_these_alone() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(80, 12)), np.arange(80) % 3
    x[np.arange(80), y] += 2
    fold = np.arange(80) % 3 - 1
    mask = rng.random((3, 12)) < 0.5

    def solve(columns: NDArray[np.bool_], data: NDArray[np.bool_] | None) -> list[NDArray[np.float64]]:
        centred = CenteredMatrix(x[:, columns], np.ones(80))
        problems = CVSoftmaxProblem(centred, y, np.ones(80), fold, 3, 3)
        path = solve_path(
            problems,
            LowRankPreconditioner.from_rows(centred, np.ones(80)),
            [0.01, 0.1, 1.0],
            1e-9,
            1000,
            feature_mask=data,
        )
        return [solution.coef for solution in path]

    whole = solve(np.ones(12, np.bool_), mask)
    for problem in range(3):
        alone = solve(mask[problem], None)
        for result, expected in zip(whole, alone, strict=True):
            assert not result[problem][:, ~mask[problem]].any()
            np.testing.assert_allclose(result[problem][:, mask[problem]], expected[problem], atol=1e-4)


@pytest.mark.parametrize("n", [90, 250])
def test_the_head_uses_no_feature_outside_its_mask(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer rows than features are projected, each fold on a space of its own; the solution is the same."""
    monkeypatch.setattr(tuning_data, "CV_TOL", 1e-9)
    monkeypatch.setattr(tuning_data, "TOL", 1e-9)
    features = standard(needles(n=n))
    mask = np.random.default_rng(0).random((6, 256)) < 0.4
    mask[:, NEEDLES] = True
    data = TuningData(features)
    assert data.is_projected == (n == 90)
    selection, layer = fit_selected(data, mask, lambda: False)
    whole, expected = fit_selected(unprojected(features), mask, lambda: False)
    assert layer.coef[:, mask[-1]].any(axis=0).all()
    assert not layer.coef[:, ~mask[-1]].any()
    for number in range(5):
        assert not whole.coef[number][:, ~mask[number]].any()
    np.testing.assert_allclose(selection.values, whole.values, rtol=1e-6)
    np.testing.assert_allclose(layer.coef, expected.coef, atol=1e-4 * np.abs(expected.coef).max())
    np.testing.assert_allclose(layer.intercept, expected.intercept, atol=1e-4)
    np.testing.assert_allclose(selection.probabilities(False), whole.probabilities(False), atol=1e-4)
