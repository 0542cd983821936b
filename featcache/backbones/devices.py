"""Device and precision of a network. PyTorch is imported only if there may be a GPU."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from featcache.core.specs import Precision
from featcache.errors import BackboneError, RunError, first_line

_PRECISIONS = ("fp32", "bf16", "fp16")

ALL_GPUS = "cuda:all"
"""The device that stands for all GPUs of the machine."""


def resolve_device(device: str = "auto") -> str:
    """ "auto" takes CUDA, then MPS, then the CPU. Raises BackboneError for a device that is not available.

    "auto" takes one GPU, also where there are several: other programs may use the others. ALL_GPUS stays as it is.
    """
    if device == "cpu" or (device == "auto" and not _accelerator_is_likely()):
        return "cpu"
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        for each in expand_device(device):
            torch.empty(1, device=each)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = first_line(error)
        raise BackboneError(f"device {device!r} cannot be used: {reason}. Try --device auto or cpu.") from error
    return device


def expand_device(device: str) -> tuple[str, ...]:
    """The device alone, or each GPU for ALL_GPUS. Raises BackboneError if there is none."""
    if device != ALL_GPUS:
        return (device,)
    import torch

    count = torch.cuda.device_count()
    if not count:
        raise BackboneError(f"device {ALL_GPUS!r} cannot be used: PyTorch finds no GPU. Try --device auto or cpu.")
    return tuple(f"cuda:{number}" for number in range(count))


def check_training_device(device: str) -> None:
    """Raise RunError for ALL_GPUS: a process trains on one GPU."""
    if device == ALL_GPUS:
        raise RunError(
            f"a process trains on one GPU, not on {ALL_GPUS}: give --device cuda or cuda:1. To train on all GPUs, "
            "start a process for each: torchrun --nproc-per-node gpu -m featcache finetune ... --device cuda"
        )


def name_devices(devices: Sequence[str]) -> str:
    """ "cpu", "mps", or the names of the GPUs, such as "2 x NVIDIA H200"."""
    if not devices[0].startswith("cuda"):
        return devices[0]
    import torch

    names = Counter(torch.cuda.get_device_name(device) for device in devices)
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in names.items())


def unused_gpus_note(device: str) -> str:
    """A note for the user if "auto" has taken one of several GPUs; "" otherwise."""
    torch = sys.modules.get("torch")
    if device != "auto" or torch is None or not torch.cuda.is_available() or torch.cuda.device_count() < 2:
        return ""
    return f"one of {torch.cuda.device_count()} GPUs computes; --device {ALL_GPUS} takes all of them"


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

            capability = min(torch.cuda.get_device_capability(each) for each in expand_device(device))
            return "bf16" if capability >= (8, 0) else "fp16"
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


def allows_tf32(device: str, precision: Precision) -> bool:
    """Whether a GPU may compute in TF32 what bf16 or fp16 leaves in float32. The precision "fp32" is IEEE's."""
    if not device.startswith("cuda") or precision == "fp32":
        return False
    from featcache.backbones.float32 import tf32_is_allowed

    return tf32_is_allowed(device)
