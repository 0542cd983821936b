"""Sorter: every byte that was there is there afterwards, whatever names, contents, kills and file systems."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from commands import write_folder
from featcache.data.manifest import read_manifest
from featcache.data.sources.foreign_folders import SORTED_MARK
from featcache.errors import DataLayoutError
from featcache.models import sort_files
from featcache.models.prediction import Prediction
from featcache.models.sort_files import FileSorter, How, distinct

CLASSES = ("ants", "bees")


def put(sorter: FileSorter, *paths: Path, label: str = "ants") -> list[Prediction]:
    return [sorter.sort(Prediction(str(path), label, ((label, 0.9),))) for path in paths]


def places(result: Sequence[Prediction]) -> list[tuple[str, ...]]:
    assert [prediction.error for prediction in result] == [None] * len(result)
    return [prediction.moved_to or () for prediction in result]


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def is_sorted(path: Path) -> bool:
    """Whether this is a file, and not the mark of a folder that a Sorter made."""
    return path.is_file() and path.name != SORTED_MARK


def contents(*folders: Path) -> dict[str, bytes]:
    """Every regular file below the folders."""
    result = [path for folder in folders for path in folder.rglob("*") if is_sorted(path) and not path.is_symlink()]
    return {str(path): path.read_bytes() for path in result}


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if is_sorted(path) or path.is_symlink())


@pytest.mark.parametrize("how", ["move", "link"])
def test_files_come_into_the_folder_of_their_class(how: How, tmp_path: Path) -> None:
    a, b = write(tmp_path / "in/a.jpg", b"a"), write(tmp_path / "in/b.jpg", b"b")
    os.utime(a, (10, 20))
    sorter = FileSorter(tmp_path / "out", how, CLASSES)
    assert places([*put(sorter, a), *put(sorter, b, label="bees")]) == [
        (str(tmp_path / "out/ants/a.jpg"),),
        (str(tmp_path / "out/bees/b.jpg"),),
    ]
    assert (tmp_path / "out/ants/a.jpg").read_bytes() == b"a"
    assert (tmp_path / "out/ants/a.jpg").stat().st_mtime == 20
    assert a.exists() is (how == "link")
    assert (tmp_path / "out/ants/a.jpg").is_symlink() is (how == "link")
    verb = {"move": "moved", "link": "linked"}[how]
    assert str(sorter) == f"{verb} 2 files into {tmp_path / 'out'}: 1 to ants, 1 to bees"


def test_links_are_absolute_and_lead_to_the_file_as_its_folder_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "real/a.jpg", b"a")
    (tmp_path / "real/b.jpg").symlink_to("a.jpg")
    (tmp_path / "in").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    put(FileSorter("out", "link", CLASSES), Path("in/a.jpg"), Path("in/b.jpg"))
    assert os.readlink("out/ants/a.jpg") == str(tmp_path / "real/a.jpg")
    assert os.readlink("out/ants/b.jpg") == str(tmp_path / "real/b.jpg")


@pytest.mark.parametrize("how", ["move", "link"])
def test_a_taken_name_gets_a_number_and_nothing_is_overwritten(how: How, tmp_path: Path) -> None:
    write(tmp_path / "out/ants/a.jpg", b"there")
    (tmp_path / "out/ants/a-2.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "out/ants/a-3.jpg").mkdir()
    os.mkfifo(tmp_path / "out/ants/a-4.jpg")
    paths = [write(tmp_path / f"in{number}/a.jpg", b"%d" % number) for number in range(2)]
    result = put(FileSorter(tmp_path / "out", how, CLASSES), *paths)
    assert places(result) == [(str(tmp_path / f"out/ants/a-{number}.jpg"),) for number in (5, 6)]
    assert (tmp_path / "out/ants/a.jpg").read_bytes() == b"there"
    assert (tmp_path / "out/ants/a-6.jpg").read_bytes() == b"1"


@pytest.mark.parametrize("how", ["move", "link"])
def test_what_is_there_already_stays_as_it_is(how: How, tmp_path: Path) -> None:
    same = write(tmp_path / "in/a.jpg", b"same")
    write(tmp_path / "out/ants/a.jpg", b"same")
    linked = write(tmp_path / "in/b.jpg", b"b")
    (tmp_path / "out/ants/b.jpg").symlink_to(linked)
    itself = write(tmp_path / "out/ants/c.jpg", b"c")
    before = names(tmp_path)
    sorter = FileSorter(tmp_path / "out", how, CLASSES)
    result = put(sorter, same, linked, itself)
    assert places(result) == [(str(tmp_path / f"out/ants/{name}.jpg"),) for name in "abc"]
    assert names(tmp_path) == before
    assert str(sorter).endswith(f" 0 files into {tmp_path / 'out'}; 3 were there already")


def test_a_link_is_moved_as_a_link_to_the_same_file(tmp_path: Path) -> None:
    file = write(tmp_path / "in/a.jpg", b"a")
    (tmp_path / "in/link.jpg").symlink_to("a.jpg")
    put(FileSorter(tmp_path / "out", "move", CLASSES), tmp_path / "in/link.jpg")
    assert os.readlink(tmp_path / "out/ants/link.jpg") == str(file)
    assert names(tmp_path) == ["in/a.jpg", "out/ants/link.jpg"]


def test_each_file_is_listed_once_by_whatever_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "in/a.jpg", b"a")
    (tmp_path / "in/link.jpg").symlink_to("a.jpg")
    monkeypatch.chdir(tmp_path)
    other = write(tmp_path / "in/b.jpg", b"a")
    listed = ["in/a.jpg", file, "in/../in/a.jpg", file.with_name("link.jpg"), other, "gone.jpg"]
    assert list(distinct(listed)) == ["in/a.jpg", other, "gone.jpg"]


def test_unreadable_pictures_stay_where_they_are(tmp_path: Path) -> None:
    bad = write(tmp_path / "a.jpg", b"")
    result = FileSorter(tmp_path / "out", "move", CLASSES).sort(Prediction(str(bad), None, (), "the file is empty"))
    assert (result.moved_to, result.error, names(tmp_path)) == ((), "the file is empty", ["a.jpg"])


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".ants", "a/b", "/", "a\nb", "a\0", "a\x7f", "ä" * 128, "\ud800"], ids=repr
)
@pytest.mark.parametrize("how", ["move", "link"])
def test_a_class_that_is_no_folder_s_name_is_refused(name: str, how: How, tmp_path: Path) -> None:
    with pytest.raises(DataLayoutError) as caught:
        FileSorter(tmp_path / "out", how, ("ants", name))
    assert str(caught.value) == (
        f"the class {name!r} cannot be the name of a folder: it is empty or too long, begins with a dot, or "
        "contains a slash or a control character. No file was sorted."
    )


@pytest.mark.parametrize("name", ["ä ö", "蟻 　", os.fsdecode(b"\xe9"), "a.b", "-", "x" * 255, "\\", "a|b"], ids=repr)
def test_other_names_are_those_of_folders(name: str, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jpg", b"a")
    put(FileSorter(tmp_path / "out", "move", ("ants", name)), file, label=name)
    assert (tmp_path / "out" / name / "a.jpg").read_bytes() == b"a"


@pytest.mark.parametrize("taken", ["out", "out/ants"])
def test_a_file_where_a_folder_shall_be_is_refused(taken: str, tmp_path: Path) -> None:
    write(tmp_path / taken, b"")
    with pytest.raises(DataLayoutError) as caught:
        FileSorter(tmp_path / "out", "link", CLASSES)
    assert str(caught.value) == f"{tmp_path / taken} is not a folder, but files are sorted into it. No file was sorted."


def test_pictures_of_several_labels_are_linked_into_each_and_never_moved(tmp_path: Path) -> None:
    with pytest.raises(DataLayoutError) as caught:
        FileSorter(tmp_path / "out", "move", CLASSES, multilabel=True)
    assert str(caught.value) == (
        "this model gives a sample several labels, and a file can be moved to one folder only. Use links."
    )
    with pytest.raises(DataLayoutError, match=r"^the class '\.\.\|ants' cannot be"):
        FileSorter(tmp_path / "out", "link", ("..|ants", "bees"), multilabel=True)
    a, b = write(tmp_path / "in/a.jpg", b"a"), write(tmp_path / "in/b.jpg", b"b")
    sorter = FileSorter(tmp_path / "out", "link", CLASSES, multilabel=True)
    assert places([*put(sorter, a, label="ants|bees"), *put(sorter, b, label="")]) == [
        (str(tmp_path / "out/ants/a.jpg"), str(tmp_path / "out/bees/a.jpg")),
        (),
    ]
    assert names(tmp_path / "out") == ["ants/a.jpg", "bees/a.jpg"]


# Other file systems


@contextmanager
def no_link(number: int) -> Iterator[None]:
    """Hard links fail: to another file system (EXDEV: the draft there can be linked), or always."""
    link = os.link

    def refuse(source: Any, target: Any) -> None:
        if number != errno.EXDEV or not os.fspath(source).endswith(".draft"):
            raise OSError(number, os.strerror(number), str(source))
        link(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sort_files.os, "link", refuse)
        yield


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM])
def test_across_file_systems_and_without_hard_links_it_is_the_same(number: int, tmp_path: Path) -> None:
    file = write(tmp_path / "in/a.jpg", b"a" * 3_000_000)
    file.chmod(0o440)
    os.utime(file, (10, 20))
    write(tmp_path / "out/ants/a.jpg", b"there")
    with no_link(number):
        result = put(FileSorter(tmp_path / "out", "move", CLASSES), file)
    assert places(result) == [(str(tmp_path / "out/ants/a-2.jpg"),)]
    assert names(tmp_path) == ["out/ants/a-2.jpg", "out/ants/a.jpg"]
    moved = tmp_path / "out/ants/a-2.jpg"
    assert moved.read_bytes() == b"a" * 3_000_000
    assert (moved.stat().st_mode & 0o777, moved.stat().st_mtime) == (0o440, 20)


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no second file system")
def test_a_real_second_file_system(tmp_path: Path) -> None:
    file = write(tmp_path / "in/a.jpg", b"a")
    root = Path("/dev/shm", f"featcache-{os.getpid()}")
    try:
        if os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
            pytest.skip("no second file system")
        result = put(FileSorter(root, "move", CLASSES), file)
        assert places(result) == [(str(root / "ants/a.jpg"),)]
        assert (names(root), (root / "ants/a.jpg").read_bytes(), file.exists()) == (["ants/a.jpg"], b"a", False)
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.mark.parametrize("number", [errno.EXDEV])
def test_the_draft_of_a_killed_process_is_removed_by_the_next_move(number: int, tmp_path: Path) -> None:
    file = write(tmp_path / "in/a.jpg", b"a")
    stale = write(tmp_path / "out/ants/a.jpg.7-0123abcd.draft", b"half")
    with no_link(number):
        put(FileSorter(tmp_path / "out", "move", CLASSES), file)
    assert (stale.exists(), (tmp_path / "out/ants/a.jpg").read_bytes()) == (False, b"a")


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM])
def test_a_name_that_is_taken_meanwhile_is_not_overwritten(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "in/a.jpg", b"a")
    write(tmp_path / "out/ants/a.jpg", b"there")
    sorter = FileSorter(tmp_path / "out", "move", CLASSES)
    content_at = sorter._content_at
    monkeypatch.setattr(sorter, "_content_at", lambda path: None if path.name == "a.jpg" else content_at(path))
    with no_link(number):
        result = put(sorter, file)
    assert places(result) == [(str(tmp_path / "out/ants/a-2.jpg"),)]
    assert contents(tmp_path / "out") == {
        str(tmp_path / "out/ants/a.jpg"): b"there",
        str(tmp_path / "out/ants/a-2.jpg"): b"a",
    }


def test_a_full_disk_leaves_the_file_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "in/a.jpg", b"a")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sort_files.shutil, "copyfileobj", full)
    with no_link(errno.EXDEV):
        (result,) = put(FileSorter(tmp_path / "out", "move", CLASSES), file)
    assert (result.label, result.moved_to, result.error) == ("ants", (), "could not be moved: No space left on device")
    assert names(tmp_path) == ["in/a.jpg"]


def test_a_file_that_may_not_leave_is_in_both_places_and_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "in/a.jpg", b"a")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    (result,) = put(FileSorter(tmp_path / "out", "move", CLASSES), file)
    assert result.error == f"could not be moved: Permission denied; a copy is at {tmp_path / 'out/ants/a.jpg'}"
    assert names(tmp_path) == ["in/a.jpg", "out/ants/a.jpg"]


# Kills

STEPS = ["link", "symlink", "open", "replace", "unlink", "fsync", "rename", "mkdir"]


def _sort_and_die(root: str, number: int, step: int, after: bool) -> None:
    """Move the files, and die with SIGKILL before or after the step-th call that changes something."""
    calls = 0

    def dying(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == step and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            now = calls
            try:
                return function(*arguments, **options)
            finally:
                if now == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        return call

    if number:
        no_link(number).__enter__()
    for name in STEPS:
        setattr(os, name, dying(getattr(os, name)))
    sorter = FileSorter(Path(root, "out"), "move", CLASSES)
    put(sorter, *sorted(Path(root, "in").rglob("*.jpg")))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # the child runs no threads
@pytest.mark.parametrize("number", [0, errno.EXDEV, errno.EPERM])
def test_a_kill_at_any_step_loses_nothing(number: int, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    step, after, exitcode = 0, True, -signal.SIGKILL
    while exitcode:
        step, after = (step, True) if not after else (step + 1, False)
        root = tmp_path / f"{step}{after}"
        given = [write(root / f"in/{folder}/a.jpg", folder.encode() * 9) for folder in "xy"]
        write(root / "out/ants/a.jpg", b"there")
        process = context.Process(target=_sort_and_die, args=(str(root), number, step, after))
        process.start()
        process.join()
        exitcode = process.exitcode or 0
        assert exitcode in (0, -signal.SIGKILL)
        left = contents(root)
        assert set(left.values()) >= {b"there", b"x" * 9, b"y" * 9}, (step, after, left)
        assert left[str(root / "out/ants/a.jpg")] == b"there"
        put(FileSorter(root / "out", "move", CLASSES), *(path for path in given if path.exists()))
        shown = {path: content for path, content in contents(root / "out").items() if not path.endswith(".draft")}
        assert set(shown.values()) - {b""} == {b"there", b"x" * 9, b"y" * 9}
    assert step > 4


# What would be done

NAMES = st.sampled_from(["a.jpg", "a-2.jpg", "a-3.jpg", "b.jpg", "ä,\n\t.jpg", "b", os.fsdecode(b"\xff.jpg")])
FILES = st.dictionaries(
    st.tuples(st.sampled_from(["in", "in/x", "out/ants", "out/bees"]), NAMES), st.binary(max_size=2)
)


def test_a_dry_run_knows_what_has_left_and_what_has_come(tmp_path: Path) -> None:
    leaves, comes = write(tmp_path / "out/bees/a.jpg", b"1"), write(tmp_path / "in/a.jpg", b"2")
    third = write(tmp_path / "in/x/a.jpg", b"3")
    planned = []
    for dry_run in (True, False):
        sorter = FileSorter(tmp_path / "out", "move", CLASSES, dry_run=dry_run)
        planned.append(places([*put(sorter, leaves), *put(sorter, comes, third, label="bees")]))
    assert planned[0] == planned[1]
    assert planned[0] == [(str(tmp_path / "out" / name),) for name in ("ants/a.jpg", "bees/a.jpg", "bees/a-2.jpg")]


@settings(max_examples=40, deadline=None)
@given(files=FILES, how=st.sampled_from(["move", "link"]))
@example(files={("in", "a.jpg"): b"", ("in", "a-2.jpg"): b"", ("out/ants", "a.jpg"): b"\x80"}, how="move")
def test_no_byte_is_lost_and_a_second_run_changes_nothing(
    files: dict[tuple[str, str], bytes], how: How, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("sorted")
    paths = sorted(write(root / folder / name, content) for (folder, name), content in files.items())
    before = contents(root)

    def run(listed: Sequence[Path], **options: Any) -> list[Prediction]:
        sorter = FileSorter(root / "out", how, CLASSES, **options)
        return [put(sorter, path, label="ants" if path.read_bytes() < b"\x80" else "bees")[0] for path in listed]

    planned = run(paths, dry_run=True)
    assert contents(root) == before
    result = run(paths)
    assert result == planned
    after = contents(root)
    assert Counter(after.values()) == Counter(before.values())
    for prediction, path in zip(result, paths, strict=True):
        (sorted_path,) = prediction.moved_to or ("",)
        assert Path(sorted_path).read_bytes() == before[str(path)]
        assert Path(sorted_path).parent.name == prediction.label
    everything = sorted(path for path in root.rglob("*") if is_sorted(path))
    again, links = names(root), {path: os.readlink(path) for path in everything if path.is_symlink()}
    gaps = [path for path in paths if root / "out" in path.parents and not os.path.lexists(path)]
    run(everything)
    assert Counter(contents(root).values()) == Counter(after.values())
    if gaps:
        return  # a file has left a class, and a copy of another, that was there under a higher number, gets its name
    assert names(root) == again
    assert contents(root) == after
    assert links == {path: os.readlink(path) for path in everything if path.is_symlink()}


def test_a_folder_that_a_sorter_makes_is_no_data_and_one_that_was_there_stays_data(tmp_path: Path) -> None:
    """Into a folder inside the data, whose images are not trained on; and into the data itself, whose images are."""
    data = write_folder(tmp_path / "photos", {"ants": 4, "bees": 4})
    put(FileSorter(data / "sorted", "link", ("ants", "bees")), data / "ants/000.png")
    manifest = read_manifest(data)
    assert (len(manifest.samples), manifest.ignored) == (8, {"folders: sorted, which featcache wrote": 1})
    Image.new("RGB", (4, 4)).save(tmp_path / "new.png")
    put(FileSorter(data, "move", ("ants", "bees")), tmp_path / "new.png")
    assert len(read_manifest(data).samples) == 9
    assert (data / "ants/new.png").is_file()
