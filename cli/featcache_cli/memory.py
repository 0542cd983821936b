"""`explain_memory_error`: whether an error means that memory could not be had, whatever a library made of it."""

from __future__ import annotations

import re
import sys

_SIGNS = re.compile(
    r"cannot allocate memory|can't allocate memory|unable to allocate|not enough memory|out of memory|bad_alloc"
    r"|failed to map segment|std::bad_array_new_length",
    re.IGNORECASE,
)


def explain_memory_error(error: BaseException) -> str:
    """What to tell of an error that memory was short for; "" for any other.

    Parameters
    ----------
    error : BaseException
        The error. What it was raised from counts, too. Where the process has a limit (`ulimit -v`), a failed import
        does: libraries that are not loaded whole fail with names that they lack.

    Returns
    -------
    str
        What and where, and what to do.
    """
    limit = _limit()
    seen: BaseException | None = error
    while seen is not None:
        half_loaded = limit and isinstance(seen, ImportError) and not isinstance(seen, ModuleNotFoundError)
        if isinstance(seen, MemoryError) or _SIGNS.search(str(seen)) or half_loaded:
            message = str(seen).strip().partition("\n")[0] or "MemoryError"
            if "cuda out of memory" in message.lower():
                return f"the GPU has no memory left ({message}). Give a smaller --batch-size, or --device cpu."
            allowed = f" This process may have {limit / 2**30:.1f} GiB (ulimit -v)." if limit else ""
            return (
                f"memory could not be had ({message}).{allowed} Close other programs, raise the limit, or give a "
                "smaller --batch-size or fewer --workers. What was finished is kept."
            )
        seen = seen.__cause__ or seen.__context__
    return ""


def _limit() -> int:
    """Bytes of address space that this process may have; 0 where there is no limit."""
    if sys.platform == "win32":
        return 0
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return 0 if soft == resource.RLIM_INFINITY else soft
