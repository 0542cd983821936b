"""Names on a stream, and files that get their name when they are whole. Finding images is tested in test_zoo."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from featcache.data.file_listing import draft_of, read_names
from featcache.errors import DataLayoutError


@pytest.mark.parametrize(
    ("raw", "end", "expected"),
    [
        (b"a.jpg\nb c.jpg\n", b"\n", ["a.jpg", "b c.jpg"]),
        (b"a.jpg\n\nb.jpg", b"\n", ["a.jpg", "b.jpg"]),
        (b"\xe9.jpg\n a \r\n", b"\n", [os.fsdecode(b"\xe9.jpg"), " a \r"]),
        (b"a\nb.jpg\0c.jpg\0", b"\0", ["a\nb.jpg", "c.jpg"]),
        (b"a.jpg", b"\0", ["a.jpg"]),
        (b"", b"\n", []),
    ],
)
def test_names_end_with_a_newline_or_with_nul(raw: bytes, end: bytes, expected: list[str]) -> None:
    assert list(read_names(io.BytesIO(raw), end)) == expected


def test_names_across_blocks_are_whole() -> None:
    names = [f"{number}" * 50 for number in range(50_000)]
    assert list(read_names(io.BytesIO("\n".join(names).encode()))) == names


def test_nul_in_lines_is_refused() -> None:
    with pytest.raises(DataLayoutError) as caught:
        list(read_names(io.BytesIO(b"a.jpg\0b.jpg\0")))
    assert str(caught.value) == "the names on stdin have NUL characters in them; find -print0 needs -0 here."


def test_names_come_before_the_stream_ends() -> None:
    reader, writer = os.pipe()
    with open(reader, "rb") as stream, open(writer, "wb", buffering=0) as file:
        names: Iterator[str] = read_names(stream)
        for name in (b"a.jpg\n", b"b.jpg\n"):
            timer = threading.Timer(10, os.close, [writer])  # ends the stream, where it is waited for
            timer.start()
            file.write(name)
            assert next(names) == name.decode().strip()
            timer.cancel()


def test_a_draft_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")
    with draft_of(path) as file:
        file.write(os.fsdecode(b"\xe9\r\n"))
        assert path.read_text() == "old"
    assert path.read_bytes() == b"\xe9\r\n"
    draft = draft_of(path)
    draft.__enter__().write("half")
    assert not draft.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert path.read_bytes() == b"\xe9\r\n"
    assert (tmp_path / "out.csv.unfinished").read_text() == "half"


def test_an_unfinished_cache_of_the_same_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "c.h5.partial").write_bytes(b"rows of hours")
    with draft_of(tmp_path / "c.h5") as file:
        file.write("text")
    assert (tmp_path / "c.h5.partial").read_bytes() == b"rows of hours"


def test_a_draft_that_cannot_be_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataLayoutError) as caught, draft_of(tmp_path / "pipe"):
        pass
    assert str(caught.value) == (
        f"{tmp_path / 'pipe'} is no file. Give the name of a file, or none for standard output."
    )
    with pytest.raises(FileNotFoundError) as absent, draft_of(tmp_path / "gone" / "out.csv"):
        pass
    assert absent.value.filename == str(tmp_path / "gone" / "out.csv")


def test_a_list_that_is_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "list.csv").symlink_to("there/list.csv")
    with draft_of(tmp_path / "list.csv") as file:
        file.write("new")
    assert (tmp_path / "list.csv").is_symlink()
    assert (tmp_path / "there/list.csv").read_text() == "new"
    assert os.listdir(tmp_path / "there") == ["list.csv"]
