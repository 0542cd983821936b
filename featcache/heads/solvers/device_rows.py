"""`DeviceRows`: the rows of a `CenteredMatrix` on a GPU, copied once if they fit, else again in each pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from featcache._utils.blockwise import iter_blocks
from featcache.cache import lazy_arrays
from featcache.cache.lazy_arrays import CenteredMatrix

_MEMORY_FRACTION = 0.5  # of the free memory, for rows that stay on the device
_COPY_BYTES = 2**26  # of one copy to the device


class DeviceRows:
    """Iteration yields pairs (slice, block) of centred rows on the device.

    Rows stay on the device in the dtype of the blocks if half of the free memory suffices; else as they are stored,
    float16 for most caches, if that fits. Then, as for rows that are copied in each pass, a block is centred on the
    device when it is used. On CUDA the host reads a block into pinned memory while the device copies and computes.

    Parameters
    ----------
    x : CenteredMatrix
    device : torch.device

    Attributes
    ----------
    resident : torch.dtype or None
        Of the rows that stay on the device. None: each pass copies the rows.
    """

    def __init__(self, x: CenteredMatrix, device: torch.device) -> None:
        self._x, self._device = x, device
        self._mean = torch.from_numpy(x.mean).to(device, copy=True)
        self._rows: Tensor | None = None
        self._stored = torch.from_numpy(np.empty(0, x.stored(slice(0, 0)).dtype)).dtype
        n, d = x.shape
        limit = _MEMORY_FRACTION * free_bytes(device)
        fitting = [dtype for dtype in (self._mean.dtype, self._stored) if n * d * dtype.itemsize <= limit]
        self.resident = fitting[0] if fitting else None
        if self.resident is not None:
            self._rows = torch.empty((n, d), dtype=self.resident, device=device)
            for rows, block in self._copies():
                self._rows[rows] = block - self._mean if self._is_centred else block

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        if self._rows is not None and self._is_centred:
            yield slice(0, len(self._rows)), self._rows
            return
        for rows, block in self._copies() if self._rows is None else self._parts(self._rows):
            yield rows, block - self._mean  # one kernel, which gives the wider dtype

    @property
    def _is_centred(self) -> bool:
        """Whether the rows that stay on the device are centred."""
        return self.resident == self._mean.dtype

    def _parts(self, stored: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """A part at a time, so that the centred copy is small."""
        for rows in iter_blocks(len(stored), stored.shape[1] * self._mean.itemsize, _COPY_BYTES):
            yield rows, stored[rows]

    def _copies(self) -> Iterator[tuple[slice, Tensor]]:
        """Blocks as they are stored, read from the matrix and copied to the device; two are under way at a time."""
        n, d = self._x.shape
        blocks = list(iter_blocks(n, d * self._mean.itemsize, _COPY_BYTES))
        on_cuda = self._device.type == "cuda"
        buffers = [torch.empty((blocks[0].stop, d), dtype=self._stored, pin_memory=on_cuda) for _ in blocks[:2]]
        copied: list[torch.cuda.Event | None] = [None, None]
        copies = torch.cuda.Stream(self._device) if on_cuda else None  # type: ignore[no-untyped-call]
        for number, rows in enumerate(blocks):
            buffer, event = buffers[number % 2][: rows.stop - rows.start], copied[number % 2]
            if event is not None:
                event.synchronize()
            buffer.numpy()[:] = self._x.stored(rows)
            with _stream(copies):
                block = buffer.to(self._device, non_blocking=True, copy=True)
            if copies is not None:
                event = copied[number % 2] = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
                event.record(copies)
                current = torch.cuda.current_stream(self._device)
                current.wait_event(event)
                block.record_stream(current)
            yield rows, block


def _stream(copies: torch.cuda.Stream | None) -> AbstractContextManager[object]:
    return nullcontext() if copies is None else torch.cuda.stream(copies)


def free_bytes(device: torch.device) -> int:
    """Free memory of the device; for tests on the CPU, enough for rows that the CPU keeps in memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory()) - int(torch.mps.driver_allocated_memory())
    return 2 * lazy_arrays.MAX_CACHED_BYTES
