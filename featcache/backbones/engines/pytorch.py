"""`PyTorchEngine` and `CompiledEngine`: a frozen network in PyTorch, without and with torch.compile."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featcache.backbones.engines.base import PendingFeatures
from featcache.errors import BackboneError, first_line

if TYPE_CHECKING:
    from torch import Tensor

    from featcache.backbones.feature_extractor import FeatureExtractor

_COMPILED_BATCH = 32
"""Compiled code is for one batch size; smaller batches are padded."""


class PyTorchEngine:
    """PyTorch. On a GPU copies and kernels are queued, and only a request for features waits.

    If a batch does not fit into the memory of the device, this and later batches are halved until they fit.
    """

    def __init__(self, extractor: FeatureExtractor) -> None:
        self._extractor = extractor
        self.max_in_flight = 256 if extractor.device.type == "cuda" else 0
        self._max_batch = sys.maxsize
        self.note = ""

    def submit(self, pixels: NDArray[np.uint8]) -> PendingFeatures:
        """See `Engine`. Raises BackboneError if one view does not fit into the memory of the device."""
        import torch

        while True:
            size = min(self._max_batch, max(1, len(pixels)))
            try:
                return _join([self._submit_batch(pixels[i : i + size]) for i in range(0, len(pixels) or 1, size)])
            except torch.OutOfMemoryError as error:
                reason = first_line(error)
            self._halve(size, reason)  # here the error, which keeps tensors of the failed pass, is gone

    def _halve(self, size: int, reason: str) -> None:
        import torch

        device = self._extractor.device
        if size == 1:
            raise BackboneError(
                f"one view of this network does not fit into the free memory of {device} ({reason}). Stop other "
                "programs that use this memory, or give a smaller --image-size, --device cpu or another network."
            )
        self._max_batch = size // 2
        self.note = f"{device} has too little free memory for larger batches: batches have {size // 2} views"
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def _submit_batch(self, pixels: NDArray[np.uint8]) -> PendingFeatures:
        if self._extractor.device.type != "cuda":
            features = self._extractor.embed(pixels)
            return lambda: features
        return self._queue(pixels)

    def _run(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return self._extractor(pixels)

    def _queue(self, pixels: NDArray[np.uint8]) -> PendingFeatures:
        import torch

        with torch.inference_mode(), self._extractor.autocast(), torch.cuda.device(self._extractor.device):
            pinned = torch.from_numpy(np.require(pixels, requirements="W")).pin_memory()
            layers = self._run(pinned.to(self._extractor.device, non_blocking=True))
            on_host = [layer.float().to("cpu", non_blocking=True) for layer in layers]  # into pinned memory
            finished = torch.cuda.Event()  # type: ignore[no-untyped-call]
            finished.record()

        def wait() -> list[NDArray[np.float32]]:
            finished.synchronize()
            return [layer.numpy() for layer in on_host]

        return wait


class CompiledEngine(PyTorchEngine):
    """torch.compile, with the weights frozen into the code: it takes half a minute once, and is then twice as fast.

    Raises
    ------
    RuntimeError : the network cannot be compiled.
    """

    def __init__(self, extractor: FeatureExtractor, image_size: int) -> None:
        import torch

        super().__init__(extractor)
        on_cpu = extractor.device.type == "cpu"
        options: dict[str, Any] = {"freezing": True} if on_cpu else {"triton.cudagraphs": False}
        self._compiled: Any = torch.compile(extractor, dynamic=False, options=options)
        try:
            self.submit(np.zeros((1, image_size, image_size, 3), np.uint8))()
        except Exception as error:  # the compiler raises any type
            raise RuntimeError(first_line(error)) from error

    def submit(self, pixels: NDArray[np.uint8]) -> PendingFeatures:
        """See `Engine`."""
        import torch

        starts = range(0, len(pixels), _COMPILED_BATCH)
        try:
            return _join([self._submit_batch(pixels[start : start + _COMPILED_BATCH]) for start in starts])
        except torch.OutOfMemoryError as error:
            raise BackboneError(
                f"{self._extractor.device} has too little free memory for a batch of {_COMPILED_BATCH} views, the size "
                f"that the network was compiled for ({first_line(error)}). Give --engine pytorch, which takes smaller "
                "batches."
            ) from error

    def _run(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return self._compiled(pixels)

    def _submit_batch(self, pixels: NDArray[np.uint8]) -> PendingFeatures:
        import torch

        n = len(pixels)
        padded = np.zeros((_COMPILED_BATCH, *pixels.shape[1:]), np.uint8)
        padded[:n] = pixels
        if self._extractor.device.type == "cuda":
            wait = self._queue(padded)
            return lambda: [layer[:n] for layer in wait()]
        with torch.no_grad(), self._extractor.autocast():
            features = [layer[:n].float().numpy() for layer in self._run(torch.from_numpy(padded))]
        return lambda: features


def _join(batches: list[PendingFeatures]) -> PendingFeatures:
    """Wait for all batches and concatenate the features of each layer."""
    if len(batches) == 1:
        return batches[0]
    return lambda: [np.concatenate(layer) for layer in zip(*(batch() for batch in batches), strict=True)]
