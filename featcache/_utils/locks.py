"""Locks between processes: those of the system, and lock files where a file system has none.

Locks of the system end with the process. Some network disks and containers have none. There a lock file names the host
and the process that holds it. A lock file of a process of this host that has ended is taken over. Whether a process of
another host still runs cannot be known, so its lock file stays until somebody removes it.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from featcache._utils.regular_files import parse_json
from featcache.errors import NoLocksWarning, RunError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

RUN_LOCK = "run.lock"
"""Name of the file in a folder that `exclusive_folder` locks."""

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
_MAX_COMMAND = 500  # characters


def try_lock(file: IO[Any] | int, shared: bool = False) -> bool | None:
    """Lock an open file without waiting. The lock ends when the file is closed.

    Parameters
    ----------
    file : file object or int
        The open file, or the descriptor of a file or a folder.
    shared : bool, default False
        Allow other shared locks at the same time.

    Returns
    -------
    bool or None
        Whether this process has the lock. None if the system or the file system has no locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True


def wait_for_lock(file: IO[Any]) -> None:
    """Lock an open file, after waiting for other processes. The lock ends when the file is closed.

    Parameters
    ----------
    file : file object
        The open file. Without locks of the file system, the function returns at once.
    """
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)


@contextmanager
def lock_folder(folder: Path, shared: bool = False) -> Iterator[None]:
    """Hold the lock of a folder, after waiting for other processes.

    Parameters
    ----------
    folder : Path
        The folder. If it does not exist or its file system has no locks, nothing is locked.
    shared : bool, default False
        Allow other shared locks at the same time.
    """
    with ExitStack() as stack:
        if fcntl is not None:
            with suppress(OSError):
                descriptor = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


def has_name(file: IO[Any], path: Path) -> bool:
    """Whether an open file still has this name.

    Parameters
    ----------
    file : file object
        The open file.
    path : Path
        The name that it had when it was opened.

    Returns
    -------
    bool
        False if another process has removed, renamed or replaced the file.
    """
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def exclusive_folder(folder: Path, activity: str) -> Iterator[None]:
    """Hold a folder, so that the same command started twice does its work once.

    Parameters
    ----------
    folder : Path
        An existing folder.
    activity : str
        What happens there, for the message: "trained".

    Raises
    ------
    RunError
        Another process holds the folder.
    """
    path, lock_file = folder / RUN_LOCK, LockFile(folder / f"{RUN_LOCK}.held")
    with path.open("ab") as file:
        locked = try_lock(file)
        free = lock_file.acquire() if locked is None else locked and has_name(file, path)
        if not free:
            cure = f" If that process is gone, remove {lock_file.path}." if locked is None else ""
            raise RunError(
                f"{folder} is being {activity} by another process. Wait until it ends, or give another folder.{cure}"
            )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            lock_file.release()


class LockFile:
    """A file that names the process which holds it.

    Parameters
    ----------
    path : Path
        The lock file. It exists while a process holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def acquire(self) -> bool:
        """Create the file, unless a process that may still run holds it.

        Returns
        -------
        bool
            Whether this process holds the file now. If so, a NoLocksWarning is issued.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        fields = {**current_process(), "started": _start_ticks(os.getpid())}
        while True:
            try:
                descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                content = _read(self.path)
                if _may_run(_parse(content)):
                    return False
                self._remove_stale(content)
                continue
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(json.dumps(fields))
            warnings.warn(
                f"{self.path.parent} has no file locks: the file {self.path.name} names the writing process",
                NoLocksWarning,
                3,
            )
            return True

    def release(self) -> None:
        """Remove the file if this process holds it; leave the file of any other process."""
        fields = _parse(_read(self.path))
        if (fields.get("host"), fields.get("pid")) == (platform.node(), os.getpid()):
            self.path.unlink(missing_ok=True)

    def is_held(self) -> bool:
        """Whether a process that may still run holds the file."""
        return self.path.exists() and _may_run(_parse(_read(self.path)))

    def holder(self) -> str:
        """The process that holds the file, for a message, see `describe_process`."""
        fields = _parse(_read(self.path))
        return describe_process(fields) if fields else "another process"

    def _remove_stale(self, content: str) -> None:
        """Remove the file of an ended process; put it back if another process has replaced it meanwhile."""
        aside = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        with suppress(FileNotFoundError):
            os.rename(self.path, aside)
            if _read(aside) != content:
                with suppress(OSError):
                    os.link(aside, self.path)
            aside.unlink()


def current_process() -> dict[str, Any]:
    """Host, number, time and command of this process."""
    command = " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"host": platform.node(), "pid": os.getpid(), "since": since, "command": command[:_MAX_COMMAND]}


def describe_process(fields: Mapping[str, Any]) -> str:
    """`current_process` as text: "process 7 on host since 2026-01-31 12:00:00: featcache extract photos"."""
    return f"process {fields.get('pid')} on {fields.get('host')} since {fields.get('since')}: {fields.get('command')}"


def _may_run(fields: Mapping[str, Any]) -> bool:
    """Whether the process of a lock file may still run. Processes of this host are checked; others may."""
    if fields.get("host") != platform.node() or not isinstance(fields.get("pid"), int):
        return True  # a file that is still being written has no host
    try:
        os.kill(fields["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # a process of another user
        pass
    except OverflowError:  # no process has this number: the file is damaged
        return True
    return fields.get("started") in ("", _start_ticks(fields["pid"]))  # else another process has the number now


def _start_ticks(pid: int) -> str:
    """When a process of this host started, in clock ticks since boot; "" if the system does not provide it."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _parse(content: str) -> dict[str, Any]:
    with suppress(ValueError):
        fields = parse_json(content)
        if isinstance(fields, dict):
            return fields
    return {}
