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
    """Linear layers of k problems, the last of which saw all images.

    value : of the setting that changes along the path: C, or the strength of a penalty. coef : shape (k, outputs, d).
    intercept : (k, outputs). outputs is 1 for two classes, else the number of classes or labels.
    """

    value: float
    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]
