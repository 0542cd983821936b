"""L-BFGS for several problems at once, the quasi-Newton method that linear heads are solved with.

The problems share their evaluations (one pass over the data serves them all) and nothing else: each has steps of its
own and leaves when it is done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[Any]
Objective = Callable[[Matrix, NDArray[np.int64]], tuple[NDArray[np.float64], Matrix]]
"""Points (a, p) of the problems `which` (a,) to their values (a,) and gradients (a, p)."""
Precondition = Callable[[Matrix, NDArray[np.int64]], Matrix]
"""Gradients (a, p) of the problems `which` times an estimate of their inverse Hessians."""

ARMIJO, NOISE = 1e-4, 1e-6  # the decrease asked of a step; what a float32 sum may be wrong by, relatively
MOST_HALVINGS = 30
_LAST = 2  # steps: one alone can be small by chance, where classes can nearly be told apart


class Minimum(NamedTuple):
    """Where k problems ended.

    x : shape (k, p). iterations : (k,), the steps taken. converged : (k,), False for one that ran out of iterations
    or of precision.
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

    start : shape (k, p). precondition : the first estimate of the inverse Hessian. tol : a problem is done where half
    its Newton decrement, which is about what its value lies above the minimum, is at most this share of the value, and
    the last steps, without which that estimate may be far off, gained no more each. memory : the steps remembered. A
    step is halved until the value falls (Armijo 1966) or, where rounding hides that, until the slope says that it did
    (Hager and Zhang 2005).
    """
    x = start.copy()
    k = len(x)
    value, gradient = objective(x, np.arange(k))
    direction, slope = np.zeros_like(x), np.zeros(k)
    step, halvings = np.ones(k), np.zeros(k, np.int64)
    iterations, converged = np.zeros(k, np.int64), np.zeros(k, bool)
    fallen = np.full((_LAST, k), np.inf)  # by the last steps, in turn
    remembered = _Memory(memory, x, precondition)
    going = moved = np.arange(k)
    while True:
        direction[moved] = -remembered.times_inverse_hessian(gradient[moved], moved)
        slope[moved] = _dot(gradient[moved], direction[moved])
        enough = tol * np.abs(value[moved])
        converged[moved] = (-slope[moved] / 2 <= enough) & (fallen[:, moved].max(axis=0) <= enough) | (
            slope[moved] == 0
        )
        going = going[~converged[going] & (iterations[going] < max_iter) & (halvings[going] < MOST_HALVINGS)]
        if not len(going):
            return Minimum(x, iterations, converged)
        new = x[going] + step[going, None].astype(x.dtype) * direction[going]
        new_value, new_gradient = objective(new, going)
        there = _dot(new_gradient, direction[going])
        fell = new_value <= value[going] + ARMIJO * step[going] * slope[going]
        flat = new_value <= value[going] + NOISE * np.abs(value[going])
        taken = fell | (flat & (there <= (2 * ARMIJO - 1) * slope[going]))
        step[going[~taken]] /= 2
        halvings[going[~taken]] += 1
        moved = going[taken]
        if len(moved):
            remembered.add(moved, new[taken] - x[moved], new_gradient[taken] - gradient[moved])
            fallen[iterations[moved] % _LAST, moved] = value[moved] - new_value[taken]
            x[moved], value[moved], gradient[moved] = new[taken], new_value[taken], new_gradient[taken]
            step[moved], halvings[moved] = 1, 0
            iterations[moved] += 1


class _Memory:
    """The last steps of each problem and the changes of gradient along them, in rings of (memory, k, p)."""

    def __init__(self, memory: int, x: Matrix, precondition: Precondition) -> None:
        self._steps, self._changes = np.zeros((2, memory, *x.shape), x.dtype)
        self._inverse = np.zeros((memory, len(x)))  # 1 / (step . change), 0 where there is none
        self._count = np.zeros(len(x), np.int64)
        self._scale = np.ones(len(x))  # of the first estimate, by the last step
        self._precondition = precondition

    def add(self, which: NDArray[np.int64], step: Matrix, change: Matrix) -> None:
        """A step without curvature, which rounding alone can bring about, is not remembered."""
        curvature = _dot(step, change)
        bent = curvature > np.finfo(np.float64).tiny
        which, step, change, curvature = which[bent], step[bent], change[bent], curvature[bent]
        if not len(which):
            return
        slot = self._count[which] % len(self._inverse)
        self._steps[slot, which], self._changes[slot, which] = step, change
        self._inverse[slot, which] = 1 / curvature
        self._scale[which] = curvature / _dot(change, self._precondition(change, which))
        self._count[which] += 1

    def times_inverse_hessian(self, gradient: Matrix, which: NDArray[np.int64]) -> Matrix:
        """The two-loop recursion: the remembered steps' estimate of the inverse Hessians, times the gradients."""
        result = gradient.copy()
        length = min(len(self._inverse), int(self._count[which].max(initial=0)))
        slots = [(self._count[which] - age) % len(self._inverse) for age in range(1, length + 1)]
        shares = []
        for slot in slots:
            share = (self._inverse[slot, which] * _dot(self._steps[slot, which], result))[:, None].astype(result.dtype)
            result -= share * self._changes[slot, which]
            shares.append(share)
        result = self._precondition(result, which) * self._scale[which, None].astype(result.dtype)
        for slot, share in zip(reversed(slots), reversed(shares), strict=True):
            back = (self._inverse[slot, which] * _dot(self._changes[slot, which], result))[:, None]
            result += (share - back.astype(result.dtype)) * self._steps[slot, which]
        return result


def _dot(a: Matrix, b: Matrix) -> NDArray[np.float64]:
    """Of each row of (k, p) with its partner, shape (k,), summed in float64."""
    return np.einsum("kp,kp->k", a, b, dtype=np.float64)
