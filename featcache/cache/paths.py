"""Names of cache files."""

from __future__ import annotations

import os
from pathlib import Path

from featcache._utils import remote
from featcache.errors import CacheError


def partial_path(path: str | os.PathLike[str]) -> Path:
    """Name of a cache file that is being written."""
    return Path(f"{os.fspath(path)}.partial")


def on_disk(path: str | os.PathLike[str]) -> Path:
    """The file to write for a cache: the target of a symbolic link. Raises CacheError for a URL."""
    if remote.is_url(path):
        raise CacheError(
            f"{os.fspath(path)}: a cache is written on a disk. Give a file; `featcache push` copies it to a URL, and "
            "`featcache pull` from one."
        )
    return Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)
