"""Names of cache files, and which files are caches."""

from __future__ import annotations

import os
from pathlib import Path

from featcache._utils import remote
from featcache.data.file_types import HDF5, is_hdf5
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


def names_cache(path: str | os.PathLike[str]) -> bool:
    """Whether a path or a URL names a cache or another HDF5 file, by its ending, or its first bytes if it is local."""
    name = os.fspath(path)
    if name.lower().endswith(HDF5):
        return remote.is_url(name) or not os.path.isdir(name)
    if remote.is_url(name) or not os.path.isfile(name):  # reading a pipe would wait
        return False
    try:
        with open(name, "rb") as file:
            return is_hdf5(file.read(32))
    except OSError:
        return False
