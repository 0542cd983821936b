"""A lock for the writer of a cache. It ends with the process, and the header names the process that holds it.

On file systems without locks, a file NAME.lock in the same folder names the writer, see `LockFile`.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from featcache._utils.locks import LockFile, current_process, describe_process, has_name, try_lock
from featcache.cache.format.container import OWNER_BYTES, write_at
from featcache.errors import CacheBusyError


def acquire(path: Path, file: BinaryIO, owner_offset: int) -> None:
    """Lock an open file and write the holder into its header. Raises CacheBusyError if another process holds it."""
    tries = 0
    while (locked := try_lock(file)) is False:  # `is_held` of a reader locks the file for a moment
        tries += 1
        if tries == 5:
            raise busy_error(path, owner_offset)
        time.sleep(0.02)
    lock_file = _lock_file(path)
    if locked is None and not lock_file.acquire():
        raise CacheBusyError(
            f"{path} is being written by {lock_file.holder()}. Wait until it ends, or stop it; nothing "
            f"is lost. If that process is gone, remove {lock_file.path}."
        )
    if not has_name(file, path):
        lock_file.release()
        raise finished_error(path)
    _write_owner(file, owner_offset, describe_process(current_process()).encode("utf-8", "replace"))


def release(path: Path, file: BinaryIO, owner_offset: int) -> None:
    """Clear the holder in the header; the lock ends when the file is closed. path : the one given to `acquire`."""
    _write_owner(file, owner_offset, b"")
    _lock_file(path).release()


def holder(path: Path, owner_offset: int) -> str:
    """The process that writes this file, or was killed while it did; empty for a finished file."""
    with path.open("rb", buffering=0) as file:
        file.seek(owner_offset)
        return file.read(OWNER_BYTES).rstrip(b"\0").decode("utf-8", "replace")


def busy_error(path: Path, owner_offset: int) -> CacheBusyError:
    """The error that names the process which writes this file."""
    who = "another process"
    with suppress(FileNotFoundError):  # that process has finished the file meanwhile
        who = holder(path, owner_offset) or who
    return CacheBusyError(f"{path} is being written by {who}. Wait until it ends, or stop it; nothing is lost.")


def finished_error(path: Path) -> CacheBusyError:
    """The error for a file that another process has finished and renamed meanwhile."""
    return CacheBusyError(f"{path} was finished by another process just now. Run the same command again.")


def is_held(path: Path) -> bool:
    """Whether a running process writes this file."""
    with path.open("rb", buffering=0) as file:
        locked = try_lock(file, shared=True)
    return _lock_file(path).is_held() if locked is None else not locked


def _lock_file(path: Path) -> LockFile:
    return LockFile(path.with_name(f"{path.name}.lock"))


def _write_owner(file: BinaryIO, owner_offset: int, text: bytes) -> None:
    write_at(file, owner_offset, text[:OWNER_BYTES].ljust(OWNER_BYTES, b"\0"))
