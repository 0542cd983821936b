"""L-BFGS, the quasi-Newton method that `LinearHead` is solved with.

scipy's L-BFGS-B needs as many evaluations but four times the time: its own BLAS threads fight with numpy's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Objective = Callable[[Vector], tuple[float, Vector]]

ARMIJO, NOISE = 1e-4, 1e-6  # the decrease asked of a step; what a float32 sum may be wrong by, relatively
MOST_HALVINGS = 30


class Minimum(NamedTuple):
    """Where a minimisation ended; converged is False when it ran out of iterations or of precision."""

    x: Vector
    iterations: int
    converged: bool


def minimise(
    objective: Objective, start: Vector, done: Callable[[float, Vector], bool], max_iter: int, memory: int = 10
) -> Minimum:
    """Minimise a smooth convex function by L-BFGS (Liu and Nocedal 1989).

    objective : gives value and gradient at a vector, shape (p,), float64. done : whether value and gradient are
    good enough. memory : the steps remembered. A step is halved until the value falls (Armijo 1966) or, where
    rounding hides that, until the slope says that it did (Hager and Zhang 2005).
    """
    x, (value, gradient) = start, objective(start)
    history: deque[tuple[Vector, Vector]] = deque(maxlen=memory)
    for iteration in range(max_iter):
        if done(value, gradient):
            return Minimum(x, iteration, True)
        direction = -_times_inverse_hessian(gradient, history)
        slope, step = float(gradient @ direction), 1.0
        for _ in range(MOST_HALVINGS):
            new_value, new_gradient = objective(x + step * direction)
            fell = new_value <= value + ARMIJO * step * slope
            flat = new_value <= value * (1 + NOISE) and new_gradient @ direction <= (2 * ARMIJO - 1) * slope
            if fell or flat:
                break
            step /= 2
        else:
            return Minimum(x, iteration, False)
        history.append((step * direction, new_gradient - gradient))
        if history[-1][0] @ history[-1][1] <= 0:  # no curvature left above rounding
            history.clear()
        x, value, gradient = x + step * direction, new_value, new_gradient
    return Minimum(x, max_iter, done(value, gradient))


def _times_inverse_hessian(gradient: Vector, history: deque[tuple[Vector, Vector]]) -> Vector:
    """The two-loop recursion: the remembered steps' estimate of the inverse Hessian, times the gradient."""
    result, shares = gradient.copy(), []
    for step, change in reversed(history):
        shares.append((step @ result) / (step @ change))
        result -= shares[-1] * change
    if history:
        step, change = history[-1]
        result *= (step @ change) / (change @ change)
    else:
        result /= max(1.0, float(np.linalg.norm(gradient)))
    for (step, change), share in zip(history, reversed(shares), strict=True):
        result += (share - (change @ result) / (step @ change)) * step
    return result
