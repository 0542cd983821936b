"""Temperature, log-loss and calibration error against answers that are known, scipy and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax
from sklearn.metrics import log_loss

from featcache.calibration import expected_calibration_error, fit_temperature, mean_log_loss

SEEDS = st.integers(0, 2**32 - 1)


def drawn(n: int, classes: int, temperature: float, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits, and labels drawn from softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * 3 * temperature
    below = softmax(logits / temperature, axis=1).cumsum(axis=1)
    return logits, np.minimum((rng.uniform(size=(n, 1)) > below).sum(axis=1), classes - 1)


def smoothed(z: NDArray[Any], y: NDArray[np.int64], weight: NDArray[np.float64], temperature: float) -> float:
    """The log-loss where a label is drawn by lot with probability 1 / (n + 1)."""
    n, classes = z.shape
    target = np.full(z.shape, 1 / (n + 1) / classes)
    target[np.arange(n), y] += n / (n + 1)
    logs = z / temperature - logsumexp(z / temperature, axis=1, keepdims=True)
    return float(-weight @ (target * logs).sum(axis=1) / weight.sum())


@pytest.mark.parametrize("temperature", [0.02, 0.5, 1.0, 4.0, 100.0])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_temperature_that_labels_were_drawn_at_is_found(classes: int, temperature: float) -> None:
    logits, y = drawn(20_000, classes, temperature, seed=classes)
    assert abs(fit_temperature(logits, y, np.ones(len(y))) / temperature - 1) < 0.03


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(2, 5), st.floats(-1, 0.5), st.floats(0.01, 100), SEEDS)
def test_no_temperature_from_a_hundredth_to_a_hundredfold_has_less_loss(
    n: int, classes: int, decades: float, start: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    z, y = drawn(n, classes, 10**decades, seed)
    weight = rng.uniform(0.1, 2, n)
    found = fit_temperature(z, y, weight, start)
    best = minimize_scalar(
        lambda log: smoothed(z, y, weight, np.exp(log)),
        bounds=(np.log(0.01 * z.std()), np.log(100 * z.std())),
        method="bounded",
        options={"xatol": 1e-6},
    )
    assert smoothed(z, y, weight, found) <= best.fun + 1e-7


@settings(deadline=None, max_examples=25)
@given(st.integers(3, 40), st.integers(2, 5), st.floats(-1, 1), SEEDS)
def test_logits_so_many_times_as_large_have_a_temperature_so_many_times_as_high(
    n: int, classes: int, decades: float, seed: int
) -> None:
    z, y = drawn(n, classes, 1.0, seed)
    y[: n // 2] = z[: n // 2].argmax(axis=1)  # informative, so that the best temperature is not without end
    weight = np.ones(n)
    once = fit_temperature(z, y, weight)
    if 0.02 < once < 50:
        np.testing.assert_allclose(fit_temperature(10**decades * z, y, weight), 10**decades * once, rtol=1e-4)


@pytest.mark.parametrize("size", [1e-6, 1e-3, 1e4, 1e6])
def test_logits_of_any_size_can_be_mended(size: float) -> None:
    """Those of nearest centroids are as long as the features, and those of LDA grow without end with a weak ridge."""
    z, y = drawn(2000, 3, 1.0, seed=0)
    np.testing.assert_allclose(fit_temperature(size * z, y, np.ones(2000)) / size, 1, atol=0.1)


@pytest.mark.parametrize("n", [1, 10, 1000])
@pytest.mark.parametrize("margin", [0.1, 8.0])
def test_where_no_image_is_wrong_the_lot_alone_limits_the_confidence(n: int, margin: float) -> None:
    """Of n labels, 1 / (n + 1) is drawn from two classes: 1 - 1 / (2 n + 2) are right, odds of 2 n + 1."""
    y = np.arange(n) % 2
    z = margin * np.eye(2)[y]
    np.testing.assert_allclose(fit_temperature(z, y, np.ones(n)), margin / np.log(2 * n + 1), rtol=1e-5)


def test_a_weight_is_how_often_a_row_counts() -> None:
    """Two rows of the same logits: one right with weight 3, one wrong with weight 1, and a lot of 1 in 3."""
    z, y = np.array([[0.0, 2.0], [0.0, 2.0]]), np.array([1, 0])
    share = 2 / 3 * 3 / 4 + 1 / 3 / 2
    found = fit_temperature(z, y, np.array([3.0, 1.0]))
    np.testing.assert_allclose(found, 2 / np.log(share / (1 - share)), rtol=1e-5)


@pytest.mark.parametrize("start", [1e-3, 1.0, 1e3])
def test_logits_that_say_the_contrary_end_at_a_temperature_that_says_nothing(start: float) -> None:
    y = np.arange(20) % 2
    found = fit_temperature(5.0 * np.eye(2)[1 - y], y, np.ones(20), start)
    assert np.isfinite(found)
    np.testing.assert_allclose(softmax(np.array([0, 5]) / found), 0.5, atol=0.01)
    recovered = fit_temperature(5.0 * np.eye(2)[y], y, np.ones(20), found)
    np.testing.assert_allclose(recovered, 5 / np.log(41), rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 7.0, -1e6])
def test_logits_without_differences_give_some_temperature(value: float) -> None:
    found = fit_temperature(np.full((4, 3), value), np.array([0, 1, 2, 0]), np.ones(4))
    assert np.isfinite(found)
    assert found > 0


def test_logits_of_float32_and_far_from_zero_are_the_same_logits() -> None:
    z, y = drawn(50, 3, 2.0, seed=0)
    expected = fit_temperature(z, y, np.ones(50))
    np.testing.assert_allclose(fit_temperature(z.astype(np.float32), y, np.ones(50)), expected, rtol=1e-5)
    np.testing.assert_allclose(fit_temperature(z + 1e4, y, np.ones(50)), expected, rtol=1e-4)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 30), st.integers(2, 6), SEEDS)
def test_the_log_loss_is_that_of_scikit_learn(n: int, classes: int, seed: int) -> None:
    z, y = drawn(n, classes, 1.0, seed)
    weight = np.random.default_rng(seed).uniform(0.1, 2, n)
    expected = log_loss(y, softmax(z, axis=1), sample_weight=weight, labels=range(classes))
    np.testing.assert_allclose(mean_log_loss(z, y, weight), expected, rtol=1e-9)


def test_a_log_loss_by_hand() -> None:
    z = np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    found = mean_log_loss(z, np.array([1, 2]), np.array([1.0, 3.0]))
    np.testing.assert_allclose(found, -(np.log(0.25) + 3 * np.log(0.8)) / 4)
    assert mean_log_loss(np.array([[0.0, -5000.0]]), np.array([1]), np.ones(1)) == 5000


def test_a_calibration_error_by_hand() -> None:
    """Two bins: (0.5, 0.7), one of two right, and (0.75, 0.85, 1.0), two of three right, of ten bins' 5, 7, 7, 8, 9."""
    confidence = np.array([0.5, 0.7, 0.75, 0.85, 1.0])
    right = np.array([True, False, True, False, True])
    probabilities, y = np.column_stack([confidence, 1 - confidence]), np.where(right, 0, 1)
    by_four = (abs(0.5 + 0.7 - 1) + abs(0.75 + 0.85 + 1 - 2)) / 5  # from 0.5, and from 0.75
    np.testing.assert_allclose(expected_calibration_error(probabilities, y, bins=4), by_four)
    by_ten = (abs(0.5 - 1) + abs(0.7 + 0.75 - 1) + abs(0.85) + abs(1 - 1)) / 5
    np.testing.assert_allclose(expected_calibration_error(probabilities, y, bins=10), by_ten)


