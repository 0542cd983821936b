"""A GPU simulated on the CPU, with values: streams and events that are recorded, and CUDA graphs that are replayed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from featcache.backbones.backbone import Backbone
from featcache.backbones.feature_extractor import FeatureExtractor
from toys import TOY_MEAN, TOY_SIZE, TOY_STD, ToyNet


class Stream:
    """A stream of the simulated GPU. The first one is the default stream."""

    def __init__(self, gpu: SimulatedGPU) -> None:
        self._gpu, self.name = gpu, f"stream {gpu.streams}"
        gpu.streams += 1

    def wait_stream(self, other: Stream) -> None:
        """Record it."""
        self._gpu.log.append(f"{self.name} waits for {other.name}")

    def wait_event(self, _event: Any) -> None:
        """Record it."""
        self._gpu.log.append(f"{self.name} waits for an event")


class Graph(TorchDispatchMode):
    """Records the operations of a capture. A replay runs them again, on the same tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]] = []
        self.replays = 0

    def __torch_dispatch__(
        self, function: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function.__name__.startswith(("item", "_local_scalar_dense")):
            raise RuntimeError("operation not permitted when stream is capturing\nMore")
        given = function(*args, **(kwargs or {}))
        self.operations.append((function, args, dict(kwargs or {}), _tensors(given)))
        return given

    def replay(self) -> None:
        """Write the values into the tensors of the capture."""
        self.replays += 1
        for function, args, kwargs, recorded in self.operations:
            sources = {tensor.untyped_storage().data_ptr() for tensor in _tensors(args)}
            for target, value in zip(recorded, _tensors(function(*args, **kwargs)), strict=True):
                if target.untyped_storage().data_ptr() not in sources:  # no view, not in place
                    target.copy_(value)


class SimulatedGPU:
    """Replaces torch.cuda by a GPU whose tensors are those of the CPU.

    Attributes
    ----------
    log : list of str
        Copies with their streams, waits of streams, uses of tensors in other streams.
    graphs : list of Graph
        Those whose capture has begun.
    capturing, forbids_waits : bool
        Whether a capture is under way; whether PyTorch would raise where the host waits.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.graphs: list[Graph] = []
        self.capturing = self.forbids_waits = False
        self.streams, self.waits, self.blocking = 0, 0, list[bool]()
        self.current = Stream(self)
        gpu, move = self, Tensor.to

        class Event:
            def __init__(self, blocking: bool = False) -> None:
                gpu.blocking.append(blocking)

            def record(self, stream: Stream | None = None) -> None:
                gpu.log.append(f"{(stream or gpu.current).name} records an event")

            def synchronize(self) -> None:
                gpu.waits += 1

        def to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if not kwargs.get("non_blocking"):
                return move(tensor, *args, **kwargs)
            gpu.log.append(f"{gpu.current.name} copies to {torch.device(args[0]).type}")
            return tensor.clone()

        replacements: dict[str, Any] = {
            "CUDAGraph": Graph,
            "Event": Event,
            "Stream": lambda _device: Stream(self),
            "current_device": lambda: 0,
            "current_stream": lambda _device: self.current,
            "device": lambda _device: nullcontext(),
            "empty_cache": lambda: None,
            "get_sync_debug_mode": lambda: "error" if self.forbids_waits else "default",
            "graph": self._graph,
            "graph_pool_handle": lambda: (0, 1),
            "set_sync_debug_mode": self._set_sync_debug_mode,
            "stream": self._stream,
        }
        for name, replacement in replacements.items():
            monkeypatch.setattr(torch.cuda, name, replacement)
        monkeypatch.setattr(Tensor, "to", to)
        monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
        monkeypatch.setattr(Tensor, "record_stream", lambda _, stream: self.log.append(f"{stream.name} uses a tensor"))

    def extractor(self, network: nn.Module | None = None, layers: str = "penultimate") -> FeatureExtractor:
        """A network, by default the toy, on this GPU."""
        backbone = Backbone(
            network or ToyNet(), name="toy", image_size=TOY_SIZE, mean=TOY_MEAN, std=TOY_STD, layers=layers
        )
        backbone.feature_extractor.device = torch.device("cuda")
        return backbone.feature_extractor

    @property
    def replays(self) -> list[int]:
        """How often each graph was replayed."""
        return [graph.replays for graph in self.graphs]

    def _set_sync_debug_mode(self, mode: str) -> None:
        self.forbids_waits = mode == "error"

    @contextmanager
    def _stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def _graph(self, graph: Graph, *, pool: Any, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        """As torch.cuda.graph: the stream stays if the capture fails."""
        assert (self.current, capture_error_mode) == (stream, "thread_local")
        self.graphs.append(graph)
        self.capturing = True
        try:
            with graph:
                yield
        finally:
            self.capturing = False


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    return [tensor for value in values for tensor in _tensors(value)] if isinstance(values, list | tuple) else []
