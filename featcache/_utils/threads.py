"""`blas_threads`: how many threads the products of matrices use."""

from __future__ import annotations

from contextlib import AbstractContextManager

from threadpoolctl import threadpool_limits


def blas_threads(number: int) -> AbstractContextManager[object]:
    """A context in which BLAS uses at most `number` threads.

    Its threads spin for a tenth of a second after each product. Where products are small, or another process needs the
    cores, one thread is faster than several.
    """
    return threadpool_limits(number, "blas")
