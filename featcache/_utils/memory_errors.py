"""`is_out_of_memory`: errors that mean that the memory of a device does not suffice."""

from __future__ import annotations

import re

_SIGNS = re.compile(
    r"\b(CUDA|HIP|MPS|Triton)\b.*out of memory|_ALLOC_FAILED|(cuda|hip)ErrorMemoryAllocation|hipErrorOutOfMemory"
    r"|unable to find an engine to execute"
)
"""CUDA, HIP, MPS, Triton and pinned memory; cuBLAS, cuSOLVER, cuSPARSE, cuFFT and cuDNN; cuDNN without a workspace."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device has too little free memory. PyTorch's allocator raises a type of its own, libraries do not."""
    if any(base.__name__ == "OutOfMemoryError" for base in type(error).__mro__):  # PyTorch need not be imported
        return True
    return isinstance(error, RuntimeError) and _SIGNS.search(str(error)) is not None
