"""`StagingBuffers`: page-locked memory from which copies to a GPU run while the processor goes on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_COUNT = 2
"""Buffers of a device: one is filled while the other one is copied."""


class StagingBuffers:
    """The buffers of one device, used in turn. They grow to the largest size that was asked for."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: list[Tensor | None] = [None] * _COUNT
        self._copied: list[Any] = [None] * _COUNT
        self._next = 0

    def take(self, nbytes: int) -> Tensor:
        """The next buffer, uint8, of this size, once its last copy has finished."""
        if (copied := self._copied[self._next]) is not None:
            copied.synchronize()
        buffer = self._buffers[self._next]
        if buffer is None or len(buffer) < nbytes:
            size = 1 << (nbytes - 1).bit_length()
            buffer = torch.empty(size, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
            self._buffers[self._next] = buffer
        return buffer[:nbytes]

    def send(self, buffer: Tensor) -> Tensor:
        """Start to copy what `take` returned last to the device."""
        on_device = buffer.to(self._device, non_blocking=True)
        if self._device.type == "cuda":
            event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            event.record()
            self._copied[self._next] = event
        self._next = (self._next + 1) % _COUNT
        return on_device
