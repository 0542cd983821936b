"""What runs a frozen network: PyTorch as it is, PyTorch compiled, or OpenVINO (see `conversion`).

An engine takes pixels at once and gives the features when asked, so that reading, cropping, computing and writing
overlap.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featcache.core.specs import EngineName as EngineName
from featcache.errors import first_line

if TYPE_CHECKING:
    from torch import Tensor

    from featcache.backbones.feature_extractor import FeatureExtractor

PendingFeatures = Callable[[], list[NDArray[np.float32]]]
"""Waits for the features (b, d), float32, of each layer."""

_COMPILED_BATCH = 32
"""Compiled code is for one batch size; what is less is filled up."""


class Engine(Protocol):
    """Runs a network.

    appetite : views that it should have beside those whose features are waited for, so that it is always busy.
    """

    appetite: int

    def submit(self, pixels: NDArray[np.uint8]) -> PendingFeatures:
        """Start on pixels (b, s, s, 3)."""


def has_openvino() -> bool:
    """Whether OpenVINO is installed; it is not imported."""
    return importlib.util.find_spec("openvino") is not None


def has_compiler(device: str) -> bool:
    """Whether torch.compile finds what it needs: a C++ compiler for the CPU, Triton for CUDA."""
    if device.startswith("cuda"):
        return importlib.util.find_spec("triton") is not None
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


class PyTorchEngine:
    """PyTorch. On a GPU copies and kernels are queued: nobody waits until the features are asked for."""

    def __init__(self, frozen: FeatureExtractor) -> None:
        self._frozen = frozen
        self.appetite = 256 if frozen.device.type == "cuda" else 0

    def submit(self, pixels: NDArray[np.uint8]) -> PendingFeatures:
        """See `Engine`."""
        if self._frozen.device.type != "cuda":
            features = self._frozen.embed(pixels)
            return lambda: features
        return self._queue(pixels)

    def _run(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return self._frozen(pixels)

    def _queue(self, pixels: NDArray[np.uint8]) -> PendingFeatures:
        import torch

        with torch.inference_mode(), self._frozen.autocast(), torch.cuda.device(self._frozen.device):
            there = torch.from_numpy(np.require(pixels, requirements="W")).pin_memory()
            values = self._run(there.to(self._frozen.device, non_blocking=True))
            back = [layer.float().to("cpu", non_blocking=True) for layer in values]  # into pinned memory
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()

        def wait() -> list[NDArray[np.float32]]:
            done.synchronize()
            return [layer.numpy() for layer in back]

        return wait


class CompiledEngine(PyTorchEngine):
    """PyTorch's own compiler, with the weights frozen into the code: half a minute once, then twice as fast.

    Raises
    ------
    RuntimeError : the network cannot be compiled.
    """

    def __init__(self, frozen: FeatureExtractor, image_size: int) -> None:
        import torch

        super().__init__(frozen)
        options: dict[str, Any] = {"freezing": True} if frozen.device.type == "cpu" else {"triton.cudagraphs": False}
        self._compiled: Any = torch.compile(frozen, dynamic=False, options=options)
        try:
            self.submit(np.zeros((1, image_size, image_size, 3), np.uint8))()
        except Exception as error:  # the compiler raises whatever it likes
            raise RuntimeError(first_line(error)) from error

    def submit(self, pixels: NDArray[np.uint8]) -> PendingFeatures:
        """See `Engine`."""
        parts = [
            self._part(pixels[start : start + _COMPILED_BATCH]) for start in range(0, len(pixels), _COMPILED_BATCH)
        ]
        return lambda: [np.concatenate(layer) for layer in zip(*(part() for part in parts), strict=True)]

    def _run(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return self._compiled(pixels)

    def _part(self, pixels: NDArray[np.uint8]) -> PendingFeatures:
        import torch

        n = len(pixels)
        full = np.zeros((_COMPILED_BATCH, *pixels.shape[1:]), np.uint8)
        full[:n] = pixels
        if self._frozen.device.type == "cuda":
            wait = self._queue(full)
            return lambda: [layer[:n] for layer in wait()]
        with torch.no_grad(), self._frozen.autocast():
            features = [layer[:n].float().numpy() for layer in self._run(torch.from_numpy(full))]
        return lambda: features
