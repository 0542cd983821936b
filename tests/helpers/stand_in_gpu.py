"""A stand-in for a GPU: tensors without values on the device "cuda", and a record of what PyTorch is told to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from featcache.backbones.feature_extractor import FeatureExtractor

_WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal")


class Recorder(TorchDispatchMode):
    """Records operations for which the host would wait for a GPU, and copies to a device.

    Attributes
    ----------
    waits : list of str
        Operations that return a value to the host, and copies that block.
    copies : list of Tensor
        The sources of copies that do not block.
    devices : tuple of str
        Types of the devices that stand for a GPU.
    """

    def __init__(self, *devices: str) -> None:
        super().__init__()
        self.devices = devices
        self.waits: list[str] = []
        self.copies: list[Tensor] = []

    def __torch_dispatch__(
        self, function: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = function.__name__.split(".")[0]
        if name in _WAITING and args[0].device.type in self.devices:
            self.waits.append(name)
        named = dict(zip((argument.name for argument in function._schema.arguments), args, strict=False)) | kwargs
        if name in ("_to_copy", "to") and (target := named.get("device")) is not None:  # "to" in inference mode
            kinds = {torch.device(target).type, args[0].device.type}
            if len(kinds) > 1 and kinds & {*self.devices}:
                if named.get("non_blocking"):
                    self.copies.append(args[0])
                else:
                    self.waits.append(f"blocking copy {args[0].device.type} to {torch.device(target).type}")
        return function(*args, **kwargs)


class StandInEvent:
    """Counts how often it was waited for."""

    waits = 0

    def __init__(self, enable_timing: bool = False, blocking: bool = False) -> None:
        """With or without the time at which it is reached."""

    def record(self, _stream: Any = None) -> None:
        """At once."""

    def query(self) -> bool:
        """Whether it is reached."""
        return True

    def elapsed_time(self, _end: StandInEvent) -> float:
        """Milliseconds between two events."""
        return 0.0

    def synchronize(self) -> None:
        """Count."""
        StandInEvent.waits += 1


class StandInStream:
    """A stream whose order is not recorded."""

    def __init__(self, _device: Any = None) -> None:
        """On the stand-in."""

    def wait_stream(self, _other: StandInStream) -> None:
        """At once."""


@contextmanager
def stand_in_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Recorder, list[Tensor]]]:
    """Tensors can be on "cuda"; they have shapes and no values. Yields a recorder, and the tensors in pinned memory."""
    pinned: list[Tensor] = []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor)
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.cuda, "device", lambda _device: nullcontext())
    monkeypatch.setattr(torch.cuda, "Event", StandInEvent)
    monkeypatch.setattr(torch.cuda, "Stream", StandInStream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", StandInStream)
    monkeypatch.setattr(Tensor, "record_stream", lambda _tensor, _stream: None)
    monkeypatch.setattr(StandInEvent, "waits", 0)
    with FakeTensorMode(allow_non_fake_inputs=True), Recorder("cuda") as recorder:
        yield recorder, pinned


def move_to_stand_in(extractor: FeatureExtractor) -> None:
    """Move a network to the stand-in, within `stand_in_gpu`: `nn.Module.to` refuses tensors without values."""
    for module in extractor.modules():
        for name, value in module._parameters.items():
            if value is not None:
                module._parameters[name] = nn.Parameter(value.detach().to("cuda"), requires_grad=False)
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = value.to("cuda")
    extractor.device = torch.device("cuda")
