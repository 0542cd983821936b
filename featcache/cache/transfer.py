"""`pull` and `push`: copy caches from and to URLs, and check every row. An interrupted pull is continued."""

from __future__ import annotations

import hashlib
import os
import posixpath
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from featcache._utils import remote
from featcache._utils.download import complete, open_partial
from featcache._utils.files import fsync_folder
from featcache._utils.formatting import human_bytes
from featcache._utils.locks import lock_folder
from featcache._utils.progress_bar import Progress, ProgressOption, as_callback
from featcache._utils.results import NotebookResult, Result
from featcache._utils.timing import PhaseTimer
from featcache.cache.checksums import damaged_rows
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.paths import partial_path
from featcache.errors import CacheDamagedError, FeatcacheError, OutputExistsError, RemoteIOError

_HEAD_BYTES = 65536  # header and tables, in which two caches differ


@dataclass(frozen=True, repr=False)
class Transfer(Result, NotebookResult):
    """Result of `pull` or `push`.

    Attributes
    ----------
    source, target : str
        File or URL.
    rows : int
        Rows of the cache, all with a correct checksum.
    size_bytes : int
        Size of the cache.
    moved_bytes : int
        Bytes that this call copied.
    seconds : float
        Duration of the call.
    """

    source: str
    target: str
    rows: int
    size_bytes: int
    moved_bytes: int
    seconds: float

    def __str__(self) -> str:
        """For people."""
        if not self.moved_bytes:
            return f"{self.target}: nothing to copy, {human_bytes(self.size_bytes)} and {self.rows} rows are there"
        return (
            f"{self.target}: copied {human_bytes(self.moved_bytes)} in {self.seconds:.1f} s; "
            f"each of {self.rows} rows has its checksum"
        )

    def _json_fields(self) -> dict[str, Any]:
        return {**super()._json_fields(), "seconds": {"wall": self.seconds}}


def pull(
    url: str, out: str | os.PathLike[str], *, overwrite: bool = False, progress: ProgressOption = None
) -> Transfer:
    """Copy a cache from a URL to a file and check every row. An interrupted copy is continued.

    Parameters
    ----------
    url : str
        The cache.
    out : path-like
        The file to write.
    overwrite : bool, default False
        Replace an existing file when the copy is complete.
    progress : callable or bool, optional
        Called as progress(what, done, total); True shows a progress bar.

    Returns
    -------
    Transfer

    Raises
    ------
    RemoteIOError
        The URL cannot be read.
    CacheDamagedError, NotACacheError
        The file at the URL is damaged, or not a cache.
    OutputExistsError
        `out` is another file, or an unfinished extraction has its name.

    Examples
    --------
    >>> import tempfile
    >>> from featcache import FeatureCache, pull, push
    >>> folder = tempfile.mkdtemp()
    >>> _ = FeatureCache.from_arrays([[float(i)] for i in range(16)], ["cat", "dog"] * 8, f"{folder}/cache.h5")
    >>> push(f"{folder}/cache.h5", f"file://{folder}/store/cache.h5").rows
    16
    >>> pull(f"file://{folder}/store/cache.h5", f"{folder}/copy.h5").rows
    16
    """
    on_progress = as_callback(progress)
    timer, out = PhaseTimer(), Path(out)
    size, version = remote.stat(url)
    _refuse_unfinished(out)
    if out.exists():
        if not _is_other(out, url):
            return Transfer(url, str(out), _check(out, out, on_progress), size, 0, timer.seconds()["wall"])
        if not overwrite:
            raise OutputExistsError(
                f"{out} exists and is not {url}. Give another name, or replace it with --overwrite."
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f"{out.name}.{hashlib.sha256(version.encode()).hexdigest()[:8]}.pulled")
    with open_partial(draft) as file:
        if out.exists() and not _is_other(out, url):  # another process has pulled it meanwhile
            return Transfer(url, str(out), _check(out, out, on_progress), size, 0, timer.seconds()["wall"])
        report = partial(on_progress, "pull") if on_progress else None
        present = complete(file, partial(remote.byte_stream, url, size), report)
        try:
            rows = _check(draft, out, on_progress)
            _rename(draft, out, url, overwrite)
            return Transfer(url, str(out), rows, size, size - present, timer.seconds()["wall"])
        except OutputExistsError:
            raise
        except (FeatcacheError, FileNotFoundError) as error:
            all_downloaded_now = draft.exists() and not present
            draft.unlink(missing_ok=True)
            if all_downloaded_now:
                raise type(error)(str(error).replace(str(draft), url)) from error
    # The part that an earlier call downloaded may be damaged, or another process has renamed the draft.
    return pull(url, out, overwrite=overwrite, progress=on_progress)


