from __future__ import annotations

import errno
import fcntl
import io
import os
import socket
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import map_coordinates
from sklearn.datasets import load_digits

from commands import write_folder
from featcache.backbones.metadata_cache import cache_path
from featcache.errors import DatasetError, FeatcacheError, RemoteIOError
from featcache.vision import demo_datasets
from featcache.vision.demo_datasets import ANTS_BEES_SHA256, ants_bees, fetch, prepare, tree_sha256, write_digits


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"))


def test_digits_are_scikit_learns(digits: Path) -> None:
    known = load_digits()
    assert sorted(path.name for path in digits.iterdir()) == list("0123456789")
    assert len(list(digits.rglob("*.png"))) == 1797
    places = np.meshgrid(np.linspace(0, 31, 8), np.linspace(0, 31, 8), indexing="ij")
    for number, (image, label) in enumerate(zip(known.images, known.target, strict=True)):
        with Image.open(digits / str(label) / f"{number:04d}.png") as file:
            assert (file.size, file.mode) == ((32, 32), "L")
            again = map_coordinates(np.asarray(file, dtype=float), places, order=3)
        gap = np.abs(again - image * (255 / 16))
        assert gap.mean() < 2  # grey levels of 255: rounding, and where the cubic overshoots
        assert gap.max() < 12


def test_digits_that_are_there_are_left_alone(digits: Path) -> None:
    missing, touched = digits / "0" / "0000.png", digits / "1" / "0001.png"
    content, other = missing.read_bytes(), touched.read_bytes()
    missing.unlink()
    touched.write_bytes(b"mine")
    times = {path: path.stat().st_mtime_ns for path in digits.rglob("*.png")}
    assert write_digits(digits) == digits
    assert missing.read_bytes() == content
    assert touched.read_bytes() == b"mine"
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    touched.write_bytes(other)


@dataclass
class Server:
    """A loopback server of one body, and what it was asked for."""

    body: bytes
    ranges: bool = True
    breaks_at: int | None = None
    address: str = ""
    asked: list[str | None] = field(default_factory=list)
    sent: int = 0


@pytest.fixture
def archive(tmp_path: Path) -> tuple[bytes, str]:
    """A zip of a photos folder, and the sha256 of its images."""
    source = write_folder(tmp_path / "source" / "photos")
    (source / "README.txt").write_text("no image")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(source.rglob("*.*")):
            file.write(path, path.relative_to(source.parent))
    return packed.getvalue(), tree_sha256(source)


