"""`IdleTimer`: how long devices have nothing to do while the host waits for their next input."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from featcache._utils.timing import PhaseTimer


class IdleTimer:
    """Times waits of the host as a phase. On GPUs only the time counts in which they have finished their work.

    Two events are queued on a GPU for each wait, at its begin and at its end. The GPU reaches the first one when it has
    finished the work that was queued before. The time between the two is the time without work. `wait` itself does not
    wait for a GPU: a pair is read once the GPU has reached it.

    Parameters
    ----------
    timer : PhaseTimer
    name : str
        Of the phase.
    devices : sequence of str
        Such as "cuda:1". The phase gets the mean of several GPUs. For other devices the whole wait counts.
    """

    def __init__(self, timer: PhaseTimer, name: str, devices: Sequence[str]) -> None:
        self._timer, self._name = timer, name
        self._gpus = [device for device in devices if device.startswith("cuda")]
        self._waits: deque[tuple[Any, Any]] = deque()

    @contextmanager
    def wait(self) -> Iterator[None]:
        """Time what happens inside, which gets the next input."""
        if not self._gpus:
            with self._timer.phase(self._name):
                yield
            return
        begins = [_record(gpu) for gpu in self._gpus]
        try:
            yield
        finally:
            self._waits.extend(zip(begins, map(_record, self._gpus), strict=True))
            while self._waits and self._waits[0][1].query():
                self._add_oldest()

    def finish(self) -> None:
        """Add the waits that are left. It waits for the GPUs."""
        while self._waits:
            self._waits[0][1].synchronize()
            self._add_oldest()

    def _add_oldest(self) -> None:
        begin, end = self._waits.popleft()
        self._timer.add(self._name, begin.elapsed_time(end) / 1000 / len(self._gpus))


def _record(gpu: str) -> Any:
    """An event behind the work that is queued on a GPU."""
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(gpu))
    return event
