"""Whether a device can make views. It imports neither PyTorch nor Triton before it is asked for them."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from featcache.core.specs import ViewSpec

if TYPE_CHECKING:
    from featcache.vision.device_views.device_views import DeviceViews


def can_make_views(device: str) -> bool:
    """Whether this is a GPU for which Triton compiles kernels, and Triton is installed."""
    return device.startswith("cuda") and importlib.util.find_spec("triton") is not None


def open_device_views(device: str, spec: ViewSpec) -> DeviceViews | None:
    """What makes the views on this device; None if the CPU makes them."""
    if not can_make_views(device):
        return None
    from featcache.vision.device_views.device_views import DeviceViews  # needs PyTorch

    return DeviceViews(spec, device=device)
