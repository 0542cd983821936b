"""An output that cannot be written is refused before any work: here before the data or the network is looked at."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from commands import in_process
from featcache._utils.environment import check_writable, machine_info, package_versions, peak_memory_bytes, usable_cores
from featcache.analysis.benchmark.compare import benchmark
from featcache.errors import FeatcacheError, OutputError
from featcache.extraction.extract import extract
from featcache.finetuning.finetune import finetune
from featcache.heads.fit_head import fit_head

PROC = Path("/proc")

needs_proc = pytest.mark.skipif(not PROC.is_dir(), reason="there is no folder that nobody can write into")


@pytest.mark.parametrize("place", ["c.h5", "new/c.h5", "new/and/newer/c.h5"])
def test_a_place_that_can_be_written_stays_as_it_was(tmp_path: Path, place: str) -> None:
    check_writable(tmp_path / place)
    assert list(tmp_path.iterdir()) == []


def test_a_file_on_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError) as caught:
        check_writable(tmp_path / "file/new/c.h5")
    assert str(caught.value).startswith(
        f"{tmp_path / 'file/new/c.h5'} cannot be written: {tmp_path / 'file'} is not a folder."
    )
    assert isinstance(caught.value, OSError)


@needs_proc
def test_a_folder_that_cannot_be_written_is_named() -> None:
    with pytest.raises(OutputError, match=r"^/proc/c.h5 cannot be written: "):
        check_writable(PROC / "c.h5")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        check_writable(tmp_path / "locked/c.h5")


WORK: list[Callable[[Path], object]] = [
    lambda out: extract("nowhere", out, backbone="no such network"),
    lambda out: finetune("nowhere", out, backbone="no such network"),
    lambda out: fit_head("nowhere.h5", out),
    lambda out: benchmark("nowhere", out, backbone="no such network"),
]


@needs_proc
@pytest.mark.parametrize("work", WORK, ids=["extract", "finetune", "fit-head", "benchmark"])
def test_every_work_is_refused_first(work: Callable[[Path], object]) -> None:
    with pytest.raises(FeatcacheError, match=r"/proc/featcache-out.* cannot be (written|made)"):
        work(PROC / "featcache-out")


_FAULTS = """
import os, resource, sys
os.environ["NUMPY_MADVISE_HUGEPAGE"] = "0"  # huge pages would hide the faults
import numpy as np
from featcache._utils.environment import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(20):
    np.ones(2**23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def faults(how: str) -> int:
    return int(in_process(_FAULTS, how).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_blocks_are_used_again_without_page_faults() -> None:
    assert faults("keep") < faults("give back") / 2


def test_provenance_says_what_runs_here() -> None:
    package_versions()["numpy"] = "changed by its caller"
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
    ("content", "expected"), [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 8), ("", 8), (None, 8)]
)
def test_a_containers_share_of_the_cores_counts(
    content: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_text(*_: object, **__: object) -> str:
        if content is None:
            raise FileNotFoundError
        return content

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(Path, "read_text", read_text)
    assert usable_cores() == expected
