"""Names on a stream. Finding images is tested in test_zoo."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator

import pytest

from featcache.data.file_listing import read_names
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
