"""`deterministic_algorithms`: the same seed gives the same result on a GPU, bit by bit."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

from featcache.errors import FeatcacheError

_F = TypeVar("_F", bound=Callable[..., Any])

_WORKSPACE, _WORKSPACES = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")
"""The variable that gives cuBLAS workspaces of fixed sizes, and the values with which it is deterministic."""

_MISSING = re.compile(r"(\S+) does not have a deterministic implementation")


@contextmanager
def deterministic_algorithms(enabled: bool, error: type[FeatcacheError]) -> Iterator[None]:
    """A context in which PyTorch takes deterministic algorithms alone. Afterwards each setting has its former value.

    Enter it before CUDA is opened, which reads the size of the workspaces once.

    Parameters
    ----------
    enabled : bool
        False: nothing is changed, and PyTorch is not imported.
    error : type
        Raised for an operation that has no deterministic implementation.
    """
    if not enabled:
        yield
        return
    import torch

    cudnn: Any = torch.backends.cudnn
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    flags, workspace = (cudnn.deterministic, cudnn.benchmark), os.environ.get(_WORKSPACE)
    try:
        if workspace not in _WORKSPACES:
            os.environ[_WORKSPACE] = _WORKSPACES[0]
        cudnn.deterministic, cudnn.benchmark = True, False
        torch.use_deterministic_algorithms(True)
        yield
    except Exception as raised:
        if operation := _missing_implementation(raised):
            raise error(
                f"{operation} has no deterministic implementation in PyTorch {torch.__version__.partition('+')[0]} on "
                "this device. Drop --deterministic (two runs then differ by rounding), or give --device cpu or another "
                "network."
            ) from raised
        raise
    finally:
        torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
        cudnn.deterministic, cudnn.benchmark = flags
        if workspace is None:
            os.environ.pop(_WORKSPACE, None)
        else:
            os.environ[_WORKSPACE] = workspace


def deterministic_on_request(error: type[FeatcacheError]) -> Callable[[_F], _F]:
    """A decorator: the function runs in `deterministic_algorithms` if its option `deterministic` is set."""

    def decorate(function: _F) -> _F:
        @wraps(function)
        def run(*args: Any, **options: Any) -> Any:
            with deterministic_algorithms(options["deterministic"], error):
                return function(*args, **options)

        wrapped: Any = run
        return wrapped

    return decorate


def _missing_implementation(error: BaseException) -> str:
    """The operation that an error, or one that it was raised from, says has no deterministic implementation; or ""."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RuntimeError) and (found := _MISSING.search(str(cause))):
            return found[1]
        cause = cause.__cause__ or cause.__context__
    return ""
