"""`locked_folder`: one process works in a folder, so that the same command typed twice does its work once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featcache._utils import lock_files
from featcache._utils.files import has_name, try_lock
from featcache.errors import RunError

LOCK = "run.lock"


@contextmanager
def locked_folder(folder: Path, doing: str) -> Iterator[None]:
    """Hold a folder.

    Parameters
    ----------
    folder : Path
        It exists.
    doing : str
        What is done there, for the message: "trained".

    Raises
    ------
    RunError
        Another process holds it.
    """
    path, named = folder / LOCK, folder / f"{LOCK}.held"
    with path.open("ab") as file:
        locked = try_lock(file)
        free = lock_files.hold(named) if locked is None else locked and has_name(file, path)
        if not free:
            gone = f" If that process is gone, remove {named}." if locked is None else ""
            raise RunError(
                f"{folder} is being {doing} by another process. Wait until it ends, or give another folder.{gone}"
            )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            lock_files.release(named)
