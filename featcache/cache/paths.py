"""Names of cache files."""

from __future__ import annotations

import os
from pathlib import Path

from featcache._utils import remote
from featcache.errors import CacheError


def partial_path(path: str | os.PathLike[str]) -> Path:
    """Where a cache lies while it is being made."""
    return Path(f"{os.fspath(path)}.partial")


def on_disk(path: str | os.PathLike[str]) -> Path:
    """Where a cache is to be written: a link stays one, what it leads to is written. Raises CacheError for a URL."""
    if remote.is_url(path):
        raise CacheError(
            f"{os.fspath(path)}: a cache is written on a disk. Give a file; `featcache push` copies it to a URL, and "
            "`featcache pull` from one."
        )
    return Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)
