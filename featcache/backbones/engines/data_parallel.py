"""`DataParallelEngine`: the batches of one process on several devices."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featcache.backbones.engines.base import Engine, PendingFeatures

if TYPE_CHECKING:
    from featcache.data.sample_loader import Inputs


class DataParallelEngine:
    """Several engines of one network, each on a device of its own. Each batch goes to one of them, see `Engine`.

    The engine with the fewest views under way gets the next batch: views whose features were not returned yet. One
    thread can submit for all GPUs, because `submit` only queues the work. Features are returned in the order in which
    the caller requests them. A batch is computed as on one device, so its features are the same.

    Parameters
    ----------
    engines : sequence of Engine
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = tuple(engines)
        self._under_way = [0] * len(self._engines)
        self._next, self._lock = 0, Lock()
        self.max_in_flight = sum(engine.max_in_flight for engine in self._engines)

    @property
    def note(self) -> str:
        """Those of the engines, a line each."""
        return "\n".join(dict.fromkeys(engine.note for engine in self._engines if engine.note))

    def submit(self, pixels: Inputs) -> PendingFeatures:
        """See `Engine`. Raises what the engine raises that gets the batch."""
        views = len(pixels)  # the result keeps no reference to the pixels
        number = self._start(views)
        try:
            features = self._engines[number].submit(pixels)
        except BaseException:
            self._end(number, views)
            raise
        returned = False

        def wait() -> list[NDArray[np.float32]]:
            nonlocal returned
            try:
                return features()
            finally:
                if not returned:
                    returned = True
                    self._end(number, views)

        return wait

    def _start(self, views: int) -> int:
        """Choose an engine; of equal ones, the next in turn."""
        with self._lock:
            turns = [(self._next + turn) % len(self._engines) for turn in range(len(self._engines))]
            number = min(turns, key=self._under_way.__getitem__)
            self._next = number + 1
            self._under_way[number] += views
            return number

    def _end(self, number: int, views: int) -> None:
        with self._lock:
            self._under_way[number] -= views


def join_engines(engines: Sequence[Engine]) -> Engine:
    """The only engine, or one that has all of them."""
    return engines[0] if len(engines) == 1 else DataParallelEngine(engines)
