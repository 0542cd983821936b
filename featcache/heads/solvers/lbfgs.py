"""`minimize`: L-BFGS, a quasi-Newton method, for several problems at once.

The problems share their evaluations only: one pass over the data serves all. Each has its own steps, and is no longer
evaluated once it has converged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[Any]
Objective = Callable[[Matrix, NDArray[np.int64]], tuple[NDArray[np.float64], Matrix]]
"""Points (a, p) of the problems with indices (a,) to their values (a,) and gradients (a, p)."""
Precondition = Callable[[Matrix, NDArray[np.int64]], Matrix]
"""Gradients (a, p) of the problems with indices (a,), multiplied by an estimate of their inverse Hessians."""

ARMIJO, NOISE = 1e-4, 1e-6  # required decrease of a step; relative error of a float32 sum
MAX_HALVINGS = 30
_LAST = 2  # steps: a single one can be small by chance if classes are almost separable
_FIRST = 3  # least number of steps: the first ones follow the preconditioner alone, whose estimate may be far off


class Minimum(NamedTuple):
    """The minima of k problems.

    x : shape (k, p). iterations : (k,), the number of steps. converged : (k,), False if the iterations or the
    precision did not suffice.
    """

    x: Matrix
    iterations: NDArray[np.int64]
    converged: NDArray[np.bool_]


def minimize(
    objective: Objective,
    start: Matrix,
    precondition: Precondition,
    tol: float,
    max_iter: int,
    memory: int = 10,
) -> Minimum:
    """Minimise k smooth convex functions by preconditioned L-BFGS (Liu and Nocedal 1989; Nocedal and Wright, 7.2).

    A step is halved until the value falls enough (Armijo 1966). If rounding hides the fall, the slope decides (Hager
    and Zhang 2005).

    Parameters
    ----------
    objective : Objective
        Values and gradients.
    start : ndarray, shape (k, p)
        The first points.
    precondition : Precondition
        The first estimate of the inverse Hessians.
    tol : float
        A problem has converged if half of its Newton decrement, about the distance of its value from the minimum, is
        at most this fraction of the value, and neither of the last steps gained more; not before the third
        step. Without both the estimate may be far off.
    max_iter : int
        Most steps of each problem.
    memory : int
        Steps that the estimate of the inverse Hessian uses.
    """
    x = start.copy()
    k = len(x)
    value, gradient = objective(x, np.arange(k))
    direction, slope = np.zeros_like(x), np.zeros(k)
    step, halvings = np.ones(k), np.zeros(k, np.int64)
    iterations, converged = np.zeros(k, np.int64), np.zeros(k, bool)
    decrease = np.full((_LAST, k), np.inf)  # of the value by each of the last steps
    steps = _Memory(memory, x, precondition)
    active = moved = np.arange(k)
    while True:
        direction[moved] = -steps.times_inverse_hessian(gradient[moved], moved)
        slope[moved] = _dot(gradient[moved], direction[moved])
        tolerance = tol * np.abs(value[moved])
        is_small = (-slope[moved] / 2 <= tolerance) & (decrease[:, moved].max(axis=0) <= tolerance)
        converged[moved] = is_small & (iterations[moved] >= _FIRST) | (slope[moved] == 0)
        active = active[~converged[active] & (iterations[active] < max_iter) & (halvings[active] < MAX_HALVINGS)]
        if not len(active):
            return Minimum(x, iterations, converged)
        new = x[active] + step[active, None].astype(x.dtype) * direction[active]
        new_value, new_gradient = objective(new, active)
        new_slope = _dot(new_gradient, direction[active])
        decreased = new_value <= value[active] + ARMIJO * step[active] * slope[active]
        flat = new_value <= value[active] + NOISE * np.abs(value[active])
        accepted = decreased | (flat & (new_slope <= (2 * ARMIJO - 1) * slope[active]))
        step[active[~accepted]] /= 2
        halvings[active[~accepted]] += 1
        moved = active[accepted]
        if len(moved):
            steps.add(moved, new[accepted] - x[moved], new_gradient[accepted] - gradient[moved])
            decrease[iterations[moved] % _LAST, moved] = value[moved] - new_value[accepted]
            x[moved], value[moved], gradient[moved] = new[accepted], new_value[accepted], new_gradient[accepted]
            step[moved], halvings[moved] = 1, 0
            iterations[moved] += 1


class _Memory:
    """The last steps of each problem, and the changes of the gradient along them, in ring buffers (memory, k, p)."""

    def __init__(self, memory: int, x: Matrix, precondition: Precondition) -> None:
        self._steps, self._changes = np.zeros((2, memory, *x.shape), x.dtype)
        self._inverse = np.zeros((memory, len(x)))  # 1 / (step . change), 0 for an empty slot
        self._count = np.zeros(len(x), np.int64)
        self._scale = np.ones(len(x))  # of the first estimate, by the last step
        self._precondition = precondition

    def add(self, problem_ids: NDArray[np.int64], step: Matrix, change: Matrix) -> None:
        """Add a step; one without curvature, which is an effect of rounding, is ignored."""
        curvature = _dot(step, change)
        is_curved = curvature > np.finfo(np.float64).tiny
        problem_ids, step, change, curvature = (
            problem_ids[is_curved],
            step[is_curved],
            change[is_curved],
            curvature[is_curved],
        )
        if not len(problem_ids):
            return
        slot = self._count[problem_ids] % len(self._inverse)
        self._steps[slot, problem_ids], self._changes[slot, problem_ids] = step, change
        self._inverse[slot, problem_ids] = 1 / curvature
        self._scale[problem_ids] = curvature / _dot(change, self._precondition(change, problem_ids))
        self._count[problem_ids] += 1

    def times_inverse_hessian(self, gradient: Matrix, problem_ids: NDArray[np.int64]) -> Matrix:
        """Gradients multiplied by the estimate of the inverse Hessians (two-loop recursion)."""
        result = gradient.copy()
        length = min(len(self._inverse), int(self._count[problem_ids].max(initial=0)))
        slots = [(self._count[problem_ids] - age) % len(self._inverse) for age in range(1, length + 1)]
        weights = []
        for slot in slots:
            weight = (self._inverse[slot, problem_ids] * _dot(self._steps[slot, problem_ids], result))[:, None].astype(
                result.dtype
            )
            result -= weight * self._changes[slot, problem_ids]
            weights.append(weight)
        result = self._precondition(result, problem_ids) * self._scale[problem_ids, None].astype(result.dtype)
        for slot, weight in zip(reversed(slots), reversed(weights), strict=True):
            back = (self._inverse[slot, problem_ids] * _dot(self._changes[slot, problem_ids], result))[:, None]
            result += (weight - back.astype(result.dtype)) * self._steps[slot, problem_ids]
        return result


def _dot(a: Matrix, b: Matrix) -> NDArray[np.float64]:
    """Of each row of (k, p) with its partner, shape (k,), summed in float64."""
    return np.einsum("kp,kp->k", a, b, dtype=np.float64)