@pytest.fixture
def server(archive: tuple[bytes, str]) -> Iterator[Server]:
    state = Server(archive[0])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append(wanted)
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and state.ranges else 0
            if start and start >= len(state.body):
                self.send_error(416)
                return
            part = state.body[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            part = part[: state.breaks_at]
            self.wfile.write(part)
            state.sent += len(part)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.address = f"http://127.0.0.1:{http.server_address[1]}/photos.zip"
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "photos"


def _alone(folder: Path) -> bool:
    return [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_fetch_unpacks_what_it_downloads_once(server: Server, archive: tuple[bytes, str], folder: Path) -> None:
    body, sha256 = archive
    seen: list[tuple[str, int, int]] = []
    for _ in range(2):
        assert fetch(server.address, sha256, folder, lambda *step: seen.append(step)) == folder
    assert tree_sha256(folder) == sha256
    assert server.asked == [None]
    assert seen[-1] == ("download", len(body), len(body))
    assert _alone(folder)


def test_half_a_download_goes_on_where_it_stopped(server: Server, archive: tuple[bytes, str], folder: Path) -> None:
    body, sha256 = archive
    server.breaks_at = len(body) // 2
    with pytest.raises(RemoteIOError, match=rf"the connection broke off after {len(body) // 2} of {len(body)} bytes"):
        fetch(server.address, sha256, folder)
    assert not folder.exists()
    server.breaks_at = None
    assert tree_sha256(fetch(server.address, sha256, folder)) == sha256
    assert server.asked == [None, f"bytes={len(body) // 2}-"]
    assert server.sent == len(body)


def test_a_server_without_ranges_sends_all_of_it(server: Server, archive: tuple[bytes, str], folder: Path) -> None:
    body, sha256 = archive
    server.ranges, server.breaks_at = False, 100
    with pytest.raises(RemoteIOError):
        fetch(server.address, sha256, folder)
    server.breaks_at = None
    assert tree_sha256(fetch(server.address, sha256, folder)) == sha256
    assert server.asked == [None, "bytes=100-"]
    assert server.sent == 100 + len(body)


def test_a_whole_download_that_was_not_unpacked_is_not_fetched_again(
    server: Server, archive: tuple[bytes, str], folder: Path
) -> None:
    body, sha256 = archive
    folder.parent.mkdir()
    folder.with_suffix(".zip.part").write_bytes(body)
    assert tree_sha256(fetch(server.address, sha256, folder)) == sha256
    assert server.sent == 0
    assert _alone(folder)


@pytest.mark.parametrize("locks", [True, False])
def test_two_that_fetch_at_once_get_the_whole_folder(
    server: Server, archive: tuple[bytes, str], folder: Path, locks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With locks the archive is downloaded once."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if not locks:
        monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(demo_datasets, "_CHUNK", 256)
    together = threading.Barrier(3)

    def work(_: int) -> Path:
        together.wait()
        return fetch(server.address, archive[1], folder)

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, range(3))) == [folder] * 3
    assert tree_sha256(folder) == archive[1]
    assert _alone(folder)
    assert server.sent == len(archive[0]) or not locks


def test_other_images_than_expected_are_removed(server: Server, archive: tuple[bytes, str], folder: Path) -> None:
    with pytest.raises(RemoteIOError) as caught:
        fetch(server.address, "0123456789abcdef" * 4, folder)
    assert str(caught.value) == (
        f"the images in {server.address} are not the expected ones: sha256 {archive[1][:16]}..., "
        "expected 0123456789abcdef.... They were removed."
    )
    assert list(folder.parent.iterdir()) == []


def test_a_page_instead_of_a_zip_is_removed(server: Server, folder: Path) -> None:
    server.body = b"<html>Please sign in to this network</html>"
    with pytest.raises(RemoteIOError) as caught:
        fetch(server.address, "", folder)
    assert str(caught.value) == f"what {server.address} gave is not a zip archive; it was removed. Try again."
    assert list(folder.parent.iterdir()) == []


def test_a_zip_with_a_damaged_stream_is_removed(server: Server, archive: tuple[bytes, str], folder: Path) -> None:
    body, sha256 = archive
    with zipfile.ZipFile(io.BytesIO(body)) as file:
        entry = max(file.infolist(), key=lambda entry: entry.compress_size)
    start = entry.header_offset + 30 + len(entry.filename)
    server.body = body[:start] + b"\xff" * 64 + body[start + 64 :]
    with pytest.raises(RemoteIOError, match="it was removed"):
        fetch(server.address, sha256, folder)
    assert not folder.with_suffix(".zip.part").exists()


def test_no_network_names_the_ways_out(folder: Path) -> None:
    with pytest.raises(RemoteIOError) as caught:
        fetch("http://127.0.0.1:9/photos.zip", "", folder)
    message = str(caught.value)
    assert message.startswith("http://127.0.0.1:9/photos.zip could not be fetched (")
    assert "refused" in message
    assert message.endswith(
        "Run the same command again when there is a network (it resumes), "
        "or set FEATCACHE_ANTS_BEES to a folder that holds the data."
    )


def test_leftovers_longer_than_the_archive_are_removed(server: Server, folder: Path) -> None:
    server.body = b"x"
    folder.parent.mkdir()
    folder.with_suffix(".zip.part").write_bytes(b"yy")
    with pytest.raises(RemoteIOError, match="not a zip archive"):
        fetch(server.address, "", folder)
    assert server.asked == ["bytes=2-"]
    assert list(folder.parent.iterdir()) == []


def test_a_server_that_speaks_no_http_is_a_download_error(folder: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with pytest.raises(RemoteIOError, match="could not be fetched"):
            fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/photos.zip", "", folder)
    finally:
        thread.join()
        listener.close()


def test_tree_sha256_tells_content_and_names_apart_but_not_other_files(tmp_path: Path) -> None:
    first, second = write_folder(tmp_path / "a"), write_folder(tmp_path / "b")
    assert tree_sha256(first) == tree_sha256(second)
    (second / "train" / "notes.txt").write_text("no image")
    assert tree_sha256(first) == tree_sha256(second)
    (second / "train/ants/000.png").rename(second / "train/ants/100.png")
    assert tree_sha256(first) != tree_sha256(second)
    (second / "train/ants/100.png").rename(second / "train/ants/000.png")
    (second / "train/ants/000.png").write_bytes(b"other")
    assert tree_sha256(first) != tree_sha256(second)


def test_ants_bees_honours_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEATCACHE_ANTS_BEES", str(tmp_path))
    assert ants_bees() == tmp_path == prepare("ants-bees", tmp_path / "unused")
    monkeypatch.setenv("FEATCACHE_ANTS_BEES", str(tmp_path / "gone"))
    with pytest.raises(DatasetError) as caught:
        ants_bees()
    assert str(caught.value) == f"FEATCACHE_ANTS_BEES is set to {tmp_path / 'gone'}, which is not a folder"


def test_ants_bees_are_fetched_into_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: Server, archive: tuple[bytes, str]
) -> None:
    monkeypatch.delenv("FEATCACHE_ANTS_BEES", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    repacked = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive[0])) as old, zipfile.ZipFile(repacked, "w") as new:
        for name in old.namelist():
            new.writestr(name.replace("photos/", "hymenoptera_data/", 1), old.read(name))
    server.body = repacked.getvalue()
    monkeypatch.setattr(demo_datasets, "ANTS_BEES_URL", server.address)
    monkeypatch.setattr(demo_datasets, "ANTS_BEES_SHA256", archive[1])
    found = ants_bees()
    assert found == tmp_path / "xdg" / "featcache" / "hymenoptera_data"
    assert tree_sha256(found) == archive[1]


def test_the_cache_lies_in_the_home_folder_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert demo_datasets.cache_folder() == tmp_path / ".cache" / "featcache"


def test_without_a_home_downloads_are_refused_with_the_cure_and_networks_are_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def homeless() -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("FEATCACHE_ANTS_BEES", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(FeatcacheError, match=r"no home folder .* Set XDG_CACHE_HOME to a folder"):
        ants_bees()
    assert cache_path(".json", None, "a") is None


def test_the_real_photos_are_those_of_the_tutorial(ants_bees: Path) -> None:
    assert tree_sha256(ants_bees) == ANTS_BEES_SHA256


def test_prepare_takes_a_path_and_refuses_an_unknown_name(tmp_path: Path) -> None:
    assert prepare(str(tmp_path), tmp_path / "unused") == tmp_path
    with pytest.raises(DatasetError) as caught:
        prepare("cifar", tmp_path)
    assert str(caught.value) == (
        "there is no data set 'cifar': use digits, ants-bees, docstrings, or the path of a folder or CSV"
    )
