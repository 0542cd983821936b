"""One writer a cache: a lock that dies with its process, and the name of who holds it.

Where the file system has no locks, a file NAME.lock beside it says who writes, see `lockfile`.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from featcache._utils import lock_files
from featcache._utils.files import has_name, try_lock
from featcache.cache.format.container import OWNER_BYTES, write_at
from featcache.errors import CacheBusyError


def acquire(path: Path, file: BinaryIO, owner_offset: int) -> None:
    """Lock an open file and write into its header who holds it. Raises CacheBusyError where another process does."""
    tries = 0
    while (locked := try_lock(file)) is False:  # a reader that asks whether the file is held holds it for a moment
        tries += 1
        if tries == 5:
            raise busy_error(path, owner_offset)
        time.sleep(0.02)
    if locked is None and not lock_files.hold(_lock_of(path)):
        raise CacheBusyError(
            f"{path} is being written by {lock_files.holder(_lock_of(path))}. Wait until it ends, or stop it; nothing "
            f"is lost. If that process is gone, remove {_lock_of(path)}."
        )
    if not has_name(file, path):
        lock_files.release(_lock_of(path))
        raise finished_error(path)
    command = " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
    text = f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M:%S')}: {command}"
    _write_owner(file, owner_offset, text.encode("utf-8", "replace"))


def release(path: Path, file: BinaryIO, owner_offset: int) -> None:
    """Take one's name out of the header; the lock ends with the open file. path : as `acquire` was given."""
    _write_owner(file, owner_offset, b"")
    lock_files.release(_lock_of(path))


def holder(path: Path, owner_offset: int) -> str:
    """Who writes this file, or wrote it last without an end; empty for a finished one."""
    with path.open("rb", buffering=0) as file:
        file.seek(owner_offset)
        return file.read(OWNER_BYTES).rstrip(b"\0").decode("utf-8", "replace")


def busy_error(path: Path, owner_offset: int) -> CacheBusyError:
    """The error that names the process which writes this file."""
    who = "another process"
    with suppress(FileNotFoundError):  # it has ended meanwhile
        who = holder(path, owner_offset) or who
    return CacheBusyError(f"{path} is being written by {who}. Wait until it ends, or stop it; nothing is lost.")


def finished_error(path: Path) -> CacheBusyError:
    """The error for a file that another process has given its last name meanwhile."""
    return CacheBusyError(f"{path} was finished by another process just now. Run the same command again.")


def is_held(path: Path) -> bool:
    """Whether a living process writes this file."""
    with path.open("rb", buffering=0) as file:
        locked = try_lock(file, shared=True)
    return lock_files.is_held(_lock_of(path)) if locked is None else not locked


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _write_owner(file: BinaryIO, owner_offset: int, text: bytes) -> None:
    write_at(file, owner_offset, text[:OWNER_BYTES].ljust(OWNER_BYTES, b"\0"))
