"""`ieee_float32`: convolutions and matrix products of float32 in full precision, without TF32 and bf16."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any

import torch

_PARENTS: tuple[Any, ...] = (torch.backends, torch.backends.cudnn, torch.backends.mkldnn)
"""Settings whose value is that of the operations that have none. `cudnn` is for all CUDA operations."""

_MATMULS: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
_OTHERS: tuple[Any, ...] = tuple(
    getattr(backend, operation)
    for backend in (torch.backends.cudnn, torch.backends.mkldnn)
    for operation in ("conv", "rnn")
)


_lock = Lock()
_restores: list[Callable[[], None]] = []
"""One for each context that is open. The settings are those of the process, so the last one restores them."""


@contextmanager
def ieee_float32() -> Iterator[None]:
    """A context in which PyTorch computes float32 as IEEE float32. Afterwards each setting has its former value.

    The settings are those of all threads. Where contexts of several threads overlap, the first sets and the last
    restores them.
    """
    with _lock:
        _restores.append(_restores[0] if _restores else _set_ieee())
    try:
        yield
    finally:
        with _lock:
            restore = _restores.pop()
            if not _restores:
                restore()


def _set_ieee() -> Callable[[], None]:
    """Set everything to IEEE float32. The result restores the former values."""
    legacy = _legacy_matmul_precision()
    before: list[tuple[Any, str]] = []
    changed = list(_PARENTS)

    def restore() -> None:
        if legacy:
            torch.set_float32_matmul_precision(legacy)
        for setting, value in reversed(before):  # in PyTorch 2.14, `mkldnn` is another name of `torch.backends`
            if setting in changed:
                setting.fp32_precision = value

    try:
        for setting in (*_PARENTS, *_MATMULS, *_OTHERS):
            before.append((setting, setting.fp32_precision))  # its own value: its parents have none at this moment
            if setting in _PARENTS:
                setting.fp32_precision = "none"
        if legacy:  # some kernels compare both
            torch.set_float32_matmul_precision("highest")
        torch.backends.fp32_precision = "ieee"  # type: ignore[attr-defined]
        for setting in (*_MATMULS, *_OTHERS):
            # PyTorch's initial value of convolutions follows the parent, and no assignment restores it
            if setting in _MATMULS or setting.fp32_precision != "ieee":
                setting.fp32_precision = "ieee"
                changed.append(setting)
    except BaseException:
        restore()
        raise
    return restore


def tf32_is_allowed(device: str) -> bool:
    """Whether this GPU has TF32, and PyTorch may use it. By default it does so in convolutions."""
    if torch.cuda.get_device_capability(device) < (8, 0):
        return False
    cudnn: Any = torch.backends.cudnn
    return "tf32" in (cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision)


def _legacy_matmul_precision() -> str | None:
    """The value of `torch.get_float32_matmul_precision`; None if the program has set `fp32_precision` instead."""
    with suppress(RuntimeError):
        return torch.get_float32_matmul_precision()
    return None
