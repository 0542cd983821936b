"""`blas_threads`: how many threads the products of matrices use."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

from threadpoolctl import threadpool_info, threadpool_limits

from featcache._utils.environment import usable_cores


def blas_threads(number: int) -> AbstractContextManager[object]:
    """A context in which BLAS uses at most `number` threads.

    Its threads spin for a tenth of a second after each product. Where products are small, or other processes need the
    cores, one thread is faster than several.
    """
    current = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    return threadpool_limits(min([number, *current]), "blas")


def idle_cores() -> int:
    """Cores that this process may use, less those of the machine that were busy in the last minute; at least 1."""
    cores = usable_cores()
    try:
        idle = (os.cpu_count() or cores) - os.getloadavg()[0]
    except (AttributeError, OSError):  # not on this system
        return cores
    return min(cores, max(1, round(idle)))
