"""An output that cannot be written is refused before any work: here before the data or the network is looked at."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from featcache._utils.environment import check_writable
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
