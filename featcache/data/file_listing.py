"""Image files: found below folders, named on a stream, and hashed."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.progress_bar import Progress
from featcache._utils.regular_files import MAX_IMAGE, open_regular, too_large
from featcache.data.file_types import describe_ignored, why_no_image
from featcache.data.image_names import is_image_name
from featcache.data.sources.foreign_folders import keep_data_folders
from featcache.errors import DataLayoutError, EmptyFolderError, RemoteIOError

_HASHED_AT_ONCE = 64  # a task for each file would cost more time and memory than small files themselves
_CHUNK = 1 << 20


def list_images(folder: Path) -> list[Path]:
    """The images under a folder, sorted; hidden files and other files are passed over."""
    return sorted(walk(folder, Counter()))


def find_images(
    patterns: Iterable[str], missing: dict[str, str] | None = None, ignored: Counter[str] | None = None
) -> list[Path]:
    """The images that files, folders and glob patterns name, in that order.

    missing : takes the names without an image and the reason, unless no name has one; then, and where it is None,
        the first is an EmptyFolderError.
    ignored : counts what is passed over, by reason.
    """
    found: list[Path] = []
    lacking: dict[str, str] = {}
    for pattern in patterns:
        path, passed_over = Path(pattern), Counter[str]()
        if path.is_dir():
            images = sorted(walk(path, passed_over))
        elif path.is_file():
            images = [path]
        else:
            files = [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).is_file()]
            images = [file for file in files if is_image_name(file)]
            passed_over.update(why_no_image(file) for file in files if not is_image_name(file))
        if not images:
            reason = f"no such file, or a folder or pattern without images{describe_ignored(passed_over)}"
            lacking[pattern] = reason
        elif ignored is not None:
            ignored.update(passed_over)
        found += images
    if lacking and (missing is None or not found):
        name, reason = next(iter(lacking.items()))
        more = f" (and {len(lacking) - 1} other names do not either)" if len(lacking) > 1 else ""
        raise EmptyFolderError(f"{name} names no image: {reason}{more}.")
    if missing is not None:
        missing |= lacking
    return found


def read_names(stream: Any, end: bytes = b"\n") -> Iterator[str]:
    """File names as they come on a stream, each ended by a newline, or by NUL as of `find -print0`.

    stream : binary and buffered, as sys.stdin.buffer is. Raises DataLayoutError for a line with NUL in it.
    """
    for name in _split(stream, end):
        if b"\0" in name:
            raise DataLayoutError("the names on stdin have NUL characters in them; find -print0 needs -0 here.")
        if name:
            yield os.fsdecode(name)


def _split(stream: Any, end: bytes) -> Iterator[bytes]:
    rest = b""
    while block := stream.read1(_CHUNK):  # what is there: `read` would wait for more
        *whole, rest = (rest + block).split(end)
        yield from whole
    yield rest


def walk(folder: Path, ignored: Counter[str]) -> Iterator[Path]:
    """Image files below a folder; links are followed, but none that leads back up or to where we were."""
    top = os.path.realpath(folder)
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_unreadable_folder):
        real = os.path.realpath(place)
        if real in seen or top.startswith(os.path.join(real, "")):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = keep_data_folders(folders, partial(_holds, place), ignored)
        for name in sorted(files):
            path = Path(place, name)
            if name.startswith("."):
                ignored["hidden"] += 1
            elif not is_image_name(path):
                ignored[why_no_image(path)] += 1
            elif not path.is_file():
                ignored["not a regular file"] += 1
            else:
                yield path


def _holds(place: str, folder: str, name: str) -> bool:
    """Whether a folder in a place holds something of this name."""
    return os.path.lexists(os.path.join(place, folder, name))


def _unreadable_folder(error: OSError) -> None:
    raise DataLayoutError(f"{error.filename} cannot be read: {error.strerror}") from error


def hash_file(path: str) -> bytes:
    """SHA-256 of an image file, read in pieces. Raises OSError where `read_regular` does."""
    found = hashlib.sha256()
    with open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > MAX_IMAGE:  # it is not read either
            raise OSError(errno.EFBIG, too_large(size, MAX_IMAGE), path)
        while block := file.read(_CHUNK):
            found.update(block)
    return found.digest()


def hash_all(
    digest: Callable[[str], bytes], names: Sequence[str], progress: Progress | None = None, threads: int | None = None
) -> NDArray[np.uint8]:
    """The digest of each name, 32 bytes, in threads: shape (n, 32), uint8.

    What cannot be read hashes as its name, and is skipped later. Raises RemoteIOError where a connection is lost.
    """

    ended = Event()

    def hashed(name: str) -> bytes:
        if ended.is_set():
            raise InterruptedError
        try:
            return digest(name)
        except RemoteIOError:
            raise
        except OSError:
            return hashlib.sha256(os.fsencode(name)).digest()

    def hashed_some(start: int) -> list[bytes]:
        return [hashed(name) for name in names[start : start + _HASHED_AT_ONCE]]

    rows: list[bytes] = []
    pool = ThreadPoolExecutor(threads)  # hashing and reading release the GIL
    try:
        for some in pool.map(hashed_some, range(0, len(names), _HASHED_AT_ONCE)):
            rows += some
            if progress:
                progress("hash", len(rows), len(names))
    finally:
        ended.set()  # after a signal nobody waits for the others
        pool.shutdown(cancel_futures=True)
    return np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(-1, 32)
