"""Device and precision of a network. PyTorch is imported only if there may be a GPU."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from featcache.core.specs import Precision
from featcache.errors import BackboneError, first_line

_PRECISIONS = ("fp32", "bf16", "fp16")


def resolve_device(device: str = "auto") -> str:
    """ "auto" takes CUDA, then MPS, then the CPU. Raises BackboneError for a device that is not available."""
    if device == "cpu" or (device == "auto" and not _accelerator_is_likely()):
        return "cpu"
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = first_line(error)
        raise BackboneError(f"device {device!r} cannot be used: {reason}. Try --device auto or cpu.") from error
    return device


def _accelerator_is_likely() -> bool:
    """Whether PyTorch, which takes seconds to import, may find a GPU: on Linux a GPU has one of these files."""
    paths = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")
    return sys.platform != "linux" or any(os.path.exists(path) for path in paths)


def resolve_precision(precision: str, device: str) -> Precision:
    """ "auto" takes bf16 if the hardware multiplies matrices in bf16, fp16 on older GPUs, and fp32 otherwise."""
    kind = device.split(":")[0]
    if precision == "auto":
        if kind == "cuda":
            import torch

            return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
        return "bf16" if kind == "cpu" and _cpu_multiplies_bf16() else "fp32"
    if precision not in _PRECISIONS:
        raise BackboneError(f"precision is {precision!r}; it must be auto, {', '.join(_PRECISIONS)}")
    if precision == "fp16" and kind == "cpu":
        raise BackboneError("fp16 on a CPU is slow and overflows; use bf16 or fp32")
    return precision  # type: ignore[return-value]


def _cpu_multiplies_bf16() -> bool:
    try:
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:  # not Linux
        import torch

        return bool(torch.cpu._is_avx512_bf16_supported())
