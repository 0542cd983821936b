"""`search_strengths`: of heads with a closed form, the strength of the penalty that is best on held-out images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from featcache.heads.solvers.path import OutOfTimeError, PathWeights, Stop, never
from featcache.heads.tuning.path_selection import CVSelection, HeldOut, select_on_path

PENALTIES = tuple(np.logspace(4, -6, 16).tolist())
"""Strengths of a penalty, from strong to weak, as multiples of the mean variance of a feature."""

_COARSE = tuple(range(3, len(PENALTIES), 3))  # where the search begins


def search_strengths(
    path: Callable[[Sequence[float]], Iterable[PathWeights]], held_out: HeldOut, stop: Stop = never
) -> CVSelection:
    """The best of `PENALTIES`: of every third one, then of the neighbors of the best.

    Parameters
    ----------
    path : callable
        The weights at strengths, from strong to weak. It raises LinAlgError if the first one is too weak to be solved.
    held_out : HeldOut
        What the weights are scored on.
    stop : callable
        Whether the time is over.

    Raises
    ------
    OutOfTimeError
    LinAlgError
    """

    def select(numbers: Sequence[int], temperature: NDArray[np.float64] | None = None) -> CVSelection:
        return select_on_path(path([PENALTIES[number] for number in numbers]), held_out, stop, temperature)

    best = select(_COARSE)
    tried = {PENALTIES.index(trial.value) for trial in best.trials}
    while not best.interrupted:
        number = PENALTIES.index(float(best.values[0]))
        near = [place for place in (number - 1, number + 1) if place not in tried and 0 <= place < len(PENALTIES)]
        if not near:
            break
        tried.update(near)
        try:
            refined = select(near, best.temperature)
        except OutOfTimeError:
            return replace(best, interrupted=True)
        except np.linalg.LinAlgError:  # the next penalty is less than the rounding errors of the covariance
            break
        better = refined if refined.log_loss[0] < best.log_loss[0] else best
        trials = tuple(sorted((*best.trials, *refined.trials), key=lambda trial: -trial.value))
        is_final = better is best
        best = replace(better, trials=trials, interrupted=refined.interrupted)
        if is_final:
            break
    return best
