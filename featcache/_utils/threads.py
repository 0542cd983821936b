"""`blas_threads`: how many threads the products of matrices use."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

from threadpoolctl import threadpool_limits

from featcache._utils.environment import usable_cores


def blas_threads(number: int) -> AbstractContextManager[object]:
    """A context in which BLAS uses at most `number` threads.

    Its threads spin for a tenth of a second after each product. Where products are small, or other processes need the
    cores, one thread is faster than several.
    """
    return threadpool_limits(number, "blas")


def idle_cores() -> int:
    """Cores that no process has used in the last minute, but at least 1."""
    cores = usable_cores()
    try:
        load = os.getloadavg()[0]
    except OSError:  # not on this system
        return cores
    return min(cores, max(1, round(cores - load)))
