"""`PyTorchEngine` and `CompiledEngine`: a frozen network in PyTorch, without and with torch.compile."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from featcache._utils.memory_errors import is_out_of_memory
from featcache.backbones.engines.base import PendingFeatures
from featcache.errors import BackboneError, first_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from featcache.backbones.feature_extractor import FeatureExtractor
    from featcache.data.sample_loader import Inputs

_T = TypeVar("_T")

_COMPILED_BATCH, _COMPILED_BATCH_ON_CUDA = 32, 256
"""Compiled code is for one batch size; smaller batches are padded."""


class PyTorchEngine:
    """PyTorch. On a GPU copies and kernels are queued, and only a request for features waits.

    On a GPU, a batch is copied while the one before is computed, and batches of the same size are computed by a CUDA
    graph, see `CudaGraphs`. If a batch does not fit into the memory of the device, the graphs are released. If that
    does not suffice, this and later batches are halved until they fit, and have graphs again.
    """

    def __init__(self, extractor: FeatureExtractor) -> None:
        from featcache.backbones.engines.cuda_graph import CudaGraphs

        self._extractor = extractor
        self.max_in_flight = 256 if extractor.device.type == "cuda" else 0
        self._max_batch = sys.maxsize
        self._memory_note = ""
        self._graphs = CudaGraphs()

    @property
    def note(self) -> str:
        """See `Engine`: on its batches and on its CUDA graphs, a line each."""
        return "\n".join(filter(None, [self._memory_note, self._graphs.note]))

    def submit(self, pixels: Inputs) -> PendingFeatures:
        """See `Engine`. Raises BackboneError if one view does not fit into the memory of the device."""
        return _join(self._in_batches(self._submit_batch, pixels))

    def embed_on_device(self, pixels: NDArray[np.uint8]) -> list[Tensor]:
        """Features (b, d), float32, of each layer, queued on a GPU. Raises as `submit` does."""
        import torch

        with self._on_device():
            batches = self._in_batches(self._forward, pixels)
        return [torch.cat(layer) for layer in zip(*batches, strict=True)]  # copies, which may need gradients

    def _in_batches(self, run: Callable[[Inputs], _T], pixels: Inputs) -> list[_T]:
        """The results of `run` on batches that fit into the memory of the device."""
        while True:
            size = min(self._max_batch, max(1, len(pixels)))
            try:
                return [run(pixels[i : i + size]) for i in range(0, len(pixels) or 1, size)]
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                reason = first_line(error)
            if not self._graphs.release():  # here the error, which keeps tensors of the failed pass, is gone
                self._halve(size, reason)

    def _halve(self, size: int, reason: str) -> None:
        import torch

        device = self._extractor.device
        if size == 1:
            raise BackboneError(
                f"one view of this network does not fit into the free memory of {device} ({reason}). Stop other "
                "programs that use this memory, or give a smaller --image-size, --device cpu or another network."
            )
        self._max_batch = -(-size // 2)  # rounded up: 255 views are two batches, not three
        self._memory_note = (
            f"{device} has too little free memory for larger batches: batches have {self._max_batch} views"
        )
        self._graphs.retry()
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def _submit_batch(self, pixels: Inputs) -> PendingFeatures:
        if self._extractor.device.type != "cuda":
            features = self._extractor.embed(pixels)
            return lambda: features
        return self._queue(pixels)

    def _run(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return self._extractor(pixels)

    def _embed(self, pixels: Tensor) -> list[Tensor]:
        return [layer.float() for layer in self._run(pixels)]

    def _forward(self, pixels: Inputs) -> list[Tensor]:
        """Features (b, d), float32, of each layer, queued on the GPU, within `_on_device`."""
        from featcache.backbones.transfer import to_device

        with self._extractor.autocast():
            return self._graphs.run(self._embed, to_device(pixels, self._extractor.device, self._copies))

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        import torch

        with torch.inference_mode(), torch.cuda.device(self._extractor.device):
            yield

    @cached_property
    def _copies(self) -> torch.cuda.Stream:
        import torch

        return torch.cuda.Stream(self._extractor.device)  # type: ignore[no-untyped-call]

    def _queue(self, pixels: Inputs) -> PendingFeatures:
        from featcache.backbones.transfer import to_host

        with self._on_device():
            wait = to_host(self._forward(pixels), self._extractor.device)
        return lambda: [layer.numpy() for layer in wait()]


class CompiledEngine(PyTorchEngine):
    """torch.compile. It compiles for half a minute to a minute when it is made.

    On a CPU the weights are constants of the code, which is then about twice as fast as PyTorch. On a GPU the weights
    stay parameters. `choose_engine` selects it if that pays.

    Raises
    ------
    RuntimeError : the network cannot be compiled.
    BackboneError : a batch does not fit into the memory of the device.
    """

    def __init__(self, extractor: FeatureExtractor, image_size: int) -> None:
        import torch

        super().__init__(extractor)
        self._max_batch = _COMPILED_BATCH_ON_CUDA if extractor.device.type == "cuda" else _COMPILED_BATCH
        on_cpu = extractor.device.type == "cpu"
        options: dict[str, Any] = {"freezing": True} if on_cpu else {"triton.cudagraphs": False}
        self._compiled: Any = torch.compile(extractor, dynamic=False, options=options)
        try:
            self.submit(np.zeros((1, image_size, image_size, 3), np.uint8))()
        except BackboneError:
            raise
        except Exception as error:  # the compiler raises any type
            raise RuntimeError(first_line(error)) from error

    def _halve(self, size: int, reason: str) -> None:
        raise BackboneError(
            f"{self._extractor.device} has too little free memory for a batch of {self._max_batch} views, the size "
            f"that the network was compiled for ({reason}). Give --engine pytorch, which takes smaller batches."
        )

    def _run(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer[: len(pixels)] for layer in self._compiled(_pad(pixels, self._max_batch)))

    def _submit_batch(self, pixels: Inputs) -> PendingFeatures:
        import torch

        from featcache.backbones.transfer import to_device

        device = self._extractor.device
        if device.type == "cuda":
            return self._queue(pixels)
        with torch.no_grad(), self._extractor.autocast():
            features = [layer.numpy() for layer in self._embed(to_device(pixels, device))]
        return lambda: features


def _pad(pixels: Tensor, size: int) -> Tensor:
    """Black images follow, up to the size that the network is compiled for."""
    if len(pixels) == size:
        return pixels
    padded = pixels.new_zeros((size, *pixels.shape[1:]))
    padded[: len(pixels)] = pixels
    return padded


def _join(batches: list[PendingFeatures]) -> PendingFeatures:
    """Wait for all batches and concatenate the features of each layer."""
    if len(batches) == 1:
        return batches[0]
    return lambda: [np.concatenate(layer) for layer in zip(*(batch() for batch in batches), strict=True)]
