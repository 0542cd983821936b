"""`explain_memory_error`: recognises errors that mean a lack of memory, whatever type a library raises."""

from __future__ import annotations

import re
import sys

from featcache._utils.memory_errors import is_out_of_memory

_SIGNS = re.compile(
    r"cannot allocate memory|can't allocate memory|unable to allocate|not enough memory|out of memory|bad_alloc"
    r"|failed to map segment|std::bad_array_new_length",
    re.IGNORECASE,
)


def explain_memory_error(error: BaseException) -> str:
    """The message for an error caused by a lack of memory; "" for other errors.

    Parameters
    ----------
    error : BaseException
        The error; the errors that it was raised from are checked as well. If the process has a limit (`ulimit -v`), an
        ImportError counts too: a library that is loaded in part fails with missing names.

    Returns
    -------
    str
        What happened, and what to do.
    """
    limit = _limit()
    seen: BaseException | None = error
    while seen is not None:
        half_loaded = limit and isinstance(seen, ImportError) and not isinstance(seen, ModuleNotFoundError)
        on_device = is_out_of_memory(seen)
        if on_device or isinstance(seen, MemoryError) or _SIGNS.search(str(seen)) or half_loaded:
            message = str(seen).strip().partition("\n")[0] or "MemoryError"
            if on_device:
                return f"the GPU is out of memory ({message}). Give a smaller --batch-size, or --device cpu."
            allowed = f" This process is limited to {limit / 2**30:.1f} GiB (ulimit -v)." if limit else ""
            return (
                f"out of memory ({message}).{allowed} Close other programs, raise the limit, or give a "
                "smaller --batch-size or fewer --workers. Finished work is kept."
            )
        seen = seen.__cause__ or seen.__context__
    return ""


def _limit() -> int:
    """Bytes of address space that this process may use; 0 without a limit."""
    if sys.platform == "win32":
        return 0
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return 0 if soft == resource.RLIM_INFINITY else soft
