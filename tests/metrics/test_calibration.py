"""Temperature, log-loss and calibration error against answers that are known, scipy and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit, logsumexp, softmax
from sklearn.metrics import log_loss

from featcache.metrics import calibration
from featcache.metrics.calibration import (
    expected_calibration_error,
    fit_label_temperatures,
    fit_temperature,
    label_log_loss,
    mean_log_loss,
    reliability,
)

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


@pytest.mark.parametrize("start", [0.01, 0.7, 100.0])
@pytest.mark.parametrize(("classes", "temperature"), [(2, 1.0), (5, 0.1), (30, 3.0)])
def test_the_relative_error_of_the_temperature_is_a_millionth(classes: int, temperature: float, start: float) -> None:
    """Against the root of the slope of the smoothed log-loss."""
    z, y = drawn(500, classes, temperature, seed=classes)
    weight = np.random.default_rng(0).uniform(0.1, 2, 500)
    target = np.eye(classes)[y] * 500 / 501 + 1 / 501 / classes

    def slope(beta: float) -> float:
        return float(weight @ ((softmax(beta * z, axis=1) - target) * z).sum(axis=1))

    exact = 1 / brentq(slope, 0.1 / temperature, 10 / temperature, xtol=1e-14, rtol=1e-14)
    np.testing.assert_allclose(fit_temperature(z, y, weight, start), exact, rtol=1e-6)


@pytest.mark.parametrize("block_bytes", [1, 100])
def test_the_size_of_a_block_changes_nothing_but_rounding(block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    z, y = drawn(50, 3, 2.0, seed=0)
    weight = np.random.default_rng(0).uniform(0.1, 2, 50)
    expected = fit_temperature(z, y, weight), mean_log_loss(z, y, weight)
    monkeypatch.setattr(calibration, "_BLOCK_BYTES", block_bytes)
    np.testing.assert_allclose((fit_temperature(z, y, weight), mean_log_loss(z, y, weight)), expected, rtol=1e-12)


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


def test_each_bin_counts_its_predictions_their_confidence_and_the_right_ones() -> None:
    confidence = np.array([0.0, 0.125, 0.25, 0.5, 0.625, 1.0, 1.0])
    right = np.array([False, True, True, False, True, True, False])
    np.testing.assert_array_equal(
        reliability(confidence, right, bins=4), [[2, 0.125, 1], [1, 0.25, 1], [2, 1.125, 1], [2, 2, 1]]
    )
    np.testing.assert_array_equal(reliability(confidence, right, bins=1), [[7, 3.5, 4]])
    assert reliability(confidence, right).shape == (15, 3)


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


# Several labels


def drawn_labels(n: int, temperatures: Any, seed: int) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Log-odds of labels, and labels drawn with them over a temperature for each label."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, len(temperatures))) * 3 * temperatures
    return logits, (rng.uniform(size=logits.shape) < expit(logits / temperatures)).astype(np.uint8)


def label_temperatures(logits: Any, y: Any, weight: Any = None, start: Any = None) -> NDArray[np.float64]:
    """With equal weights, from 1, where nothing else is said."""
    weight = np.ones(y.shape) if weight is None else weight
    return fit_label_temperatures(logits, y, weight, np.ones(y.shape[1]) if start is None else start)


def test_the_temperature_that_each_label_was_drawn_at_is_found() -> None:
    temperatures = np.array([0.02, 0.5, 1.0, 4.0, 100.0])
    found = label_temperatures(*drawn_labels(20_000, temperatures, seed=0))
    np.testing.assert_allclose(found / temperatures, 1, atol=0.05)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 4), st.floats(-1, 0.5), SEEDS)
def test_each_label_has_the_temperature_of_two_classes(n: int, c: int, decades: float, seed: int) -> None:
    """That lacks it and that has it, with half of the log-odds each."""
    rng = np.random.default_rng(seed)
    logits, y = drawn_labels(n, np.full(c, 10**decades), seed)
    weight, start = rng.uniform(0.1, 2, (n, c)), rng.uniform(0.1, 10, c)
    found = label_temperatures(logits, y, weight, start)
    for label in range(c):
        two = np.column_stack([-logits[:, label], logits[:, label]]) / 2
        expected = fit_temperature(two, y[:, label].astype(np.int64), weight[:, label], start[label])
        spread = np.sqrt(np.mean(logits[:, label] ** 2))
        if expected < 100 * spread:
            np.testing.assert_allclose(found[label], expected, rtol=1e-4)
        else:  # they say the contrary, and have no best temperature
            assert found[label] > 100 * spread


def smoothed_label(z: NDArray[Any], y: NDArray[Any], weight: NDArray[np.float64], temperature: float) -> float:
    """The log-loss of one label where it is drawn by lot with probability 1 / (n + 1)."""
    share = y * len(y) / (len(y) + 1) + 0.5 / (len(y) + 1)
    z = z / temperature
    return float(np.average(share * np.logaddexp(0, -z) + (1 - share) * np.logaddexp(0, z), weights=weight))


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 40), st.floats(-1, 0.5), SEEDS)
def test_no_other_temperature_of_a_label_has_less_loss(n: int, decades: float, seed: int) -> None:
    z, y = drawn_labels(n, np.full(2, 10**decades), seed)
    weight = np.random.default_rng(seed).uniform(0.1, 2, (n, 2))
    found = label_temperatures(z, y, weight)
    for label in range(2):
        column = z[:, label], y[:, label], weight[:, label]
        spread = float(np.sqrt(np.mean(column[0] ** 2)))
        best = minimize_scalar(
            lambda log, column=column: smoothed_label(*column, np.exp(log)),
            bounds=(np.log(0.01 * spread), np.log(100 * spread)),
            method="bounded",
            options={"xatol": 1e-6},
        )
        assert smoothed_label(*column, found[label]) <= best.fun + 1e-7


@settings(deadline=None, max_examples=25)
@given(st.integers(3, 30), st.integers(2, 5), SEEDS)
def test_labels_do_not_see_each_other(n: int, c: int, seed: int) -> None:
    """Columns together, alone, and beside one that no step ends."""
    z, y = drawn_labels(n, np.geomspace(0.1, 10, c), seed)
    together = label_temperatures(np.column_stack([z, -z[:, 0]]), np.column_stack([y, y[:, 0]]))[:c]
    alone = [label_temperatures(z[:, [label]], y[:, [label]])[0] for label in range(c)]
    np.testing.assert_allclose(together, alone, rtol=1e-4)


@pytest.mark.parametrize("n", [1, 10, 1000])
@pytest.mark.parametrize("margin", [0.1, 8.0])
def test_where_no_image_is_wrong_in_a_label_the_lot_alone_limits_the_confidence(n: int, margin: float) -> None:
    y = np.arange(2 * n).reshape(n, 2) % 2
    z = margin * (2 * y - 1)
    np.testing.assert_allclose(label_temperatures(z, y), margin / np.log(2 * n + 1), rtol=1e-5)


def test_a_label_that_is_never_there_has_a_temperature() -> None:
    z = np.column_stack([np.full(20, -20.0), np.zeros(20), np.linspace(-3, 3, 20)])
    found = label_temperatures(z, np.zeros((20, 3), np.uint8))
    np.testing.assert_allclose(found[0], 20 / np.log(41), rtol=1e-5)
    assert np.isfinite(found).all()
    assert (found > 0).all()


@pytest.mark.parametrize("start", [1e-3, 1.0, 1e3])
def test_labels_that_are_told_the_wrong_way_round_end_at_odds_of_one(start: float) -> None:
    y = np.arange(40).reshape(20, 2) % 2
    found = label_temperatures(5.0 * (1 - 2 * y), y, start=np.full(2, start))
    np.testing.assert_allclose(expit(5 / found), 0.5, atol=0.01)
    recovered = label_temperatures(5.0 * (2 * y - 1), y, start=found)
    np.testing.assert_allclose(recovered, 5 / np.log(41), rtol=1e-5)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 30), st.integers(1, 5), SEEDS)
def test_the_log_loss_of_each_label_is_that_of_scikit_learn(n: int, c: int, seed: int) -> None:
    z, y = drawn_labels(n, np.ones(c), seed)
    weight = np.random.default_rng(seed).uniform(0.1, 2, (n, c))
    expected = [
        log_loss(y[:, label], expit(z[:, label]), sample_weight=weight[:, label], labels=[0, 1]) for label in range(c)
    ]
    np.testing.assert_allclose(label_log_loss(z, y, weight), expected, rtol=1e-7)


def test_a_log_loss_of_labels_by_hand() -> None:
    z = np.log([[3.0, 1.0], [1 / 4, 9.0]])  # probabilities 3/4, 1/2; 1/5, 9/10
    found = label_log_loss(z, np.array([[1, 0], [1, 1]]), np.array([[1.0, 1.0], [3.0, 1.0]]))
    np.testing.assert_allclose(found, [-(np.log(0.75) + 3 * np.log(0.2)) / 4, -(np.log(0.5) + np.log(0.9)) / 2])
    far = label_log_loss(np.array([[-5000.0, 5000.0]]), np.array([[1, 1]]), np.ones((1, 2)))
    assert far.tolist() == [5000, 0]
