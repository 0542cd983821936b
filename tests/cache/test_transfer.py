"""Caches at URLs: read, pulled and pushed, whole and checked."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from commands import PATHS, done, refused, toy_cache
from featcache._utils import remote
from featcache._utils.download import ByteStream
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.transfer import pull, push
from featcache.errors import CacheDamagedError, NotACacheError, OutputExistsError, RemoteIOError

URL = "memory://caches/cache.h5"


@pytest.fixture
def cache(split_folder: Path, tmp_path: Path) -> Iterator[Path]:
    yield toy_cache(split_folder, tmp_path / "cache.h5")
    memory = fsspec.filesystem("memory")
    if memory.exists("/caches"):
        memory.rm("/caches", recursive=True)


def test_what_is_pushed_and_pulled_is_the_same_file(cache: Path, tmp_path: Path) -> None:
    told: list[str] = []
    sent = push(cache, URL, progress=lambda what, *_: told.append(what))
    got = pull(URL, tmp_path / "far/copy.h5", progress=lambda what, *_: told.append(what))
    assert (tmp_path / "far/copy.h5").read_bytes() == cache.read_bytes()
    assert (sent.rows, sent.moved_bytes) == (got.rows, got.moved_bytes) == (18, cache.stat().st_size)
    assert set(told) == {"verify", "pull"}
    assert os.listdir(tmp_path / "far") == ["copy.h5"]
    assert pull(URL, tmp_path / "far/copy.h5").moved_bytes == 0


def test_a_folder_to_push_to_is_made(cache: Path, tmp_path: Path) -> None:
    push(cache, str(tmp_path / "not/yet/there.h5"))
    assert (tmp_path / "not/yet/there.h5").read_bytes() == cache.read_bytes()


def test_a_pull_that_broke_off_goes_on(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(cache, URL)
    monkeypatch.setattr(remote, "_PIECE", 4096)
    begun: list[int] = []
    read = remote.read

    def cut_off(url: str, start: int, stop: int) -> bytes:
        begun.append(start)
        if len(begun) == 3:
            raise RemoteIOError("cut off")
        return read(url, start, stop)

    monkeypatch.setattr(remote, "read", cut_off)
    with pytest.raises(RemoteIOError):
        pull(URL, tmp_path / "copy.h5")
    assert not (tmp_path / "copy.h5").exists()
    found = pull(URL, tmp_path / "copy.h5")
    assert begun[:4] == [0, 4096, 8192, 8192]
    assert found.moved_bytes == cache.stat().st_size - 2 * 4096
    assert (tmp_path / "copy.h5").read_bytes() == cache.read_bytes()


def test_what_broke_off_is_not_gone_on_with_where_the_cache_is_another_now(
    cache: Path, split_folder: Path, tmp_path: Path
) -> None:
    push(cache, URL)
    _, version = remote.stat(URL)
    more = toy_cache(split_folder, tmp_path / "more.h5", views=3)
    push(more, URL, overwrite=True)
    assert remote.stat(URL)[1] != version
    pull(URL, tmp_path / "copy.h5")
    assert (tmp_path / "copy.h5").read_bytes() == more.read_bytes()


def test_a_damaged_beginning_is_brought_again(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(cache, URL)

    def broken(_url: str, size: int, start: int) -> ByteStream:
        return ByteStream(start, size, (bytes(500 // count) for count in (1, 0)))

    with monkeypatch.context() as patch:
        patch.setattr(remote, "byte_stream", broken)
        with pytest.raises(ZeroDivisionError):
            pull(URL, tmp_path / "far/copy.h5")
    assert [path.stat().st_size for path in (tmp_path / "far").iterdir()] == [500]
    pull(URL, tmp_path / "far/copy.h5")
    assert (tmp_path / "far/copy.h5").read_bytes() == cache.read_bytes()
    assert os.listdir(tmp_path / "far") == ["copy.h5"]


def test_what_is_no_cache_is_named_by_its_url_and_not_kept(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe_file("/caches/notes.txt", b"no cache")
    with pytest.raises(NotACacheError, match=r"memory://caches/notes\.txt") as caught:
        pull("memory://caches/notes.txt", tmp_path / "far/copy.h5")
    assert "pulled" not in str(caught.value)
    assert os.listdir(tmp_path / "far") == []


def test_a_cache_is_not_pushed_into_a_folder_without_its_name(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for url in (str(tmp_path / "photos"), f"file://{tmp_path}/photos/", ""):
        with pytest.raises(RemoteIOError, match=r"is a folder. Give the file's name, too: .../cache.h5"):
            push(cache, url)
    assert os.listdir(tmp_path / "photos") == []


def test_a_push_that_fails_does_not_say_that_it_goes_on(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise ValueError("quota")

    monkeypatch.setattr(fsspec.filesystem("memory"), "put_file", full)
    with pytest.raises(RemoteIOError) as caught:
        push(cache, URL)
    assert str(caught.value) == (
        f"{URL} cannot be written: quota. Check the address and your access to it, then run the same command again."
    )


def test_another_cache_is_not_overwritten(cache: Path, tmp_path: Path) -> None:
    push(cache, URL)
    (tmp_path / "copy.h5").write_bytes(bytes(cache.stat().st_size))
    with pytest.raises(OutputExistsError) as caught:
        pull(URL, tmp_path / "copy.h5")
    assert (
        str(caught.value)
        == f"{tmp_path / 'copy.h5'} exists and is not {URL}. Give another name, or replace it with --overwrite."
    )


def test_an_unfinished_extraction_keeps_its_name(cache: Path, tmp_path: Path) -> None:
    waiting = tmp_path / "dl.h5.partial"
    waiting.write_bytes(b"rows of hours")
    becomes = f"which will become {tmp_path / 'dl.h5'}. Finish it, or give another name."
    for copy in (push, pull):
        with pytest.raises(OutputExistsError) as refused:
            copy(str(cache), str(tmp_path / "dl.h5"), overwrite=True)
        assert str(refused.value) == f"{waiting} is an unfinished extraction, {becomes}"
    assert waiting.read_bytes() == b"rows of hours"
    assert not (tmp_path / "dl.h5").exists()


def test_what_is_damaged_is_neither_pushed_nor_pulled(cache: Path, tmp_path: Path) -> None:
    region = next(iter(FeatureCache.open(cache).layout.layers.values()))
    push(cache, URL)
    content = bytearray(cache.read_bytes())
    content[region.offset] ^= 1
    fsspec.filesystem("memory").pipe_file("/caches/cache.h5", bytes(content))
    with pytest.raises(CacheDamagedError) as caught:
        pull(URL, tmp_path / "copy.h5")
    assert "copy.h5 is damaged: 1 rows do not have their checksum" in str(caught.value)
    assert not (tmp_path / "copy.h5").exists()
    cache.write_bytes(content)
    with pytest.raises(CacheDamagedError):
        push(cache, "memory://caches/other.h5")
    assert not fsspec.filesystem("memory").exists("/caches/other.h5")


def test_a_cache_at_a_url_is_read_like_one_on_the_disk(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    push(cache, URL)
    near, far = FeatureCache.open(cache).features("train"), FeatureCache.open(URL).features("train")
    np.testing.assert_array_equal(near.x[:], far.x[:])
    kept = list((tmp_path / "home/featcache/remote").iterdir())
    FeatureCache.open(URL)
    assert list((tmp_path / "home/featcache/remote").iterdir()) == kept
    head = done("fit-head", URL, "-o", tmp_path / "head")
    assert "val" in head
    assert "same" in done("diff", URL, cache)


def test_nothing_is_written_at_a_url(cache: Path, split_folder: Path) -> None:
    push(cache, URL)
    expected = (
        f"{URL}: a cache is written on a disk. Give a file; `featcache push` copies it to a URL, and `featcache pull` "
        "from one."
    )
    assert refused("extract", split_folder, "-o", URL) == expected
    assert refused("update", URL, split_folder) == expected
    assert refused("verify", URL, "--repair", split_folder) == expected


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    assert refused("info", "memory://caches/none.h5") == (
        "memory://caches/none.h5 does not exist. Put a cache there with `featcache push CACHE memory://caches/none.h5`."
    )
    assert "none.h5" in refused("pull", "memory://caches/none.h5", tmp_path / "copy.h5")


_OPEN = """
import errno, fcntl, sys, time
import featcache._utils.remote as remote
def refuse(*_):
    raise OSError(errno.ENOLCK, "no locks")
