"""`PathWeights`: the solutions of several problems at one value of a setting."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Stop = Callable[[], bool]
"""Whether the time is over; called between two blocks of work."""


class OutOfTimeError(Exception):
    """The time of a head was over before it had a result."""


def never() -> bool:
    """A `Stop` without a time limit."""
    return False


class PathWeights(NamedTuple):
    """Linear layers at one value of a setting, of the problems that hold out a fold each.

    value : of the setting that changes along the path: C, or the strength of a penalty. coef : shape (folds, outputs,
    d). intercept : (folds, outputs). outputs is 1 for two classes, else the number of classes or labels.
    """

    value: float
    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]


class Layer(NamedTuple):
    """A linear layer: coef of shape (outputs, d), intercept of shape (outputs,)."""

    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]
