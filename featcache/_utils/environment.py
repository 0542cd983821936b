"""Folders to write into: where featcache keeps what it can make again, and whether a place can be written."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from featcache.errors import FeatcacheError, OutputError


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/featcache, or ~/.cache/featcache. Raises FeatcacheError where the user has no home."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:  # in a container, under a user number without a name
        raise FeatcacheError(
            "this user has no home folder that files could be kept in. Set XDG_CACHE_HOME to a folder that can be "
            "written."
        ) from error
    return Path(base) / "featcache"


def check_writable(path: Path) -> None:
    """Raise OutputError where a file cannot be written, before the work that makes it; nothing is left there.

    The folders above it need not be there yet: then it is the first one that is there that must be writable.
    """
    folder = next(place for place in path.absolute().parents if os.path.lexists(place))
    try:
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{folder} is not a folder")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError.of(error, path) from error
