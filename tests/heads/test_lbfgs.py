"""L-BFGS on functions with known minima."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from featcache.heads.solvers.lbfgs import Minimum, minimize

One = Callable[[NDArray[Any]], tuple[float, NDArray[Any]]]


def plain(gradient: NDArray[Any], _which: NDArray[np.int64]) -> NDArray[Any]:
    return gradient


def solve(functions: list[One], start: NDArray[Any], tol: float = 1e-14, max_iter: int = 2000) -> Minimum:
    """Each function of a vector is one problem."""

    def objective(x: NDArray[Any], problem_ids: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[Any]]:
        result = [functions[problem](row) for problem, row in zip(problem_ids, x, strict=True)]
        return np.array([value for value, _ in result]), np.array([gradient for _, gradient in result])

    return minimize(objective, np.atleast_2d(start), plain, tol, max_iter)


def quadratic(size: int, decades: float, seed: int) -> tuple[One, NDArray[Any]]:
    """The value is 1 at its known minimum."""
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.normal(size=(size, size)))
    hessian, best = axes * np.logspace(0, decades, size) @ axes.T, rng.normal(size=size)
    return lambda x: (1 + float((x - best) @ hessian @ (x - best)) / 2, hessian @ (x - best)), best


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 4), st.integers(1, 20), st.floats(0, 4), st.integers(0, 2**32 - 1))
def test_the_minima_of_quadratics(problems: int, size: int, decades: float, seed: int) -> None:
    pairs = [quadratic(size, decades * number / problems, seed + number) for number in range(problems)]
    result = solve([function for function, _ in pairs], np.zeros((problems, size)), tol=1e-17)
    assert result.converged.all()
    np.testing.assert_allclose(result.x, [best for _, best in pairs], atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_problems_do_not_touch_each_other(seed: int) -> None:
    functions = [quadratic(6, decades, seed + number)[0] for number, decades in enumerate((0.0, 2.0, 4.0))]
    together = solve(functions, np.zeros((3, 6)))
    for number, function in enumerate(functions):
        alone = solve([function], np.zeros((1, 6)))
        np.testing.assert_array_equal(together.x[number], alone.x[0])
        assert together.iterations[number] == alone.iterations[0]


def test_the_first_step_is_newtons_where_the_preconditioner_is_the_inverse_hessian() -> None:
    hessian = np.array([1.0, 100.0])
    minimum = minimize(
        lambda x, _: (1 + (x * hessian * x).sum(1) / 2, hessian * x),
        np.array([[3.0, -2.0]]),
        lambda gradient, _: gradient / hessian,
        1e-12,
        10,
    )
    assert (minimum.iterations.tolist(), minimum.converged.tolist(), minimum.x.tolist()) == ([1], [True], [[0, 0]])


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-6])
def test_the_value_ends_about_tol_above_the_minimum_where_the_preconditioner_is_about_right(tol: float) -> None:
    hessian = np.logspace(0, 6, 20)
    wrong = np.random.default_rng(0).uniform(0.5, 2, 20)
    minimum = minimize(
        lambda x, _: (1 + (x * hessian * x).sum(1) / 2, hessian * x),
        np.ones((1, 20)),
        lambda gradient, _: gradient / (wrong * hessian),
        tol,
        100,
    )
    assert minimum.converged.all()
    assert (minimum.x[0] ** 2 * hessian).sum() / 2 <= 2 * tol


def test_a_step_too_long_is_halved_until_the_value_falls() -> None:
    """|x| smoothed: the first step from 0.3 would land higher than it started."""
    values: list[float] = []

    def function(x: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        values.append(float(np.sqrt(1e-4 + x @ x)))
        return values[-1], x / np.sqrt(1e-4 + x @ x)

    result = solve([function], np.array([0.3]))
    assert values[1] > values[0] > values[2]
    assert result.converged.all()
    assert abs(result.x[0, 0]) < 1e-6


def test_the_end_of_the_iterations_and_of_the_precision_are_no_convergence() -> None:
    slow = solve([lambda x: (float(x**4 @ [1.0]), 4 * x**3)], np.array([0.3]), 0.0, 5)
    assert (slow.iterations.tolist(), slow.converged.tolist()) == ([5], [False])
    edge = solve([lambda x: (float(x[0] != 1), np.ones(1))], np.array([1.0]), 1e-9, 5)  # every step rises
    assert (edge.iterations.tolist(), edge.converged.tolist(), edge.x.tolist()) == ([0], [False], [[1.0]])


@pytest.mark.parametrize("noise", [1e-7, 1e-5])
def test_values_that_are_rounded_do_not_stop_it(noise: float) -> None:
    hessian = np.logspace(0, 3, 20)
    result = solve(
        [lambda x: (1.0 + round(float(x * hessian @ x) / 2 / noise) * noise, hessian * x)], np.ones(20), 1e-18, 500
    )
    assert result.converged.all()
    np.testing.assert_allclose(result.x, 0, atol=1e-8)
