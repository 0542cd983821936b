"""`GpuTrial`: whether torch.compile pays on a GPU, by measured rates and the number of views to come."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from featcache.backbones.engines.base import EAGER_BATCHES, Engine

COMPILE_S = 60.0
"""Seconds that torch.compile takes at most for most networks."""

EXPECTED_GAIN = 0.2
"""Share of the time that compiled code is expected to save, before it is measured."""

WORTH_A_TRIAL = 300_000
"""Views from which the rates are measured, which takes about a hundredth of their time."""

_BATCHES = 4  # that are timed


class GpuTrial:
    """Measures engines on black views.

    Parameters
    ----------
    pytorch : returns the engine of plain PyTorch.
    size : side of the views, in pixels.
    batch_size : views in a batch.
    devices : number of GPUs that an engine uses.
    clock : returns seconds.
    """

    def __init__(
        self,
        pytorch: Callable[[], Engine],
        size: int,
        batch_size: int,
        devices: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._pytorch, self._devices, self._clock = pytorch, devices, clock
        self._batch = np.zeros((batch_size, size, size, 3), np.uint8)
        self._pytorch_s = 0.0

    def compiling_pays(self, views: int) -> bool:
        """Whether this number of views takes PyTorch so long that compiling it is expected to save time."""
        if views < WORTH_A_TRIAL:
            return False
        self._pytorch_s = self._seconds_per_view(self._pytorch())
        return views * self._pytorch_s * EXPECTED_GAIN > COMPILE_S

    def is_faster(self, engine: Engine) -> bool:
        """Whether an engine takes less time than PyTorch did; True if PyTorch was not measured."""
        return not self._pytorch_s or self._seconds_per_view(engine) < self._pytorch_s

    def _seconds_per_view(self, engine: Engine) -> float:
        for _ in range((EAGER_BATCHES + 1) * self._devices):  # until a CUDA graph computes
            engine.submit(self._batch)()
        started, batches = self._clock(), _BATCHES * self._devices
        for features in [engine.submit(self._batch) for _ in range(batches)]:
            features()
        return (self._clock() - started) / (batches * len(self._batch))
