"""`pull` and `push`: caches that lie elsewhere, copied whole and checked; a pull goes on where it broke off."""

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
from featcache._utils.notebook import NotebookResult
from featcache._utils.progress_bar import Progress, ProgressOption, as_callback
from featcache._utils.timing import PhaseTimer
from featcache.cache.checksums import damaged_rows
from featcache.cache.feature_cache import FeatureCache, partial_path
from featcache.errors import CacheDamagedError, FeatcacheError, OutputExistsError, RemoteIOError

_HEAD = 65536  # bytes that tell caches apart: of the header and the tables


@dataclass(frozen=True, repr=False)
class Transfer(NotebookResult):
    """What `pull` or `push` did.

    moved_bytes : of size_bytes, what this call copied. rows : how many there are, all with their checksums.
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

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**vars(self), "seconds": {"wall": self.seconds}}


def pull(
    url: str, out: str | os.PathLike[str], *, overwrite: bool = False, progress: ProgressOption = None
) -> Transfer:
    """Copy a cache from a URL to the disk; what an earlier call has brought is not brought again.

    overwrite : replace another file that is at `out`, once the cache is there whole.

    Raises
    ------
    RemoteIOError. CacheDamagedError : what came is not what was written. OutputExistsError : `out` is another
    file, or an unfinished extraction has its name.
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
    """Copy a cache to a URL, after a look at every row.

    overwrite : replace another file that is at `url`.

    Raises
    ------
    RemoteIOError. CacheDamagedError : it is not what was written; nothing was copied. OutputExistsError : `url` is
    another file, or an unfinished extraction has its name.
    """
    progress = as_callback(progress)
    watch, path = PhaseTimer(), Path(cache)
    if not posixpath.basename(url) or remote.is_folder(url):
        raise RemoteIOError(f"{url or 'an empty name'} is a folder. Give the file's name, too: .../{path.name}")
    if not remote.is_url(url):
        _refuse_unfinished(Path(url))
    rows, size = _check(path, path, progress), path.stat().st_size
    if not overwrite and _is_other(path, url):
        raise OutputExistsError(f"{url} exists and is not {path}. Give another name, or replace it with --overwrite.")
    remote.upload(path, url)
    if (there := remote.stat(url)[0]) != size:
        raise CacheDamagedError(f"{url} has {there:,} bytes, {path} has {size:,}. Push it again.")
    return Transfer(str(path), url, rows, size, size, watch.seconds()["wall"])


def _refuse_unfinished(target: Path) -> None:
    """Raise OutputExistsError where an extraction is under way, or waits, that will have the target's name."""
    if partial_path(target).exists():
        raise OutputExistsError(
            f"{partial_path(target)} is an unfinished extraction, which will become {target}. Finish it, or give "
            "another name."
        )


def _is_other(path: Path, url: str) -> bool:
    """Whether another file than this cache is at the URL."""
    try:
        size, _ = remote.stat(url)
    except FileNotFoundError:
        return False
    with path.open("rb") as file:
        return path.stat().st_size != size or file.read(_HEAD) != remote.read(url, 0, min(_HEAD, size))


def _check(path: Path, name: Path, progress: Progress | None) -> int:
    """How many rows there are. Raises CacheDamagedError unless all have their checksums."""
    cache = FeatureCache.open(path, damaged=True)
    n = len(cache.samples)
    damaged = damaged_rows(cache.layout, np.arange(n), (lambda done: progress("verify", done, n)) if progress else None)
    if len(damaged) or cache.problem:
        what = cache.problem or f"{len(damaged)} rows do not have their checksum"
        raise CacheDamagedError(
            f"{name} is damaged: {what}. Mend it where it was made, with `featcache verify {name.name} --repair DATA`."
        )
    return n
