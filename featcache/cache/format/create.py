"""`create_atomically`: a file to be, with room for all its rows, there as a whole or not at all."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from featcache._utils.files import FULL, fsync_folder, has_name, lock_folder, try_lock
from featcache._utils.report import human_bytes
from featcache.errors import CacheBusyError, CacheSpaceError


def create_atomically(path: Path, needed: int, write: Callable[[Path], None]) -> None:
    """Make the whole file under a name of its own, then give it its name: half a file never shows.

    Parameters
    ----------
    needed : its bytes, about. write : writes it, see `skeleton`.

    Raises CacheSpaceError.
    """
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise _no_room(path, needed, free)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with draft.open("wb", buffering=0) as file:
            if try_lock(file) is False or not has_name(
                file, draft
            ):  # while it is held, `remove_partial_files` leaves the draft alone
                raise CacheBusyError(f"another process begins to write {path}. Run the same command again.")
            _claim_space(path, file.fileno(), needed, needed)  # HDF5 kills the process where it finds no room
            write(draft)
            _claim_space(path, file.fileno(), draft.stat().st_size, needed)
            os.fsync(file.fileno())
            try:
                os.link(draft, path)
            except FileExistsError:  # another process was first; opening its file says so
                pass
            except OSError:  # a file system without hard links
                with lock_folder(path.parent):
                    if not path.exists():
                        os.replace(draft, path)
        fsync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def remove_partial_files(path: Path) -> None:
    """Remove the drafts of processes that were killed while they created this file."""
    for draft in path.parent.glob(f"{glob.escape(path.name)}.*"):
        if draft.name.removeprefix(f"{path.name}.").isdecimal():
            with suppress(OSError), draft.open("rb") as file:
                if try_lock(file):
                    draft.unlink()


def _claim_space(path: Path, descriptor: int, size: int, needed: int) -> None:
    """Take the blocks of the whole file now, where the file system can: hours later they would be another's."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno in FULL:
            raise _no_room(path, needed, shutil.disk_usage(path.parent).free) from error


def _no_room(path: Path, needed: int, free: int) -> CacheSpaceError:
    return CacheSpaceError(
        f"{path} will have {human_bytes(needed)}; {human_bytes(free)} are free in {path.parent.resolve()}, or a limit "
        "on file sizes is lower. Make room, choose another place, or ask for less, for example fewer --views."
    )
