"""Leading eigenvectors compared with the full eigendecomposition, and the inverse made from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from featcache.cache import lazy_arrays
from featcache.cache.lazy_arrays import CenteredMatrix, LazyRows
from featcache.heads.solvers.preconditioner import LowRankPreconditioner

SEEDS = st.integers(0, 2**32 - 1)


def mean(spectrum: LowRankPreconditioner) -> float:
    """Of all eigenvalues."""
    d, r = spectrum.vectors.shape
    return float(spectrum.values.sum() + (d - r) * spectrum.rest) / d


def matrix(n: int, d: int, decay: float, seed: int = 0) -> NDArray[np.float64]:
    """Rows off centre, of standard deviations 1, 2^-decay, 3^-decay, ... along directions of their own."""
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.normal(size=(d, d)))
    return 5 + rng.normal(size=(n, d)) * np.arange(1, d + 1.0) ** -decay @ axes.T


def covariance(x: NDArray[Any], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    x = x.astype(np.float64) - np.average(x.astype(np.float64), axis=0, weights=weight)
    return (x * weight[:, None]).T @ x / weight.sum()


def inverse(spectrum: LowRankPreconditioner, scale: float, ridge: float) -> NDArray[np.float64]:
    return np.array(spectrum.solve(np.eye(len(spectrum.vectors)), np.array(scale), np.array(ridge)))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("decay", [0.5, 1.0, 2.0])
def test_the_leading_eigenvalues_are_those_of_the_weighted_covariance(decay: float, dtype: str) -> None:
    x, weight = matrix(240, 120, decay).astype(dtype), np.random.default_rng(1).uniform(0, 2, 240)
    result = LowRankPreconditioner.from_rows(CenteredMatrix(x, weight), weight)
    values, vectors = np.linalg.eigh(covariance(x, weight))
    assert result.vectors.shape == (120, 64)
    np.testing.assert_allclose(result.vectors.T @ result.vectors, np.eye(64), atol=1e-9)
    np.testing.assert_allclose(result.values[-10:], values[-10:], rtol=0.02)
    assert (result.values <= values[-64:] * (1 + 1e-3)).all()  # of a part of the space, none can be larger
    np.testing.assert_allclose(result.values.sum(), values[-64:].sum(), rtol=0.02)
    np.testing.assert_allclose(mean(result), values.mean(), rtol=1e-4)
    np.testing.assert_allclose(abs((result.vectors[:, -3:] * vectors[:, -3:]).sum(axis=0)), 1, atol=0.02)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 64), st.floats(0, 2), st.floats(-4, 2), st.floats(-6, 1), SEEDS)
def test_the_inverse_is_exact_where_no_direction_is_left_out(
    d: int, decay: float, scale: float, ridge: float, seed: int
) -> None:
    x, weight = matrix(2 * d, d, decay, seed), np.random.default_rng(seed).uniform(0.1, 2, 2 * d)
    spectrum = LowRankPreconditioner.from_rows(CenteredMatrix(x, weight), weight)
    result = inverse(spectrum, 10**scale, 10**ridge)
    expected = np.linalg.inv(10**scale * covariance(x, weight) + 10**ridge * np.eye(d))
    np.testing.assert_allclose(result, expected, atol=1e-6 * np.abs(expected).max())


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 80), st.integers(1, 100), st.floats(0, 3), st.floats(-8, 4), st.booleans(), SEEDS)
def test_the_inverse_is_symmetric_and_positive_definite(
    n: int, d: int, decay: float, ridge: float, single: bool, seed: int
) -> None:
    x = matrix(n, d, decay, seed).astype(np.float32 if single else np.float64)
    spectrum = LowRankPreconditioner.from_rows(CenteredMatrix(x, np.ones(n)), np.ones(n))
    result = inverse(spectrum, 0.25, 10**ridge)
    np.testing.assert_allclose(result, result.T, atol=1e-9 / 10**ridge)
    values = np.linalg.eigvalsh(result)
    top = 0.25 * max(spectrum.values[-1], spectrum.rest) + 10**ridge
    np.testing.assert_allclose(values[0], 1 / top, rtol=1e-5, atol=1e-9 / 10**ridge)
    assert values[-1] <= (1 + 1e-5) / 10**ridge


def test_each_row_of_each_problem_has_its_own_scale_and_ridge() -> None:
    spectrum = LowRankPreconditioner.from_rows(CenteredMatrix(matrix(60, 30, 1.0), np.ones(60)), np.ones(60))
    rng = np.random.default_rng(0)
    gradient, scale, ridge = rng.normal(size=(2, 3, 30)), rng.uniform(0, 1, (2, 3)), rng.uniform(0.1, 1, (2, 1))
    result = spectrum.solve(gradient, scale, ridge)
    for problem in range(2):
        for output in range(3):
            alone = inverse(spectrum, scale[problem, output], ridge[problem, 0]) @ gradient[problem, output]
            np.testing.assert_allclose(result[problem, output], alone, rtol=1e-9)
    assert spectrum.solve(gradient.astype(np.float32), scale, ridge).dtype == np.float32


def test_what_is_left_out_counts_as_much_in_every_direction() -> None:
    """Of 100 equal eigenvalues, 64 are found; the other 36 are their own mean."""
    x = np.vstack([np.eye(100), -np.eye(100)])
    spectrum = LowRankPreconditioner.from_rows(CenteredMatrix(x, np.ones(200)), np.ones(200))
    np.testing.assert_allclose(spectrum.values, 0.01, rtol=1e-9)
    np.testing.assert_allclose([spectrum.rest, mean(spectrum)], 0.01, rtol=1e-9)
    np.testing.assert_allclose(inverse(spectrum, 3.0, 0.5), np.eye(100) / 0.53, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_large_features_are_no_less_exact(dtype: str) -> None:
    x = (matrix(200, 100, 1.0) - 5).astype(dtype)
    item = LowRankPreconditioner.from_rows(CenteredMatrix(x, np.ones(200)), np.ones(200))
    large = LowRankPreconditioner.from_rows(CenteredMatrix(x * np.array(8000, dtype), np.ones(200)), np.ones(200))
    rtol = 1e-2 if dtype == "float16" else 1e-4
    np.testing.assert_allclose(large.values, item.values * 8000**2, rtol=rtol)
    np.testing.assert_allclose(large.rest, item.rest * 8000**2, rtol=rtol)
    np.testing.assert_allclose(inverse(large, 1.0, 8000.0**2) * 8000**2, inverse(item, 1.0, 1.0), atol=rtol)


def test_a_sample_of_many_rows_tells_about_all() -> None:
    x = matrix(5000, 80, 1.0)
    result = LowRankPreconditioner.from_rows(CenteredMatrix(x, np.ones(5000)), np.ones(5000))
    values = np.linalg.eigvalsh(covariance(x, np.ones(5000)))
    np.testing.assert_allclose(result.values[-3:], values[-3:], rtol=0.35)
    np.testing.assert_allclose(mean(result), values.mean(), rtol=0.2)


def test_rows_that_are_read_anew_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, index = matrix(300, 20, 1.0).astype(np.float16), np.arange(0, 300, 2)
    mask = LowRankPreconditioner.from_rows(CenteredMatrix(x[index], np.ones(150)), np.ones(150))
    monkeypatch.setattr(lazy_arrays, "MAX_CACHED_BYTES", 0)
    streamed = LowRankPreconditioner.from_rows(CenteredMatrix(LazyRows(x, index), np.ones(150)), np.ones(150))
    for actual, other in zip(streamed, mask, strict=True):
        np.testing.assert_array_equal(actual, other)


@pytest.mark.parametrize("d", [1, 3, 100])
@pytest.mark.parametrize("n", [1, 50])
def test_features_without_spread_leave_the_ridge_alone(n: int, d: int) -> None:
    spectrum = LowRankPreconditioner.from_rows(CenteredMatrix(np.full((n, d), 7.0), np.ones(n)), np.ones(n))
    assert mean(spectrum) == 0
    np.testing.assert_allclose(inverse(spectrum, 1.0, 0.25), 4 * np.eye(d), atol=1e-12)


def test_a_sample_without_weight_leaves_the_ridge_alone() -> None:
    """All the weight is on two rows of 1000, and 6 rows are looked at."""
    weight = np.zeros(1000)
    weight[[7, 11]] = 1
    spectrum = LowRankPreconditioner.from_rows(CenteredMatrix(matrix(1000, 3, 0.0), weight), weight)
    np.testing.assert_allclose(inverse(spectrum, 1.0, 0.25), 4 * np.eye(3), atol=1e-12)


@pytest.mark.parametrize("d", [40, 100])
def test_fewer_rows_than_features_are_no_error(d: int) -> None:
    x = matrix(5, d, 1.0)
    spectrum = LowRankPreconditioner.from_rows(CenteredMatrix(x, np.ones(5)), np.ones(5))
    values, vectors = np.linalg.eigh(covariance(x, np.ones(5)))
    np.testing.assert_allclose(spectrum.values[-4:], values[-4:], rtol=1e-6)
    np.testing.assert_allclose(spectrum.values[:-4], 0, atol=1e-12)
    expected = (vectors / (values + 0.1)) @ vectors.T
    np.testing.assert_allclose(inverse(spectrum, 1.0, 0.1), expected, atol=1e-6)
