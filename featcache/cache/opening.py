"""Which files `FeatureCache.open` and its other constructors accept, and caches at URLs and in temporary folders."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featcache._utils import remote
from featcache.cache.checksums import damaged_rows
from featcache.cache.format import lock
from featcache.cache.paths import on_disk
from featcache.core.layer_names import choose_layers
from featcache.errors import CacheDamagedError, CacheError, CacheIncompleteError, NotACacheError, SpecError

if TYPE_CHECKING:
    from featcache.cache.feature_cache import FeatureCache

    Open = Callable[[Path], FeatureCache]


def check_exists(path: Path, unfinished: Path) -> None:
    """Raise NotACacheError if there is neither a file nor an unfinished one."""
    if not path.exists() and not unfinished.exists():
        raise NotACacheError(f"{path} does not exist. Make it with `featcache extract DATA -o {path}`.")
    if path.is_dir():
        raise NotACacheError(
            f"{path} is a folder, not a feature cache. A folder of images or texts becomes one with "
            f"`featcache extract {shlex.quote(str(path))} -o cache.h5`."
        )


def find_problem(cache: FeatureCache, skipped: NDArray[np.int64]) -> str:
    """A contradiction in the records of the rows, see `FeatureCache.problem`. skipped : numbers of the skipped rows."""
    if np.any(cache.done > cache.layout.expected_views):
        return "it has more views than there can be"
    if np.any(cache.done[skipped]):
        return "rows are there and skipped at once"
    if not cache.finished:
        return ""
    if not cache.complete:
        return "rows are missing"
    return "its header names a writer" if cache.layout.owner else ""


def layers_of(cache: FeatureCache, requested: str) -> tuple[str, ...]:
    """See `FeatureCache.layers`."""
    try:
        return choose_layers(requested, tuple(cache.dims))
    except SpecError as error:
        raise CacheIncompleteError(
            f"{cache.path} has no layer {requested!r}; it has {', '.join(cache.dims)}. "
            f"Extract again to another file with --layers {requested}."
        ) from error


def check_usable(cache: FeatureCache, path: Path, damaged: bool) -> None:
    """Raise CacheBusyError, CacheIncompleteError or CacheDamagedError for a cache that is not finished or damaged.

    path : as the user gave it. damaged : whether a damaged cache is opened, too.
    """
    if cache.finished:
        if cache.problem and not damaged:
            raise CacheDamagedError(
                f"{path} is damaged: {cache.problem}. Mend it with `featcache verify {path} --repair DATA`."
            )
        return
    if lock.is_held(cache.path):
        raise lock.busy_error(cache.path, cache.layout.owner_offset)
    raise CacheIncompleteError(
        f"{path} is not finished: {np.count_nonzero(cache.done)} of {len(cache.samples)} rows are in "
        f"{cache.path}. Run the command that creates it again; it resumes."
    )


def check_rows(cache: FeatureCache, rows: NDArray[np.int64], split: str) -> None:
    """Raise CacheDamagedError if a row does not match its checksum. split : of the rows, for the message."""
    damaged = damaged_rows(cache.layout, rows)
    if len(damaged):
        raise CacheDamagedError(
            f"{cache.path} is damaged: {len(damaged)} {cache.spec.modality}s of {split} do not have the checksums of "
            f"their features, for example {cache.samples.ids[damaged[0]]}. Extract those again with `featcache verify "
            f"{cache.path} --repair DATA`."
        )


def open_remote(url: str, open: Open) -> FeatureCache:
    """Open the local copy of a remote cache, downloaded again if it does not open."""
    try:
        copy = remote.cached_copy(url)
        try:
            return open(copy)
        except (NotACacheError, CacheDamagedError):
            copy = remote.cached_copy(url, refresh=True)
        try:
            return open(copy)
        except CacheError as error:
            raise type(error)(str(error).replace(str(copy), url)) from error
    except FileNotFoundError as error:
        raise NotACacheError(f"{url} does not exist. Put a cache there with `featcache push CACHE {url}`.") from error


def open_written(out: str | os.PathLike[str] | None, write: Callable[[Path], None], open: Open) -> FeatureCache:
    """Write a cache and open it. Without a name it is a temporary file, which is deleted with the object."""
    if out is not None:
        path = on_disk(out)
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
        return open(path)
    folder = tempfile.mkdtemp(prefix="featcache-")
    try:
        write(Path(folder, "arrays.h5"))
        cache = open(Path(folder, "arrays.h5"))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(cache, shutil.rmtree, folder, ignore_errors=True)
    return cache