if sys.argv[2] == "without locks":
    fcntl.flock = refuse
remote._PIECE = 4096
read = remote.read
def slow(*arguments):
    time.sleep(0.02)
    return read(*arguments)
remote.read = slow
print(remote.cached_copy(sys.argv[1]))
"""


@pytest.mark.parametrize("locks", ["with locks", "without locks"])
def test_two_commands_that_open_one_remote_cache_at_once_get_it_whole(cache: Path, tmp_path: Path, locks: str) -> None:
    environment = {**os.environ, "PYTHONPATH": PATHS, "XDG_CACHE_HOME": str(tmp_path / "home")}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _OPEN, f"file://{cache}", locks],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    copies = [process.communicate(timeout=60)[0].strip() for process in started]
    assert len(set(copies)) == 1
    assert Path(copies[0]).read_bytes() == cache.read_bytes()
    assert [path.name for path in Path(copies[0]).parent.iterdir()] == [Path(copies[0]).name]


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-100], lambda content: b"", lambda content: b"x" + content[1:]]
)
def test_a_local_copy_that_does_not_open_is_downloaded_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    push(cache, URL)
    copy = FeatureCache.open(URL).path
    copy.write_bytes(damage(cache.read_bytes()))
    assert FeatureCache.open(URL).complete
    assert copy.read_bytes() == cache.read_bytes()
    assert list(copy.parent.iterdir()) == [copy]


def test_a_remote_file_that_is_damaged_is_named_by_its_url(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    fsspec.filesystem("memory").pipe_file("/caches/cache.h5", cache.read_bytes()[:-100])
    size = cache.stat().st_size
    with pytest.raises(NotACacheError) as caught:
        FeatureCache.open(URL)
    assert str(caught.value) == (
        f"{URL} is a damaged feature cache: it has {size - 100} bytes, {size} were written. Remove it and extract "
        "again."
    )


class _Plain(http.server.SimpleHTTPRequestHandler):
    """A server that tells of no version and no time, and sends parts."""

    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Last-Modified":
            super().send_header(keyword, value)

    def do_GET(self) -> None:
        first, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")
        content = Path(self.translate_path(self.path)).read_bytes()
        end = min(int(last or len(content)), len(content) - 1)
        self.send_response(206)
        self.send_header("Content-Length", str(end + 1 - int(first)))
        self.send_header("Content-Range", f"bytes {first}-{end}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[int(first) : end + 1])

    def log_message(self, *_: object) -> None:
        pass


def test_a_cache_that_was_replaced_by_one_of_equal_size_is_noticed_without_an_etag(
    cache: Path, split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    served = tmp_path / "served"
    served.mkdir()
    shutil.copy(cache, served / "cache.h5")
    moved = split_folder / "train/ants/000.png"
    moved.rename(split_folder / "train/bees/zzz.png")
    other = toy_cache(split_folder, tmp_path / "other.h5")
    assert other.stat().st_size == cache.stat().st_size
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Plain, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/cache.h5"
        assert list(FeatureCache.open(url).samples.ids) == list(FeatureCache.open(cache).samples.ids)
        shutil.copy(other, served / "cache.h5")
        assert "train/bees/zzz.png" in FeatureCache.open(url).samples.ids
    finally:
        server.shutdown()
        server.server_close()
