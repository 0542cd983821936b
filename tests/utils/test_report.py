from __future__ import annotations

import json
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from featcache._utils.report import (
    PhaseTimer,
    Report,
    human_bytes,
    machine_info,
    package_versions,
    peak_memory_bytes,
    printable,
)
from featcache.metrics.classification import evaluate

VAL = evaluate(np.array([0, 1, 1, 1]), np.array([0, 1, 1, 0]), ("ants", "bees"))
TEST = evaluate(np.array([0, 1]), np.array([1, 1]), ("ants", "bees"))


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads that hand over so often that a lost update shows."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("eager_threads")
def test_no_second_is_lost_between_threads() -> None:
    watch = PhaseTimer()

    def work(own: str) -> None:
        for _ in range(2000):
            watch.add("shared", 0.5)
            watch.add(own, 0.25)

    threads = [threading.Thread(target=work, args=(f"own{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = watch.seconds()
    seconds.pop("wall")
    assert seconds == {"shared": 8000.0, **{f"own{number}": 500.0 for number in range(8)}}


def test_phases_add_up_and_wall_runs_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 101.0, 103.0, 110.0, 114.0, 120.0, 130.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    watch = PhaseTimer()
    for _ in range(2):
        with watch.phase("read"):
            pass
    assert watch.seconds() == {"read": 6.0, "wall": 20.0}
    assert watch.seconds() == {"read": 6.0, "wall": 30.0}


def test_a_phase_that_fails_is_timed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 4.0, 5.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    watch = PhaseTimer()
    with pytest.raises(KeyError), watch.phase("decode"):
        raise KeyError
    assert watch.seconds() == {"decode": 3.0, "wall": 5.0}


def test_a_report_is_json_with_the_val_accuracy_at_the_top() -> None:
    report = Report("linear", {"fit": 1.5, "wall": 2.0}, 6, VAL, TEST, size_bytes=10, spec_digest="ab", seed=3)
    fields = report.to_dict()
    assert json.loads(json.dumps(fields, allow_nan=False)) == fields
    assert next(iter(fields)) == "method"
    assert fields == {
        "method": "linear",
        **VAL.to_dict(),
        "seconds": {"fit": 1.5, "wall": 2.0},
        "images": 6,
        "test": TEST.to_dict(),
        "size_bytes": 10,
        "spec_digest": "ab",
        "seed": 3,
        "device": None,
        "precision": None,
        "peak_gpu_memory_bytes": None,
        "peak_memory_bytes": report.peak_memory_bytes,
        "machine": machine_info(),
        "versions": package_versions(),
    }
    assert fields["accuracy"] == 0.75


def test_a_report_without_accuracy_claims_none() -> None:
    fields = Report("extract", {"wall": 1.0}, 6).to_dict()
    assert json.loads(json.dumps(fields, allow_nan=False)) == fields
    assert not set(VAL.to_dict()) & set(fields)
    assert fields["test"] is fields["seed"] is fields["size_bytes"] is fields["spec_digest"] is None


def test_provenance_says_what_runs_here() -> None:
    found = package_versions()
    assert found["python"] == platform.python_version()
    assert found["numpy"] == np.__version__
    assert found["scikit-learn"] == version("scikit-learn")
    here = machine_info()
    assert here["system"] == platform.platform()
    assert 1 <= here["cores"] <= (os.cpu_count() or 1)
    assert here["processor"]


def test_peak_memory_is_in_bytes() -> None:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("no /proc here to compare with")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    resident = int(line.split()[1]) * 1024
    peak = peak_memory_bytes()
    assert peak is not None
    assert 0.9 * resident <= peak <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1536, "1.5 kB"),
        (18_400_000, "18.4 MB"),
        (2_000_000_000, "2.0 GB"),
        (3.25e12, "3.2 TB"),
        (1.5e15, "1500.0 TB"),
    ],
)
def test_human_bytes(count: float, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(("count", "text"), [(999_950, "1.0 MB"), (999_999_999, "1.0 GB"), (999.9, "1.0 kB")])
def test_human_bytes_that_round_up_to_a_thousand_take_the_next_unit(count: float, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("train/ants/é 1.jpg", "train/ants/é 1.jpg"),
        ("a\nb.jpg", r"a\nb.jpg"),
        ("\x1b[31m.jpg", r"\x1b[31m.jpg"),
        ("\udcff.jpg", r"\udcff.jpg"),
    ],
)
def test_names_are_printed_in_one_line(name: str, text: str) -> None:
    assert printable(name) == text
