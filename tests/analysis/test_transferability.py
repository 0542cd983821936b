"""Scores of features: what their definitions give, written another way, and what must not change them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize

from featcache.analysis.forecast.transferability import chance_purity, h_score, log_me, purity
from featcache.errors import HeadError

SEEDS = st.integers(0, 2**32 - 1)


def data(n: int, d: int, classes: int, apart: float = 1.0, seed: int = 0) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Clouds off centre, wider in some directions than in others."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    x = apart * rng.normal(size=(classes, d))[y] + rng.normal(size=(n, d)) / np.sqrt(np.arange(1, d + 1)) + 0.5
    return x, y


def hashes(n: int) -> NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 256, (n, 32), dtype=np.uint8)


def evidence(x: NDArray[Any], target: NDArray[Any]) -> float:
    """The largest log density of a target under N(0, 1 / beta + x x' / alpha), an nth of it, by climbing."""
    gram = x @ x.T

    def minus(logs: NDArray[Any]) -> float:
        covariance = np.exp(-logs[1]) * np.eye(len(x)) + np.exp(-logs[0]) * gram
        _, log_det = np.linalg.slogdet(2 * np.pi * covariance)
        return 0.5 * (log_det + target @ np.linalg.solve(covariance, target))

    starts = [(a, b) for a in (0.0, 4.0) for b in (0.0, 3.0)]
    options = {"xatol": 1e-5, "fatol": 1e-8, "maxiter": 2000}
    return max(-minimize(minus, start, method="Nelder-Mead", options=options).fun for start in starts) / len(x)


@pytest.mark.parametrize(("n", "d", "classes", "apart"), [(40, 5, 3, 0.0), (50, 8, 2, 0.7), (24, 40, 3, 0.5)])
def test_log_me_is_the_largest_evidence(n: int, d: int, classes: int, apart: float) -> None:
    x, y = data(n, d, classes, apart)
    expected = np.mean([evidence(x, (y == label).astype(float)) for label in range(classes)])
    assert log_me(x, y) == pytest.approx(expected, abs=2e-6)


def test_log_me_of_features_that_are_nothing_is_that_of_noise_alone() -> None:
    y = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 2])
    expected = np.mean([-0.5 * (np.log(2 * np.pi * count / 10) + 1) for count in (3, 2, 5)])
    assert log_me(np.zeros((10, 4)), y) == pytest.approx(expected, abs=1e-12)


def test_scores_of_classes_that_the_features_spell_out_are_finite_and_best() -> None:
    x, y = data(60, 6, 3)
    spelt = np.eye(3)[y]
    assert np.isfinite(log_me(spelt, y))
    assert log_me(spelt, y) > log_me(x, y) + 1
    assert h_score(x, y) < h_score(np.hstack([50 * spelt, x]), y) < 2
    assert purity(spelt, y, hashes(60)) == 1


def h_score_by_definition(x: NDArray[Any], y: NDArray[np.int64]) -> float:
    """Ibrahim et al. 2021 with the shrinkage of Ledoit and Wolf 2004, one outer product an image."""
    n, d = x.shape
    centred = x - x.mean(axis=0)
    outer = np.array([np.outer(row, row) for row in centred])
    s = outer.mean(axis=0)
    flat = np.trace(s) / d * np.eye(d)
    away = np.square(s - flat).sum()
    shrinkage = min(np.square(outer - s).sum() / n**2, away) / away
    means = np.array([centred[y == label].mean(axis=0) for label in y])
    shrunk = (1 - shrinkage) * s + shrinkage * flat
    return float(np.trace(np.linalg.pinv(shrunk) @ ((1 - shrinkage) * means.T @ means / n)))


@pytest.mark.parametrize(("n", "d", "classes"), [(60, 6, 3), (90, 4, 2), (20, 30, 4)])
def test_h_score_is_its_definition(n: int, d: int, classes: int) -> None:
    x, y = data(n, d, classes)
    assert h_score(x, y) == pytest.approx(h_score_by_definition(x, y), rel=1e-9)


def test_h_score_of_equal_features_is_nothing() -> None:
    assert h_score(np.ones((6, 3)), np.array([0, 1, 0, 1, 0, 1])) == 0


@settings(deadline=None, max_examples=25)
@given(st.integers(12, 40), st.integers(2, 50), st.integers(2, 4), st.floats(-3, 3), SEEDS)
def test_rotation_scale_and_order_change_no_score(n: int, d: int, classes: int, power: float, seed: int) -> None:
    x, y = data(n, d, classes, seed=seed)
    rng = np.random.default_rng(seed)
    order = rng.permutation(n)
    turned = 10**power * (x @ np.linalg.qr(rng.normal(size=(d, d)))[0])[order]
    # the evidence is flat about its top: how far the steps went shows in its sixth digit
    assert log_me(turned, y[order]) == pytest.approx(log_me(x, y), abs=1e-5)
    assert h_score(turned + rng.normal(size=d) * 10**power, y[order]) == pytest.approx(h_score(x, y), rel=1e-6)
    assert 0 <= h_score(x, y) <= classes - 1
    assert purity(turned, y[order], hashes(n)[order]) == pytest.approx(purity(x, y, hashes(n)))


