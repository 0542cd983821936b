"""The machine and the process: folders, cores, memory, package versions."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from featcache.errors import FeatcacheError, MissingExtraError, OutputError

_PACKAGES = (
    "featcache",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "h5py",
    "scikit-learn",
    "pillow",
    "simplejpeg",
    "openvino",
    "zlib-ng",
)
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/featcache, or ~/.cache/featcache. Raises FeatcacheError if the user has no home folder."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:  # in a container, under a user number without a name
        raise FeatcacheError(
            "this user has no home folder that files could be kept in. Set XDG_CACHE_HOME to a folder that can be "
            "written."
        ) from error
    return Path(base) / "featcache"


def check_packages(what: str, packages: Sequence[str], extra: str) -> None:
    """Raise MissingExtraError if a package is not installed. extra : that installs it, "" for one of another package.

    what : needs the packages, in the message.
    """
    for package in packages:
        if find_spec(package) is None:
            if extra:
                raise MissingExtraError.for_package(package, extra)
            raise MissingExtraError(f"{what} needs {package}, which is not installed. Install it.")


def check_writable(path: Path) -> None:
    """Raise OutputError if a file cannot be written, before the work that makes it. Nothing is created.

    Folders above it may be missing; then the nearest existing folder must be writable.
    """
    import tempfile  # 1 ms, which `--help` does not wait for

    folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    try:
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{folder} is not a folder")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError.from_os_error(error, path) from error


def peak_memory_bytes() -> int | None:
    """Highest resident memory of this process, in bytes; None if the system does not report it."""
    try:  # Linux: getrusage would count what the parent had before this program was started
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def available_memory_bytes() -> float:
    """Memory that this process may still take, in bytes; infinity if the system does not report it."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            free = next(float(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return float("inf")
    try:  # the limit of a container
        limit, used = (
            Path("/sys/fs/cgroup", name).read_text(encoding="ascii").strip()
            for name in ("memory.max", "memory.current")
        )
        return free if limit == "max" else min(free, float(limit) - float(used))
    except (OSError, ValueError):
        return free


def peak_gpu_memory_bytes() -> int | None:
    """Highest memory of PyTorch on one GPU, in bytes, of all GPUs; None if PyTorch is not imported or uses no GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return max(torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count()))


def machine_info() -> dict[str, Any]:
    """Name of the processor, cores that this process may use, and the system."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": _processor(), "cores": cores, "system": platform.platform()}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def package_versions() -> dict[str, str]:
    """Versions of Python and of the main packages, without importing them."""
    return {"python": platform.python_version(), **_installed_versions()}


@cache
def _installed_versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version  # 25 ms, which `--help` does not wait for

    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def keep_freed_memory() -> None:
    """Let glibc reuse freed blocks up to 1 GB instead of returning each to the system, which zeroes it anew.

    Of 30.6 s for 1,373 views, 11 core-seconds went into page faults; with it 24.7 s and 1.3 (2 cores). The peak
    of memory rose from 1.47 to 1.59 GB. It is a setting of the whole process, so programs call it, not the library.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    mallopt(_MMAP_THRESHOLD, 2**30)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def usable_cores() -> int:
    """Cores that this process may use, also within the limit of a container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or "max"
        return cores
