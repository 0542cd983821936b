"""`CudaGraphs`: the work of a GPU for a batch as one CUDA graph, so that the host starts one thing, not hundreds."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import RLock
from typing import Any, TypeAlias

import torch
from torch import Tensor

from featcache._utils.memory_errors import is_out_of_memory
from featcache.backbones.engines.base import EAGER_BATCHES
from featcache.errors import first_line

_MOST_GRAPHS = 4
"""Each graph takes memory for its batch and its features; they share the rest."""

_Function: TypeAlias = Callable[[Tensor], list[Tensor]]
_Key: TypeAlias = tuple[Any, ...]


class CudaGraphs:
    """Runs a function on batches on a GPU. The first batches of a shape run eagerly, later ones as a CUDA graph.

    The graph is captured after `EAGER_BATCHES`. It must give the features of this batch, bit by bit, unless two
    eager passes differ as well. If it does not, or cannot be captured, all batches run eagerly. There are few graphs:
    a new one replaces the one whose last use is the longest ago.
    """

    def __init__(self) -> None:
        self._graphs: dict[_Key, _Graph] = {}  # that of the last use is the last one
        self._eager: Counter[_Key] = Counter()  # batches since there is no graph
        self._reason, self._is_full = "", False  # why there is no graph; whether the memory has none for them
        self._enabled, self._lock = True, RLock()
        self._resources: tuple[Any, Any] | None = None  # stream for captures, and the pool of their memory

    @property
    def note(self) -> str:
        """Why there is no graph; "" if there is one or may be one."""
        reason = self._reason or ("the device has too little free memory for one" if self._is_full else "")
        return f"this network runs without a CUDA graph, which can be slower: {reason}" if reason else ""

    def run(self, function: _Function, batch: Tensor) -> list[Tensor]:
        """The features of a batch, queued in the current stream, in inference mode. They belong to the caller.

        Parameters
        ----------
        function : from a batch to the features of each layer; the same in each call.
        """
        key = (batch.shape, *_settings())
        with self._lock:  # a graph has one place for its batch
            if key in self._graphs:
                graph = self._graphs[key] = self._graphs.pop(key)
                return graph.replay(batch)
            features = function(batch)
            self._eager[key] += 1
            if self._enabled and not self._is_full and self._eager[key] >= EAGER_BATCHES:
                self._capture(key, function, batch, features)
            return features

    def disable(self, reason: str = "") -> None:
        """Release the graphs and their memory, and run eagerly from now on."""
        with self._lock:
            self._graphs.clear()
            self._reason, self._enabled = reason, False

    def release(self) -> bool:
        """Release the graphs and their memory, and capture none until `retry`. Returns whether there was a graph."""
        with self._lock:
            had_graphs = bool(self._graphs)
            self._graphs.clear()
            self._is_full = self._is_full or had_graphs
            return had_graphs

    def retry(self) -> None:
        """Capture graphs again, as batches are smaller now."""
        with self._lock:
            self._eager.clear()
            self._is_full = False

    def _capture(self, key: _Key, function: _Function, batch: Tensor, features: list[Tensor]) -> None:
        self._make_room()
        if self._resources is None:
            self._resources = torch.cuda.Stream(batch.device), torch.cuda.graph_pool_handle()  # type: ignore[no-untyped-call]
        try:
            with _sync_debug_mode("default"):  # the comparison waits
                graph = _Graph(function, batch, *self._resources)
                is_right = _same_bits(graph.replay(batch), features) or not _same_bits(function(batch), features)
        except Exception as error:  # networks and drivers raise any type
            self._resources = None
            if reason := _explain(error):
                self.disable(reason)
            else:
                self._graphs.clear()
                self._is_full = True
        else:
            if is_right:
                self._graphs[key] = graph
            else:
                self.disable("the graph gives other features")

    def _make_room(self) -> None:
        """Release the graphs beyond the limit. Their shapes count from the start, so that shapes do not alternate."""
        while len(self._graphs) >= _MOST_GRAPHS:
            oldest = next(iter(self._graphs))
            del self._graphs[oldest], self._eager[oldest]


class _Graph:
    """A captured function, with the memory for its batch and its features."""

    def __init__(self, function: _Function, batch: Tensor, stream: Any, pool: Any) -> None:
        self._batch = batch.clone()
        self._graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(batch.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream), _sync_debug_mode("error"):  # an error here is better than one in the capture
            function(self._batch)
        torch.clear_autocast_cache()  # the graph casts weights itself
        try:
            with (
                torch.cuda.stream(stream),  # the capture does not restore the stream if it fails
                torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"),
            ):
                self._features = function(self._batch)
        except BaseException:
            _end_capture(self._graph, batch.device, pool)
            raise
        finally:
            torch.clear_autocast_cache()  # it holds memory of the graph
        current.wait_stream(stream)

    def replay(self, batch: Tensor) -> list[Tensor]:
        """The features of a batch of the same shape, in memory of their own."""
        self._batch.copy_(batch)
        self._graph.replay()
        return [layer.clone() for layer in self._features]


def _end_capture(graph: Any, device: torch.device, pool: Any) -> None:
    """Bring PyTorch back from the state of a capture, which a failed one does not leave."""
    with suppress(Exception):
        graph.reset()  # newer versions release the pool here
    with suppress(Exception):  # the first call raises if the pool is released
        torch._C._cuda_endAllocateToPool(_number(device), pool)
        torch._C._cuda_releasePool(_number(device), pool)
    with suppress(Exception):
        generator = torch.cuda.default_generators[_number(device)]
        state = generator.get_state()
        try:
            torch.rand(1, device=device)
            generator.set_state(state)
        except RuntimeError:  # in PyTorch 2.11 the state of the generator is that of a capture; a copy's is not
            generator.graphsafe_set_state(generator.clone_state())


def _number(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


@contextmanager
def _sync_debug_mode(mode: str) -> Iterator[None]:
    """A context in which PyTorch raises, or does not raise, where the host waits for the GPU.

    mode : "error" for what is to be captured: a function that waits cannot be captured; else "default".
    """
    before = torch.cuda.get_sync_debug_mode()
    _set_sync_debug_mode(mode)
    try:
        yield
    finally:
        _set_sync_debug_mode(before)


def _set_sync_debug_mode(mode: int | str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls the mode a prototype
        torch.cuda.set_sync_debug_mode(mode)


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
    return "" if is_out_of_memory(reason) else first_line(reason)


def _same_bits(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether tensors of float32 are the same, NaN included."""
    return all(torch.equal(a.view(torch.int32), b.view(torch.int32)) for a, b in zip(found, expected, strict=True))
