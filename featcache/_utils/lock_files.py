"""Lock files: who writes, for file systems that have no locks, such as some network disks and containers.

A lock file names the host and the process. It is taken over where the process was one of this machine and has ended. Of
another machine that cannot be known: there the owner removes the file.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from featcache._utils.regular_files import parse_json
from featcache.errors import NoLocksWarning


def hold(path: Path) -> bool:
    """Make a lock file, unless a process that may still work has made it.

    Parameters
    ----------
    path : Path
        The lock file.

    Returns
    -------
    bool
        Whether this process holds it now. Then a NoLocksWarning is given.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    mine = json.dumps({"host": platform.node(), "pid": os.getpid(), "started": _started(os.getpid()), **_who()})
    while True:
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            content = _content(path)
            if _may_work(content):
                return False
            _take_away(path, content)
            continue
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(mine)
        warnings.warn(f"{path.parent} has no file locks: {path.name} says who writes there", NoLocksWarning, 3)
        return True


def release(path: Path) -> None:
    """Remove a lock file that this process holds; leave any other.

    Parameters
    ----------
    path : Path
        The lock file. It need not exist.
    """
    found = _fields(_content(path))
    if (found.get("host"), found.get("pid")) == (platform.node(), os.getpid()):
        path.unlink(missing_ok=True)


def is_held(path: Path) -> bool:
    """Whether there is a lock file of a process that may still work.

    Parameters
    ----------
    path : Path
        The lock file.

    Returns
    -------
    bool
    """
    return path.exists() and _may_work(_content(path))


def holder(path: Path) -> str:
    """Who holds a lock file, for a message.

    Parameters
    ----------
    path : Path
        The lock file.

    Returns
    -------
    str
        Such as "process 7 on host since 2026-01-31 12:00:00: featcache extract photos".
    """
    found = _fields(_content(path))
    who = f"process {found.get('pid')} on {found.get('host')} since {found.get('since')}: {found.get('command')}"
    return who if found else "another process"


def _who() -> dict[str, str]:
    command = " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
    return {"since": time.strftime("%Y-%m-%d %H:%M:%S"), "command": command[:500]}


def _may_work(content: str) -> bool:
    """Whether the process of a lock file may still work: on another machine it may, here it is looked for."""
    found = _fields(content)
    if found.get("host") != platform.node() or not isinstance(found.get("pid"), int):
        return True  # what is not written whole yet has no host
    try:
        os.kill(found["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is of another user
        pass
    except OverflowError:  # no process has this number: the file is damaged
        return True
    return found.get("started") in ("", _started(found["pid"]))  # else the number was given to another process


def _started(pid: int) -> str:
    """When a process of this machine began, in ticks since the machine did; "" where the system does not tell."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    return ""


def _take_away(path: Path, content: str) -> None:
    """Remove the lock file of a process that has ended; put it back where another process was faster."""
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        os.rename(path, aside)
        if _content(aside) != content:
            with suppress(OSError):
                os.link(aside, path)
        aside.unlink()


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _fields(content: str) -> dict[str, Any]:
    with suppress(ValueError):
        found = parse_json(content)
        if isinstance(found, dict):
            return found
    return {}