def _rename(draft: Path, out: Path, url: str, overwrite: bool) -> None:
    """Give a pulled cache its name. Raises OutputExistsError if another file has got the name meanwhile."""
    with lock_folder(out.parent):
        if draft.exists() and out.exists() and not overwrite:
            raise OutputExistsError(
                f"another process has put another file at {out} meanwhile. It is unchanged, and {url} is whole in "
                f"{draft.name}. Give another name, or replace it with --overwrite."
            )
        os.replace(draft, out)
        fsync_folder(out.parent)


def push(
    cache: str | os.PathLike[str], url: str, *, overwrite: bool = False, progress: ProgressOption = None
) -> Transfer:
    """Check every row of a cache and copy it to a URL.

    Parameters
    ----------
    cache : path-like
        The cache file.
    url : str
        Where to write it, with the name of the file.
    overwrite : bool, default False
        Replace another file at the URL.
    progress : callable or bool, optional
        Called as progress("verify", done, total); True shows a progress bar.

    Returns
    -------
    Transfer

    Raises
    ------
    RemoteIOError
        The URL cannot be written, or is a folder.
    CacheDamagedError
        The cache is damaged; nothing was copied.
    OutputExistsError
        The URL is another file, or an unfinished extraction has its name.

    Examples
    --------
    See `pull`.
    """
    progress = as_callback(progress)
    timer, path = PhaseTimer(), Path(cache)
    if not posixpath.basename(url) or remote.is_folder(url):
        raise RemoteIOError(f"{url or 'an empty name'} is a folder. Give the file's name, too: .../{path.name}")
    if not remote.is_url(url):
        _refuse_unfinished(Path(url))
    rows, size = _check(path, path, progress), path.stat().st_size
    if not overwrite and _is_other(path, url):
        raise OutputExistsError(f"{url} exists and is not {path}. Give another name, or replace it with --overwrite.")
    remote.upload(path, url)
    if (remote_size := remote.stat(url)[0]) != size:
        raise CacheDamagedError(f"{url} has {remote_size:,} bytes, {path} has {size:,}. Push it again.")
    return Transfer(str(path), url, rows, size, size, timer.seconds()["wall"])


def _refuse_unfinished(target: Path) -> None:
    """Raise OutputExistsError if an unfinished extraction will get the name of the target."""
    if partial_path(target).exists():
        raise OutputExistsError(
            f"{partial_path(target)} is an unfinished extraction, which will become {target}. Finish it, or give "
            "another name."
        )


def _is_other(path: Path, url: str) -> bool:
    """Whether the file at the URL differs from this cache."""
    try:
        size, _ = remote.stat(url)
    except FileNotFoundError:
        return False
    with path.open("rb") as file:
        return path.stat().st_size != size or file.read(_HEAD_BYTES) != remote.read(url, 0, min(_HEAD_BYTES, size))


def _check(path: Path, name: Path, progress: Progress | None) -> int:
    """The number of rows. Raises CacheDamagedError unless all match their checksums."""
    cache = FeatureCache.open(path, damaged=True)
    n = len(cache.samples)
    damaged = damaged_rows(cache.layout, np.arange(n), (lambda done: progress("verify", done, n)) if progress else None)
    if len(damaged) or cache.problem:
        what = cache.problem or f"{len(damaged)} rows do not have their checksum"
        raise CacheDamagedError(
            f"{name} is damaged: {what}. Mend it where it was made, with `featcache verify {name.name} --repair DATA`."
        )
    return n
