"""Copies between the host and a device. To and from a GPU they are asynchronous, from and into pinned memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from featcache.data.sample_loader import Inputs


def to_device(inputs: Inputs, device: torch.device | str, stream: torch.cuda.Stream | None = None) -> Tensor:
    """The inputs as a tensor on the device. A copy to a GPU is queued; PyTorch keeps the pinned memory so long.

    Parameters
    ----------
    stream : of a GPU, in which the inputs are copied or made, at the same time as earlier work of the current stream.
        Later work of the current stream waits for them. By default the current stream itself.
    """
    device = torch.device(device)
    if stream is not None:
        current = torch.cuda.current_stream(device)
        with torch.cuda.stream(stream):
            tensor = to_device(inputs, device)
        current.wait_stream(stream)
        tensor.record_stream(current)
        return tensor
    if not isinstance(inputs, np.ndarray):
        return inputs.to(device)
    tensor = torch.from_numpy(np.require(inputs, requirements="W"))
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(tensors: Iterable[Tensor], device: torch.device) -> Callable[[], list[Tensor]]:
    """Start to copy tensors of a device to the host. The result waits for them, and for nothing queued later."""
    if device.type != "cuda":
        on_host = [tensor.cpu() for tensor in tensors]
        return lambda: on_host
    queued = [tensor.to("cpu", non_blocking=True) for tensor in tensors]  # into pinned memory
    finished = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # a wait takes no processor core
    finished.record()

    def wait() -> list[Tensor]:
        finished.synchronize()
        return queued

    return wait
