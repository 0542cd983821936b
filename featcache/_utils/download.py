"""Resumable downloads: several processes may download the same file, and a download that stopped is continued."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from featcache._utils.files import fsync_folder
from featcache._utils.locks import has_name, wait_for_lock
from featcache.errors import RemoteIOError


class ByteStream(NamedTuple):
    """The bytes of a file from an offset on.

    Attributes
    ----------
    start : int
        The offset of the first byte. It is 0 if a server cannot send a part of a file.
    total : int or None
        Bytes of the whole file. None if the server does not send it.
    chunks : iterable of bytes
        The bytes from `start` on.
    """

    start: int
    total: int | None
    chunks: Iterable[bytes]


@contextmanager
def open_partial(path: Path) -> Iterator[BinaryIO]:
    """Open a partial download, or create it, after waiting for another process that works on it.

    If the other process has completed and renamed the file meanwhile, an empty file is opened; so check first whether
    the download is complete. An empty file is removed at the end.

    Parameters
    ----------
    path : Path
        The partial download. Its name must depend on the version of the remote file: the content of equal names is
        equal.

    Yields
    ------
    BinaryIO
        The file. On file systems without locks, several processes may write it at once.
    """
    while True:
        with open(path, "r+b", buffering=0, opener=_open_or_create) as file:
            wait_for_lock(file)
            if not has_name(file, path):
                continue
            try:
                yield file
            finally:
                if not os.fstat(file.fileno()).st_size and has_name(file, path):
                    path.unlink(missing_ok=True)
            return


def complete(
    file: BinaryIO, read_from: Callable[[int], ByteStream], on_progress: Callable[[int, int], None] | None = None
) -> int:
    """Add the missing bytes to a partial download and flush it to the disk.

    Each byte is written at its own offset. Two processes that write the same file, on a file system without locks,
    therefore write equal bytes to equal places.

    Parameters
    ----------
    file : BinaryIO
        See `open_partial`.
    read_from : callable
        Takes an offset and returns the remote bytes from there on.
    on_progress : callable, optional
        Called as on_progress(present, total), in bytes, after each chunk. An unknown total is 0.

    Returns
    -------
    int
        Bytes that were present before.

    Raises
    ------
    RemoteIOError
        The stream ended too early. What has arrived is kept.
    """
    size = os.fstat(file.fileno()).st_size
    position, total, chunks = read_from(size)
    present = min(position, size)
    file.seek(present)
    for chunk in chunks:
        rest = memoryview(chunk)
        while rest:
            rest = rest[file.write(rest) :]
        position += len(chunk)
        if on_progress:
            on_progress(position, total or 0)
    if total is not None and os.fstat(file.fileno()).st_size > total:
        file.truncate(total)
    if total is not None and position < total:
        raise RemoteIOError(f"the connection broke off after {position} of {total} bytes")
    os.fsync(file.fileno())
    return present


def publish(partial: Path, path: Path) -> None:
    """Give a complete download its name. Another process may have done so already."""
    with suppress(FileNotFoundError):
        os.replace(partial, path)
    if not path.exists():
        raise RemoteIOError(f"{partial} was removed during its download. Run the same command again.")
    fsync_folder(path.parent)


def _open_or_create(path: str, _flags: int) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
