"""Head2Toe keeps the informative features; it is scored on images that neither head nor choice has used."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from featcache.cache.features import Features
from featcache.cache.lazy_arrays import CenteredMatrix
from featcache.core.samples import Samples
from featcache.heads.solvers.path import Layer
from featcache.heads.solvers.preconditioner import LowRankPreconditioner
from featcache.heads.solvers.softmax import CVSoftmaxProblem, solve_path
from featcache.heads.tuning.feature_selection import select_features
from featcache.heads.tuning.path_selection import CVSelection
from featcache.heads.tuning.tuning_data import TunedHead, TuningData
from tuned import tune

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
    x = np.random.default_rng(0).normal(size=(50, 4)) * [1, 10, 3, 0.1]
    coef, intercept = np.tile([1.0, 0.05, 1.0, 1.0], (1, 3, 1)), np.zeros((1, 3))
    masks: list[NDArray[np.bool_] | None] = []
    refitted: list[NDArray[np.bool_] | None] = []

    def fit(mask: NDArray[np.bool_] | None, Cs: object) -> CVSelection:
        masks.append(mask)
        log_loss = np.array([1.0 + len(masks)])  # ever worse
        return CVSelection(np.ones(1), np.ones(1), log_loss, np.zeros((1, 3)), coef, intercept, ())

    def refit(selection: CVSelection, mask: NDArray[np.bool_] | None) -> Layer:
        refitted.append(mask)
        return Layer(coef[0], intercept[0])

    squares = CenteredMatrix(x, np.ones(50)).squares(np.ones(50))
    selection, layer, fraction = select_features(squares, fit, refit, [1.0], lambda: False)
    assert (fraction, *selection.log_loss) == (1.0, 2.0)
    assert refitted == [None]
    np.testing.assert_array_equal(layer.coef, coef[0])
    assert masks[0] is None
    assert [mask.tolist() for mask in masks[1:]] == [
        [[True, False, True, False]] * 2,
        [[False, False, True, False]] * 2,
    ]


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


def test_the_head_uses_no_feature_outside_its_mask() -> None:
    """It starts from the mean over the folds, each of which has a mask of its own."""
    data = TuningData(needles()).with_all_features()
    mask = np.random.default_rng(0).random((6, 256)) < 0.1
    selection = data.select(data.logistic_path(Cs=data.c_path[4:8], feature_mask=mask))
    for number in range(5):
        assert not selection.coef[number][:, ~mask[number]].any()
    layer = data.refit(selection, feature_mask=mask)
    assert layer.coef[:, mask[-1]].any(axis=0).all()
    assert not layer.coef[:, ~mask[-1]].any()
