"""Whether a device can make views. It imports neither PyTorch nor Triton."""

from __future__ import annotations

import importlib.util


def can_make_views(device: str) -> bool:
    """Whether this is a GPU for which Triton compiles kernels, and Triton is installed."""
    return device.startswith("cuda") and importlib.util.find_spec("triton") is not None
