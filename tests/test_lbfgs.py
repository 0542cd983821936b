"""L-BFGS against minima that are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from featcache.lbfgs import minimise


def small(value: float, gradient: NDArray[Any]) -> bool:
    return bool(np.abs(gradient).max() <= 1e-9)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 30), st.floats(0, 4), st.integers(0, 2**32 - 1))
def test_the_minimum_of_a_quadratic(size: int, decades: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.normal(size=(size, size)))
    hessian = axes * np.logspace(0, decades, size) @ axes.T
    best = rng.normal(size=size)
    found = minimise(
        lambda x: (float((x - best) @ hessian @ (x - best)) / 2, hessian @ (x - best)), np.zeros(size), small, 2000
    )
    assert found.converged
    np.testing.assert_allclose(found.x, best, atol=1e-8)


def test_the_steps_of_one_that_is_curved_by_one_are_newtons() -> None:
    found = minimise(lambda x: (float(x @ x) / 2, x), np.array([0.6, 0.8]), small, 10)
    assert (found.iterations, found.converged, found.x.tolist()) == (1, True, [0, 0])


def test_a_step_too_long_is_halved_until_the_value_falls() -> None:
    """|x| smoothed: the first step of length 1 from 0.3 would land higher than it started."""
    values: list[float] = []

    def objective(x: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        values.append(float(np.sqrt(1e-4 + x @ x) * 100))
        return values[-1], 100 * x / np.sqrt(1e-4 + x @ x)

    found = minimise(objective, np.array([0.3]), small, 100)
    assert values[1] > values[0] > values[2]
    assert found.converged
    assert abs(found.x[0]) < 1e-6


def test_the_end_of_the_iterations_and_of_the_precision_are_no_convergence() -> None:
    slow = minimise(lambda x: (float(x**4 @ [1.0]), 4 * x**3), np.array([1.0]), lambda value, gradient: False, 5)
    assert (slow.iterations, slow.converged) == (5, False)
    edge = minimise(lambda x: (float(x[0] != 1), np.ones(1)), np.array([1.0]), small, 5)  # every step rises
    assert (edge.iterations, edge.converged, edge.x.tolist()) == (0, False, [1.0])


@pytest.mark.parametrize("noise", [1e-7, 1e-5])
def test_values_that_are_rounded_do_not_stop_it(noise: float) -> None:
    hessian = np.logspace(0, 3, 20)
    found = minimise(
        lambda x: (1.0 + round(float(x * hessian @ x) / 2 / noise) * noise, hessian * x), np.ones(20), small, 500
    )
    assert found.converged
    np.testing.assert_allclose(found.x, 0, atol=1e-8)
