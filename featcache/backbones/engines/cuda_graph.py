"""`CudaGraphs`: the work of a GPU for a batch as one CUDA graph, so that the host starts one thing, not hundreds."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any, TypeAlias

import torch
from torch import Tensor

from featcache.errors import first_line

_MOST_GRAPHS = 4
"""Each graph takes memory for its batch and its features; they share the rest."""

_NOTE = "this network runs without a CUDA graph, which can be slower: "

_Function: TypeAlias = Callable[[Tensor], list[Tensor]]
_Key: TypeAlias = tuple[Any, ...]


class CudaGraphs:
    """Runs a function on batches on a GPU. The first two batches of a shape run eagerly, later ones as a CUDA graph.

    The graph is captured after the second batch. It must give the features of this batch, bit by bit. If it does not,
    or cannot be captured, all batches run eagerly.

    Attributes
    ----------
    note : str
        Why there is no graph; "" if there is one or may be one.
    """

    def __init__(self) -> None:
        self.note = ""
        self._graphs: dict[_Key, _Graph] = {}
        self._seen: set[_Key] = set()
        self._enabled, self._lock = True, Lock()
        self._resources: tuple[Any, Any] | None = None  # stream for captures, and the pool of their memory

    def run(self, function: _Function, batch: Tensor) -> list[Tensor]:
        """The features of a batch, queued in the current stream, in inference mode. They belong to the caller.

        Parameters
        ----------
        function : from a batch to the features of each layer; the same in each call.
        """
        key = (batch.shape, *_settings())
        with self._lock:  # a graph has one place for its batch
            if key in self._graphs:
                return self._graphs[key].replay(batch)
            features = function(batch)
            if self._enabled and key in self._seen and len(self._graphs) < _MOST_GRAPHS:
                self._capture(key, function, batch, features)
            self._seen.add(key)
            return features

    def disable(self) -> bool:
        """Release the graphs and their memory, and run eagerly from now on. Returns whether there was a graph."""
        had_graphs = bool(self._graphs)
        self._graphs.clear()
        self._enabled = False
        return had_graphs

    def _capture(self, key: _Key, function: _Function, batch: Tensor, features: list[Tensor]) -> None:
        if self._resources is None:
            self._resources = torch.cuda.Stream(batch.device), torch.cuda.graph_pool_handle()  # type: ignore[no-untyped-call]
        stream, pool = self._resources
        try:
            graph = _Graph(function, batch, stream, pool)
            is_same = _same_bits(graph.replay(batch), features)
        except Exception as error:  # networks and drivers raise any type
            self.disable()
            if reason := _explain(error):
                self.note = _NOTE + reason
            with suppress(Exception):  # PyTorch 2.11 keeps its allocator in the state of a capture that failed
                torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        else:
            if is_same:
                self._graphs[key] = graph
            else:
                self.disable()
                self.note = _NOTE + "the graph gives other features"


class _Graph:
    """A captured function, with the memory for its batch and its features."""

    def __init__(self, function: _Function, batch: Tensor, stream: Any, pool: Any) -> None:
        self._batch = batch.clone()
        self._graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(batch.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):  # the capture does not restore the stream if it fails
            with _errors_for_waits():  # here, because an error within a capture leaves PyTorch in a wrong state
                function(self._batch)
            torch.clear_autocast_cache()  # the graph casts weights itself
            try:
                with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                    self._features = function(self._batch)
            finally:
                torch.clear_autocast_cache()  # it holds memory of the graph
        current.wait_stream(stream)

    def replay(self, batch: Tensor) -> list[Tensor]:
        """The features of a batch of the same shape, in memory of their own."""
        self._batch.copy_(batch)
        self._graph.replay()
        return [layer.clone() for layer in self._features]


@contextmanager
def _errors_for_waits() -> Iterator[None]:
    """A context in which PyTorch raises where the host would wait for the GPU: such a function cannot be captured."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls the mode a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _settings() -> _Key:
    """The settings of PyTorch that decide on the kernels. The precision of a network is its own."""
    cudnn: Any = torch.backends.cudnn
    return (
        torch.are_deterministic_algorithms_enabled(),
        cudnn.deterministic,
        cudnn.benchmark,
        cudnn.conv.fp32_precision,
        torch.backends.cuda.matmul.fp32_precision,
    )


def _explain(error: Exception) -> str:
    """Why a capture failed; "" if it did not fit into the memory. The end of a failed capture raises, too."""
    reason = error.__context__ if isinstance(error.__context__, Exception) else error
    return "" if isinstance(reason, torch.OutOfMemoryError) else first_line(reason)


def _same_bits(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether tensors of float32 are the same, NaN included."""
    return all(torch.equal(a.view(torch.int32), b.view(torch.int32)) for a, b in zip(found, expected, strict=True))