@settings(deadline=None, max_examples=20)
@given(st.integers(12, 40), st.integers(2, 4), SEEDS)
def test_names_of_classes_do_not_matter(n: int, classes: int, seed: int) -> None:
    x, y = data(n, 5, classes, seed=seed)
    renamed = (y + 1) % classes + 2  # and some labels that no image has
    assert log_me(x, renamed) == pytest.approx(log_me(x, y))
    assert h_score(x, renamed) == pytest.approx(h_score(x, y))
    assert purity(x, renamed, hashes(n)) == pytest.approx(purity(x, y, hashes(n)))


def test_more_apart_is_better_by_every_score() -> None:
    near, far = (data(200, 8, 4, apart) for apart in (0.1, 1.0))
    assert log_me(*near) < log_me(*far)
    assert h_score(*near) < h_score(*far)
    assert purity(*near, hashes(200)) < purity(*far, hashes(200))


def test_purity_by_hand() -> None:
    """Directions of the plane; the lengths do not matter."""
    angles = np.radians([0, 10, 30, 35, 70, 75])
    x = np.column_stack([np.cos(angles), np.sin(angles)]) * np.array([1, 9, 2, 1, 3, 0.1])[:, None]
    y = np.array([0, 0, 0, 1, 1, 1])
    # six images have five others each, which is as many as are looked at: each sees both of its own
    assert purity(x, y, hashes(6)) == 1
    # of 13 images ten are looked at; three at 0 degrees have two others each, both the nearest; and of the ten at 90
    # degrees each has nine others, all before those three
    angles = np.radians([*(0.1 * np.arange(3)), *(90 + 0.1 * np.arange(10))])
    x = np.column_stack([np.cos(angles), np.sin(angles)])
    y = np.repeat([0, 1], [3, 10])
    assert purity(x, y, hashes(13)) == 1
    y[0] = 1  # at 0 degrees, with ten others of its class, eight of which are among the ten nearest
    expected = (8 / 10 + 2 * 1 + 10 * 9 / 10) / 13
    assert purity(x, y, hashes(13)) == pytest.approx(expected)


def test_copies_are_no_neighbours() -> None:
    """Labels by lot, each image eleven times: whoever counts copies finds nothing but its own class."""
    rng = np.random.default_rng(0)
    x, y, sha256 = rng.normal(size=(80, 6)), rng.integers(0, 2, 80), hashes(80)
    eleven = np.repeat(np.arange(80), 11)
    blind = purity(x[eleven], y[eleven], sha256[eleven])
    assert abs(blind - chance_purity(y)) < 0.12
    assert purity(x[eleven], y[eleven], hashes(880)) == 1


def test_copies_are_no_others_of_a_class_either() -> None:
    """At 0 degrees an image, its copy and one more of its class; at 45 one with its copy alone; ten at 90 degrees."""
    angles = np.radians([0, 0, 1, 45, 45, *(90 + 0.1 * np.arange(10))])
    x, y = np.column_stack([np.cos(angles), np.sin(angles)]), np.repeat([0, 1, 2], [3, 2, 10])
    sha256 = hashes(15)[[0, 0, *range(2, 4), 3, *range(5, 15)]]
    # ten are looked at: of the two copies each has one other, the third has both; those at 45 degrees do not count
    assert purity(x, y, sha256) == pytest.approx((1 + 1 + 1 + 10 * 1) / 13)


def test_purity_without_knowledge_is_by_chance() -> None:
    rng = np.random.default_rng(1)
    y = rng.choice(3, 3000, p=[0.6, 0.3, 0.1])
    assert chance_purity(np.array([0, 0, 0, 1])) == 0.625
    assert purity(rng.normal(size=(3000, 8)), y, hashes(3000)) == pytest.approx(chance_purity(y), abs=0.02)


def test_what_has_no_scores_is_refused() -> None:
    x, labels = np.random.default_rng(0).normal(size=(6, 3)), np.zeros(6, np.int64)
    for score in (log_me, h_score, lambda x, y: purity(x, y, hashes(6))):
        with pytest.raises(
            HeadError, match=r"^transferability needs two classes or more, and all images have the same class$"
        ):
            score(x, labels)
    with pytest.raises(
        HeadError, match=r"^no class has two different images, so the purity of neighbourhoods is not defined$"
    ):
        purity(x, np.arange(6), hashes(6))
