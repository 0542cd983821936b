"""atomic_write: the old file or the new one, whole, whatever happens in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from commands import PATHS
from featcache._utils.files import atomic_write, deferred_errors, draft_folder, name_draft, text_output, write_file
from featcache.errors import DataLayoutError, OutputError
from limits import file_size_limit


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_full_disk_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    write_file(path, b"old")
    with file_size_limit(1000), pytest.raises(OutputError) as caught:
        write_file(path, b"x" * 5000)
    assert str(caught.value) == (
        f"{path} cannot be written: it is larger than the limit on file sizes. Raise the limit (`ulimit -f`), or "
        "choose another place. Nothing was changed there."
    )
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["figures.json"]


def test_an_error_within_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    write_file(path, b"old")

    def stopped() -> None:
        with atomic_write(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["figures.json"]


def test_an_error_of_another_file_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"other\.csv"), atomic_write(tmp_path / "figures.json"):
        (tmp_path / "other.csv").read_bytes()


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"/none does not exist\. Make it first, or choose another place"):
        write_file(tmp_path / "none" / "figures.json", b"new")


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_the_file_has_the_permissions_that_the_umask_gives(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_file(tmp_path / "figures.json", b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "figures.json").stat().st_mode & 0o777 == 0o666 & ~umask


_KILLED = """
import os, signal, sys
from featcache._utils import files
replace = os.replace
def killed(draft, path):
    if sys.argv[2] == "after":
        replace(draft, path)
    os.kill(os.getpid(), signal.SIGKILL)
files.os.replace = killed
files.write_file(sys.argv[1], b"new")
"""


@pytest.mark.parametrize(("moment", "content"), [("before", b"old"), ("after", b"new")])
def test_a_kill_leaves_a_whole_file_and_the_next_write_removes_the_draft(
    tmp_path: Path, moment: str, content: bytes
) -> None:
    path = tmp_path / "figures.json"
    write_file(path, b"old")
    ran = subprocess.run(
        [sys.executable, "-c", _KILLED, path, moment], env={**os.environ, "PYTHONPATH": PATHS}, check=False, timeout=60
    )
    assert ran.returncode == -signal.SIGKILL
    assert path.read_bytes() == content
    assert len(names(tmp_path)) == (2 if moment == "before" else 1)
    write_file(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert names(tmp_path) == ["figures.json"]


def test_the_draft_of_a_process_that_lives_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    with atomic_write(path) as first:
        first.write(b"first")
        write_file(path, b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"  # who ends last is kept, whole
    assert names(tmp_path) == ["figures.json"]


def test_torch_meets_a_full_disk_without_an_abort(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    write_file(path, b"old")

    def save(value: float) -> None:
        with atomic_write(path) as file, deferred_errors(file) as writer:
            torch.save({"weight": torch.full((100, 100), value)}, writer)

    with file_size_limit(10_000), pytest.raises(OutputError, match="larger than the limit on file sizes"):
        save(0.0)
    assert path.read_bytes() == b"old"
    save(3.0)
    assert torch.load(path, weights_only=True)["weight"].sum() == 30_000


def test_a_link_stays_a_link_also_to_what_is_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "figures.json"
    link.symlink_to(tmp_path / "disk/real.json")
    for content in (b"one", b"two"):
        write_file(link, content)
        assert link.is_symlink()
        assert (tmp_path / "disk/real.json").read_bytes() == content
    assert os.listdir(tmp_path / "disk") == ["real.json"]


@pytest.mark.parametrize("name", ["a" * 251 + ".csv", "é" * 125 + ".csv"])
def test_names_may_be_as_long_as_the_system_allows(name: str, tmp_path: Path) -> None:
    write_file(tmp_path / name, b"content")
    stale = name_draft(tmp_path / name)
    stale.write_bytes(b"half")
    write_file(tmp_path / name, b"more")
    assert os.listdir(tmp_path) == [name]
    with draft_folder(tmp_path / name) as folder:
        assert folder.is_dir()
    assert os.listdir(tmp_path) == [name]


def test_folders_of_drafts_of_killed_processes_are_removed_whatever_they_were_for(tmp_path: Path) -> None:
    stale = tmp_path / ".other.xml.abc.featcache-drafts"
    stale.mkdir()
    (stale / "network.bin").write_bytes(bytes(999))
    foreign = tmp_path / ".mine.drafts"  # of another program
    foreign.mkdir()
    with draft_folder(tmp_path / "network.xml") as folder:
        with draft_folder(tmp_path / "network.xml"):
            assert folder.exists()  # that of a process that lives
        assert not stale.exists()
    assert [path.name for path in tmp_path.iterdir()] == [".mine.drafts"]


def test_a_draft_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")
    with text_output(path) as file:
        file.write(os.fsdecode(b"\xe9\r\n"))
        assert path.read_text() == "old"
    assert path.read_bytes() == b"\xe9\r\n"
    draft = text_output(path)
    draft.__enter__().write("half")
    assert not draft.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert path.read_bytes() == b"\xe9\r\n"
    assert (tmp_path / "out.csv.unfinished").read_text() == "half"


def test_an_unfinished_cache_of_the_same_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "c.h5.partial").write_bytes(b"rows of hours")
    with text_output(tmp_path / "c.h5") as file:
        file.write("text")
    assert (tmp_path / "c.h5.partial").read_bytes() == b"rows of hours"


def test_a_draft_that_cannot_be_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataLayoutError) as caught, text_output(tmp_path / "pipe"):
        pass
    assert str(caught.value) == (
        f"{tmp_path / 'pipe'} is not a file. Give the name of a file, or no name for standard output."
    )
    with pytest.raises(FileNotFoundError) as absent, text_output(tmp_path / "gone" / "out.csv"):
        pass
    assert absent.value.filename == str(tmp_path / "gone" / "out.csv")


def test_a_list_that_is_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "list.csv").symlink_to("there/list.csv")
    with text_output(tmp_path / "list.csv") as file:
        file.write("new")
    assert (tmp_path / "list.csv").is_symlink()
    assert (tmp_path / "there/list.csv").read_text() == "new"
    assert os.listdir(tmp_path / "there") == ["list.csv"]
