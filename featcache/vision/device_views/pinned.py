"""`PinnedMemory`: page-locked memory, from which copies to a GPU run while the processor goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import prod
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from featcache.errors import first_line

_Bytes = NDArray[np.uint8]

BLOCK_BYTES = 32 * 2**20
"""Of a piece that is allocated at once, as to lock pages takes milliseconds. Arrays are parts of such blocks."""

_ALIGNMENT = 64


class PinnedMemory:
    """Arrays in page-locked memory, into which threads decode images.

    A block is allocated anew or used again, as PyTorch decides, once nothing refers to its arrays.

    Parameters
    ----------
    device : torch.device
        Where the arrays are copied to. For the CPU, or if the system gives no page-locked memory, it is any memory.

    Attributes
    ----------
    note : str
        Why the memory is not page-locked, although the device is a GPU; "" if it is.
    """

    def __init__(self, device: torch.device) -> None:
        self.note = ""
        self._device, self._lock = device, Lock()
        self._blocks: WeakValueDictionary[int, _Bytes] = WeakValueDictionary()
        self._block, self._used = np.empty(0, np.uint8), 0
        self._copying: deque[tuple[Any, Sequence[_Bytes]]] = deque()

    def empty(self, shape: tuple[int, ...]) -> _Bytes:
        """An array of this shape, uint8, in C order."""
        nbytes = prod(shape)
        with self._lock:
            if self._used + nbytes > len(self._block):
                self._block, self._used = self._allocate(max(BLOCK_BYTES, nbytes)), 0
                self._blocks[id(self._block)] = self._block
            part = self._block[self._used : self._used + nbytes]
            self._used += -(-nbytes // _ALIGNMENT) * _ALIGNMENT
        return part.reshape(shape)

    def put(self, array: _Bytes) -> _Bytes:
        """The array itself if it is in this memory, else a copy that is."""
        base = array.base
        if base is not None and self._blocks.get(id(base)) is base and array.flags.c_contiguous:
            return array
        copy = self.empty(array.shape)
        copy[...] = array
        return copy

    def keep(self, arrays: Sequence[_Bytes]) -> None:
        """Keep arrays until the copies to a GPU have finished that were started from them in its current stream."""
        if self._device.type != "cuda":
            return
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        with self._lock:
            self._copying.append((copied, arrays))
            while self._copying and self._copying[0][0].query():
                self._copying.popleft()

    def _allocate(self, nbytes: int) -> _Bytes:
        if self._device.type == "cuda" and not self.note:
            try:
                with torch.cuda.device(self._device):  # threads have another current device
                    return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True).numpy()
            except RuntimeError as error:
                self.note = f"copies to {self._device} wait, as there is no page-locked memory: {first_line(error)}"
        return np.empty(nbytes, np.uint8)
