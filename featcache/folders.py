"""Where featcache keeps what it can make or fetch again."""

from __future__ import annotations

import os
from pathlib import Path

from featcache.errors import FeatcacheError


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
