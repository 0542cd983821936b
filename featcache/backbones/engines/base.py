"""`Engine`: the interface of what runs a frozen network, and which engines this machine has.

An engine starts on pixels at once and returns the features on request, so that reading, cropping, computing and writing
overlap.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from featcache.core.specs import EngineName as EngineName

if TYPE_CHECKING:
    from featcache.data.sample_loader import Inputs

EAGER_BATCHES = 8
"""Batches of a shape before a CUDA graph computes it: its capture waits for the GPU and takes as long as several."""

PendingFeatures = Callable[[], list[NDArray[np.float32]]]
"""Waits for the features (b, d), float32, of each layer."""


class Engine(Protocol):
    """Runs a network.

    Attributes
    ----------
    max_in_flight : int. Views to submit in addition to those whose features are awaited, so that it is always busy.
    note : str. What the user should know about how it runs the network; "" if nothing.
    """

    @property
    def max_in_flight(self) -> int: ...
    @property
    def note(self) -> str: ...

    def submit(self, pixels: Inputs) -> PendingFeatures:
        """Start on pixels (b, s, s, 3)."""


def has_openvino() -> bool:
    """Whether OpenVINO is installed. It does not import it."""
    return importlib.util.find_spec("openvino") is not None


def has_compiler(device: str) -> bool:
    """Whether torch.compile has what it needs: a C++ compiler for the CPU, Triton for CUDA."""
    if device.startswith("cuda"):
        return importlib.util.find_spec("triton") is not None
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))