def test_bins_as_often_right_as_they_say_have_no_error() -> None:
    probabilities = np.repeat([[0.6, 0.2, 0.2], [0.05, 0.9, 0.05], [0.0, 0.0, 1.0]], [5, 10, 4], axis=0)
    y = np.array([0] * 3 + [1, 2] + [1] * 9 + [0] + [2] * 4)
    np.testing.assert_allclose(expected_calibration_error(probabilities, y), 0, atol=1e-15)


def test_no_images_have_no_error() -> None:
    assert expected_calibration_error(np.empty((0, 3)), np.empty(0, np.int64)) == 0


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 30), st.integers(2, 5), st.integers(1, 20), st.floats(0, 1000), SEEDS)
def test_the_calibration_error_lies_between_that_of_one_bin_and_one(
    n: int, classes: int, bins: int, scale: float, seed: int
) -> None:
    z, y = drawn(n, classes, 1.0, seed)
    probabilities = softmax(scale * z, axis=1)
    found = expected_calibration_error(probabilities, y, bins)
    gap = abs(probabilities.max(axis=1).mean() - (probabilities.argmax(axis=1) == y).mean())
    assert gap - 1e-12 <= found <= 1 + 1e-12
    np.testing.assert_allclose(expected_calibration_error(probabilities, y, 1), gap, atol=1e-12)
    sure = expected_calibration_error(probabilities, probabilities.argmax(axis=1), bins)
    np.testing.assert_allclose(sure, 1 - probabilities.max(axis=1).mean(), atol=1e-12)


def test_a_temperature_calibrates() -> None:
    """Logits five times too large: sure of themselves, and mended by the one number."""
    z, y = drawn(5000, 4, 1.0, seed=0)
    y_fit, y_new, z_fit, z_new = y[:2500], y[2500:], 5 * z[:2500], 5 * z[2500:]
    found = fit_temperature(z_fit, y_fit, np.ones(2500))
    assert expected_calibration_error(softmax(z_new, axis=1), y_new) > 0.1
    assert expected_calibration_error(softmax(z_new / found, axis=1), y_new) < 0.03
