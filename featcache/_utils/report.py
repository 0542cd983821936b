"""`PhaseTimer` and `Report`: what a run cost and what it reached."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import math
import os
import platform
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featcache.metrics.classification import Accuracy
    from featcache.metrics.multilabel import LabelAccuracy

Pairs = Sequence[tuple[str, str]]

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


class PhaseTimer:
    """Adds up seconds by phase, from any thread.

    Phases that run in worker threads (read, decode, view) overlap with those of the main thread, so the sum of
    the phases can exceed `wall`.
    """

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what happens inside as this phase."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - started)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds to a phase."""
        with self._lock:
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def seconds(self) -> dict[str, float]:
        """Seconds by phase, and `wall`, the seconds since the watch was made."""
        with self._lock:
            return {**self._seconds, "wall": time.perf_counter() - self._started}


@dataclass(frozen=True)
class Report:
    """What one run cost and reached.

    seconds : by phase and `wall`. In the main thread: start, convert, hash, forward (waiting for the network),
    write, fit, train, data (waiting for images), evaluate. Summed over the threads that run beside it: read,
    decode, view.
    images : images worked on. size_bytes : size of the file written, if any.
    device, precision : where and in what the network computed, if one did. peak_memory_bytes : highest resident
    memory of the process so far; peak_gpu_memory_bytes : the most that PyTorch held on the GPU, None without one.
    """

    method: str
    seconds: dict[str, float]
    images: int
    accuracy: Accuracy | LabelAccuracy | None = None
    test: Accuracy | LabelAccuracy | None = None
    size_bytes: int | None = None
    spec_digest: str | None = None
    seed: int | None = None
    device: str | None = None
    precision: str | None = None
    peak_gpu_memory_bytes: int | None = field(default_factory=lambda: peak_gpu_memory_bytes())
    peak_memory_bytes: int | None = field(default_factory=lambda: peak_memory_bytes())
    machine: dict[str, Any] = field(default_factory=lambda: machine_info())
    versions: dict[str, str] = field(default_factory=lambda: package_versions())

    def to_dict(self) -> dict[str, Any]:
        """JSON values; the val accuracy's fields stand at the top level."""
        fields = asdict(self)
        accuracy = self.accuracy.to_dict() if self.accuracy else {}
        fields.pop("accuracy")
        fields["test"] = self.test.to_dict() if self.test else None
        return {"method": fields.pop("method"), **accuracy, **fields}


def peak_memory_bytes() -> int | None:
    """Highest resident memory of this process in bytes; None where the system does not tell."""
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


def peak_gpu_memory_bytes() -> int | None:
    """The most bytes of GPU memory that PyTorch has held; None where it is not imported or has no GPU."""
    torch = sys.modules.get("torch")
    return torch.cuda.max_memory_allocated() if torch and torch.cuda.is_initialized() else None


def machine_info() -> dict[str, Any]:
    """Processor, cores that this process may use, system."""
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
    """Versions of Python and of the packages that matter, without importing them."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def json_safe(value: Any) -> Any:
    """The same JSON value with None for NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {name: json_safe(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def printable(name: str) -> str:
    """A file name as one line: control characters and bytes that are no text are escaped, as Python writes them."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in name)


def csv_row(values: Sequence[str]) -> str:
    """A line of CSV; \r in a value is quoted, as csv does where it ends a line, too.

    A cell that a spreadsheet would run, as it begins with = + - @ or a control character and is no number, gets a
    single quote before it, which marks a text there. `plain_cell` takes it away again.
    """
    text = io.StringIO()
    csv.writer(text).writerow([f"'{value}" if _runs(value) else value for value in values])
    return text.getvalue().removesuffix("\r\n") + "\n"


def plain_cell(cell: str) -> str:
    """The text that `csv_row` was given, of a cell.

    Parameters
    ----------
    cell : str
        As csv reads it.

    Returns
    -------
    str
        Without the single quote before a text that a spreadsheet would run.
    """
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _runs(value: str) -> bool:
    if not _FORMULA.match(value):
        return False
    try:
        float(value)
    except ValueError:
        return True
    return not value.isascii() or value != value.strip()


# Single quotes of the user's own, too, so that no two texts are written alike.
_FORMULA = re.compile("'*[=+\\-@\\t\\r\\n\uff1d\uff0b\uff0d\uff20]")


_REMARKS = {
    "first of several pages": ("has several pages; the first is used", "have several pages; the first is used"),
    "first of several frames": ("has several frames; the first is used", "have several frames; the first is used"),
    "dark, as it uses few of its bits": (
        "is dark, as it uses few of its bits",
        "are dark, as they use few of their bits",
    ),
}
"""What is said of one image and of several, where it is not "is" or "are" and the remark."""

_OF_THE_RANGE = ("nearly black", "clipped by the value range", "dark, as it uses few of its bits")


def split_remark(remark: str) -> list[str]:
    """The single remarks on an image, see `images.Decoded`."""
    return remark.split("; ") if remark else []


def remark_notes(remarks: Pairs, hint: str = "see --value-range") -> list[str]:
    """Images that are odd, pairs (id, what is odd): a line a kind, with the count and the first name.

    hint : what helps where the range of values is not theirs.
    """
    names: dict[str, list[str]] = {}
    for name, remark in remarks:
        for one in split_remark(remark):
            names.setdefault(one, []).append(name)
    lines = []
    for remark, some in names.items():
        of_one, of_several = _REMARKS.get(remark, (f"is {remark}", f"are {remark}"))
        told = f"1 image {of_one}" if len(some) == 1 else f"{len(some)} images {of_several}"
        example = f" (for example {printable(some[0])})" if some[0] else ""
        lines.append(f"{told}{example}{f': {hint}' if remark in _OF_THE_RANGE else ''}")
    return lines


def human_bytes(count: float) -> str:
    """1536 -> '1.5 kB'; units of 1000, as disks are sold."""
    if round(count) < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if round(count, 1) < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"


def human_duration(seconds: float) -> str:
    """13.4 -> '13 seconds', 540 -> '9 minutes': seconds under two minutes, minutes under two hours, then hours."""
    for unit, length, most in (("second", 1, 120), ("minute", 60, 120), ("hour", 3600, 48), ("day", 86400, math.inf)):
        text = f"{seconds / length:.1f}".removesuffix(".0") if seconds < 9.95 * length else f"{seconds / length:.0f}"
        if float(text) < most:
            return f"{text} {unit}" if text == "1" else f"{text} {unit}s"
    raise ValueError(f"{seconds} seconds is no duration")
