"""Wherever images lie, they have the same ids, labels, splits, hashes, and so the same views and features."""

from __future__ import annotations

import csv
import hashlib
import http.server
import json
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from featcache._utils import remote
from featcache.cache.paths import partial_path
from featcache.core.samples import SPLITS
from featcache.data.manifest import Manifest, read_manifest
from featcache.data.sources.registry import open_source
from featcache.errors import DataLayoutError, EmptyFolderError, MissingExtraError, RemoteIOError, UnreadableImageError
from featcache.extraction.extract import extract
from featcache.reports.cache_figures import views_figure
from toys import toy_backbone

MakeFolder = Callable[..., Path]


class Flaky(MemoryFileSystem):
    """Files in memory behind a bad line: each path fails as often as `faults` says, with what `error` makes."""

    protocol = "flaky"
    store: dict[str, Any] = {}  # noqa: RUF012 -- as of MemoryFileSystem
    pseudo_dirs = [""]  # noqa: RUF012
    faults: dict[str, int] = {}  # noqa: RUF012
    asked: dict[str, int] = {}  # noqa: RUF012
    error: Callable[[str], Exception] = OSError

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **more: Any) -> bytes:
        name = path.rpartition("/")[2]
        Flaky.asked[name] = Flaky.asked.get(name, 0) + 1
        if Flaky.asked[name] <= Flaky.faults.get(name, 0):
            raise Flaky.error(f"{name} was cut off")
        return super().cat_file(path, start, end, **more)


fsspec.register_implementation("flaky", Flaky, clobber=True)


@pytest.fixture
def root(make_folder: MakeFolder) -> Path:
    """`validation`, as Hugging Face calls it; one image twice, one that is broken, one that is hidden."""
    root = make_folder({"train/ants": 4, "train/bees": 3, "validation/ants": 2, "validation/bees": 2})
    shutil.copy(root / "train/ants/000.png", root / "train/ants/copy.png")
    (root / "train/bees/broken.png").write_bytes(b"no image")
    (root / "train/bees/.hidden.png").write_bytes(b"no image")
    return root


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*.png") if not path.name.startswith("."))


def rows(root: Path) -> list[dict[str, str]]:
    """What a manifest says of them."""
    summary = []
    for path in files(root):
        name, sha256 = path.relative_to(root).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()
        summary.append({"path": name, "label": path.parent.name, "split": name.split("/")[0], "sha256": sha256})
    return summary


def as_csv(root: Path, *columns: str, name: str = "list.csv", prefix: str = "") -> Path:
    with (root / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, "path": prefix + row["path"]} for row in rows(root))
    return root / name


def as_parquet(root: Path) -> Path:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows(root)), root / "list.parquet")
    return root / "list.parquet"


def put(root: Path, url: str) -> str:
    system, path = fsspec.core.url_to_fs(url)
    for file in (path for path in root.rglob("*") if path.is_file()):
        target = f"{path}/{file.relative_to(root).as_posix()}"
        system.makedirs(target.rpartition("/")[0], exist_ok=True)
        system.pipe_file(target, file.read_bytes())
    return url


def as_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
    return path


def as_webdataset(root: Path, folder: Path) -> Path:
    """Shards of three images, as the package writes them, by split; keys with their folders, labels beside them."""
    from webdataset import TarWriter

    folder.mkdir()
    for split in ("train", "validation"):
        paths = [path for path in files(root) if path.parts[-3] == split]
        for number, start in enumerate(range(0, len(paths), 3)):
            with TarWriter(str(folder / f"pets-{split}-{number:04d}.tar")) as writer:
                for path in paths[start : start + 3]:
                    key = path.relative_to(root / split).with_suffix("").as_posix()
                    writer.write({"__key__": key, "png": path.read_bytes(), "cls": path.parent.name})
    return folder


def as_saved_dataset(root: Path, folder: Path) -> Path:
    import datasets

    def table(split: str) -> datasets.Dataset:
        chosen = [path for path in files(root) if path.parts[-3] == split]
        columns = {
            "picture": [{"path": path.name, "bytes": path.read_bytes()} for path in chosen],
            "label": [("ants", "bees").index(path.parent.name) for path in chosen],
        }
        kinds = {"picture": datasets.Image(), "label": datasets.ClassLabel(names=["ants", "bees"])}
        return datasets.Dataset.from_dict(columns, datasets.Features(kinds))

    datasets.DatasetDict({split: table(split) for split in ("train", "validation")}).save_to_disk(str(folder))
    return folder


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket on loopback."""
    from moto.server import ThreadedMotoServer

    with pytest.MonkeyPatch.context() as patch:
        server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").mkdir("bucket")
        yield "s3://bucket"
        server.stop()


@pytest.fixture
def web(root: Path) -> Iterator[str]:
    """The folder, served by HTTP on loopback."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=root)) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def the_same(manifest: Manifest, expected: Manifest) -> None:
    assert manifest.samples.differences(expected.samples) == []
    assert manifest.samples.digest() == expected.samples.digest()


KINDS: dict[str, Callable[[Path, Path, str, str], object]] = {
    "csv": lambda root, tmp, s3, web: as_csv(root, "path", "label", "split"),
    "csv with hashes": lambda root, tmp, s3, web: as_csv(root, "sha256", "label", "path", "split"),
    "s3 csv of urls": lambda root, tmp, s3, web: (
        as_csv(root, "path", "label", "split", prefix=f"{s3}/{tmp.name}/"),
        put(root, f"{s3}/{tmp.name}") + "/list.csv",
    )[1],
    "parquet": lambda root, tmp, s3, web: as_parquet(root),
    "s3 folder": lambda root, tmp, s3, web: put(root, f"{s3}/{tmp.name}"),
    "s3 csv": lambda root, tmp, s3, web: (
        put(as_csv(root, "path", "label", "split").parent, f"{s3}/{tmp.name}") + "/list.csv"
    ),
    "s3 parquet": lambda root, tmp, s3, web: put(as_parquet(root).parent, f"{s3}/{tmp.name}") + "/list.parquet",
    "http csv": lambda root, tmp, s3, web: f"{web}/{as_csv(root, 'path', 'label', 'split').name}",
    "one tar": lambda root, tmp, s3, web: as_tar(
        tmp / "all.tar", {path.relative_to(root).as_posix(): path.read_bytes() for path in files(root)}
    ),
    "webdataset": lambda root, tmp, s3, web: as_webdataset(root, tmp / "shards"),
    "webdataset, pattern": lambda root, tmp, s3, web: as_webdataset(root, tmp / "shards") / "*-00{00..09}*.tar",
    "s3 webdataset": lambda root, tmp, s3, web: (
        put(as_webdataset(root, tmp / "shards"), f"{s3}/{tmp.name}") + "/pets-*.tar"
    ),
    "hugging face": lambda root, tmp, s3, web: as_saved_dataset(root, tmp / "saved"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_the_same_wherever_they_lie(root: Path, tmp_path: Path, s3: str, web: str, kind: str) -> None:
    expected = extract(root, tmp_path / "expected.h5", backbone=toy_backbone(), views=2, workers=2)
    data = KINDS[kind](root, tmp_path, s3, web)
    the_same(read_manifest(data), read_manifest(root))
    extraction = extract(data, tmp_path / "found.h5", backbone=toy_backbone(), views=2, workers=2)
    assert extraction.skipped == expected.skipped
    assert [name for name, _ in extraction.skipped] == ["train/bees/broken.png"]
    for split in SPLITS[:2]:
        a, b = (result.cache.features(split).x for result in (extraction, expected))
        np.testing.assert_array_equal(a[:], b[:])


def test_pictures_are_drawn_from_afar(root: Path, tmp_path: Path, s3: str) -> None:
    cache = extract(root, tmp_path / "cache.h5", backbone=toy_backbone(), views=2, workers=2).cache
    near, far = (views_figure(cache, data, 3) for data in (root, put(root, f"{s3}/{tmp_path.name}")))
    for a, b in zip(near.args[0], far.args[0], strict=True):
        np.testing.assert_array_equal(a, b)


def test_hashes_that_a_manifest_has_are_not_taken_again(root: Path) -> None:
    url = put(root, "flaky://hashed")
    as_csv(root, "path", "label", "split", "sha256")
    put(root, url)
    Flaky.asked.clear()
    read_manifest(f"{url}/list.csv")
    assert Flaky.asked == {"list.csv": 2}  # its header, which tells images from texts, and the table


def test_an_image_that_is_not_what_its_manifest_says_is_skipped_with_the_reason(root: Path, tmp_path: Path) -> None:
    manifest = as_csv(root, "path", "label", "split", "sha256")
    shutil.copy(root / "train/ants/001.png", root / "train/ants/002.png")
    extraction = extract(manifest, tmp_path / "cache.h5", backbone=toy_backbone(), workers=2)
    assert dict(extraction.skipped)["train/ants/002.png"] == (
        "its bytes are not those that were hashed: it has changed, or its manifest's sha256 is of another file"
    )


def test_a_line_that_fails_now_and_then_changes_nothing(root: Path) -> None:
    url = put(root, "flaky://now-and-then")
    Flaky.asked.clear()
    Flaky.faults = {"001.png": remote.TRIES - 1}
    Flaky.error = OSError
    try:
        the_same(read_manifest(url), read_manifest(root))
    finally:
        Flaky.faults = {}
    assert Flaky.asked["002.png"] == 2  # of two classes


def test_a_lost_line_ends_the_work_and_skips_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "TRIES", 2)
    url, out = put(root, "flaky://lost"), tmp_path / "cache.h5"
    manifest = read_manifest(url)
    Flaky.asked.clear()
    Flaky.faults, Flaky.error = {"003.png": 10**6}, ConnectionResetError
    try:
        with pytest.raises(RemoteIOError) as caught:
            extract(manifest, out, backbone=toy_backbone(), workers=1, batch_size=3, value_range=(0, 255))
    finally:
        Flaky.faults = {}
    assert str(caught.value) == (
        "flaky://lost/train/ants/003.png cannot be read: 003.png was cut off. Check the address and your access to "
        "it, then run the same command again: it resumes."
    )
    assert partial_path(out).exists()
    extraction = extract(manifest, out, backbone=toy_backbone(), workers=1, value_range=(0, 255))
    assert [name for name, _ in extraction.skipped] == ["train/bees/broken.png"]
    assert 0 < extraction.extracted < len(manifest.samples) - 1


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError])
def test_what_is_not_there_is_not_asked_for_again(root: Path, tmp_path: Path, error: type[OSError]) -> None:
    url = put(root, f"flaky://{error.__name__.lower()}")
    Flaky.asked.clear()
    Flaky.faults, Flaky.error = {"003.png": 10**6}, error
    try:
        extraction = extract(url, tmp_path / "cache.h5", backbone=toy_backbone(), workers=1)
    finally:
        Flaky.faults = {}
    assert Flaky.asked["003.png"] == 3  # once to hash it, once for the value range, once to read it
    assert ("train/ants/003.png", "003.png was cut off") in extraction.skipped


@pytest.mark.parametrize(("status", "again"), [(500, True), (503, True), (429, True), (403, False), (404, False)])
def test_which_answers_of_a_server_are_worth_another_try(status: int, again: bool) -> None:
    error = type("ClientResponseError", (Exception,), {"status": status})()
    assert remote._is_transient(error) is again


ODD_NAMES = ("50%.png", "a b+c.png", "a#1.png", "why?.png", "größe.png", "a&amp;b.png", "%41.png", "it's (1), [2].png")


def test_names_of_http_are_those_of_the_folder(root: Path, web: str) -> None:
    for number, name in enumerate(ODD_NAMES):
        folder = root / ("train/größe & co", "train/100% #1?")[number % 2]
        folder.mkdir(exist_ok=True)
        shutil.copy(root / "train/ants/000.png", folder / name)
        with (folder / name).open("ab") as file:
            file.write(name.encode())
    expected = read_manifest(root)
    assert {"größe & co", "100% #1?"} < set(expected.samples.classes)
    from_web = read_manifest(web)
    the_same(from_web, expected)
    assert [from_web.read(row) for row in range(len(from_web.samples))] == [
        expected.read(row) for row in range(len(expected.samples))
    ]
    the_same(read_manifest(f"{web}/{as_csv(root, 'path', 'label', 'split').name}"), expected)


def test_a_whole_url_below_an_http_folder_becomes_a_plain_name() -> None:
    root = "https://example.org/my%20pets"
    assert remote.join(root, "a b/50%.png") == "https://example.org/my%20pets/a%20b/50%25.png"
    assert remote.relative("https://example.org/my%20pets/a%20b/50%25.png", root) == "a b/50%.png"
    signed = "https://example.org/my%20pets/a.png?signature=1"
    assert remote.join(root, remote.relative(signed, root)) == signed
    slash = "https://example.org/my%20pets/a%2Fb.png"
    assert remote.join(root, remote.relative(slash, root)) == slash


def test_urls_are_joined_and_taken_apart() -> None:
    assert remote.join("s3://bucket/pets", "train/ants/1.jpg") == "s3://bucket/pets/train/ants/1.jpg"
    assert remote.join("s3://bucket/pets", "../other/1.jpg") == "s3://bucket/other/1.jpg"
    assert remote.join("s3://bucket/pets", "gs://other/1.jpg") == "gs://other/1.jpg"
    assert remote.relative("s3://bucket/pets/ants/1.jpg", "s3://bucket/pets/") == "ants/1.jpg"
    assert remote.relative("s3://bucket/petshop/1.jpg", "s3://bucket/pets") == "s3://bucket/petshop/1.jpg"


def test_an_image_elsewhere_keeps_its_url_as_id(root: Path, tmp_path: Path) -> None:
    put(root, "memory://elsewhere")
    path = tmp_path / "list.csv"
    path.write_text(
        "path,label,split\nmemory://elsewhere/train/ants/000.png,ants,train\n"
        "memory://elsewhere/train/bees/000.png,bees,train\ndata/validation/ants/000.png,ants,val\n"
    )
    manifest = read_manifest(path)
    assert manifest.samples.ids == (
        "memory://elsewhere/train/ants/000.png",
        "memory://elsewhere/train/bees/000.png",
        "data/validation/ants/000.png",
    )
    for row, name in enumerate(("train/ants/000.png", "train/bees/000.png", "validation/ants/000.png")):
        assert manifest.read(row) == (root / name).read_bytes()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"a.cls": b"3", "b.cls": b"12", "c.cls": b"3"}, ["3", "12", "3"]),
        ({"a.json": b'{"label": "x"}', "b.json": b'{"cls": 7}', "c.cls": b"y\n"}, ["x", "7", "y"]),
        ({"a.cls": b"x", "a.json": b'{"label": "z"}', "b.cls": b"y", "c.cls": b"x"}, ["x", "y", "x"]),
    ],
)
def test_labels_that_lie_beside_images(tmp_path: Path, labels: dict[str, bytes], expected: list[str]) -> None:
    images = {f"{key}.png": key.encode() for key in "abc"}
    source = open_source(as_tar(tmp_path / "train.tar", {**labels, **images}))
    entries, several, *_ = source.entries(__import__("collections").Counter())
    assert [(entry.id, entry.classes, entry.split) for entry in sorted(entries, key=lambda entry: entry.id)] == [
        (f"train/{key}.png", (label,), "train") for key, label in zip("abc", expected, strict=True)
    ]
    assert not several
    assert [source.read(f"train/{key}.png") for key in "abc"] == [b"a", b"b", b"c"]


def test_several_labels_beside_an_image(tmp_path: Path) -> None:
    members = {"a.png": b"a", "b.png": b"b", "c.png": b"c", "a.json": json.dumps({"label": ["x", "y"]}).encode()}
    members |= {"b.cls": b"y", "c.json": b'{"label": []}'}
    manifest = read_manifest(as_tar(tmp_path / "train.tar", members), val_fraction=0.34)
    labels = dict(zip(manifest.samples.ids, manifest.samples.labels.tolist(), strict=True))
    assert manifest.samples.classes == ("x", "y")
    assert labels == {"train/a.png": [1, 1], "train/b.png": [0, 1], "train/c.png": [0, 0]}


@pytest.mark.parametrize(
    ("name", "members", "message"),
    [
        ("a.tar", {"a.png": b"a", "a.cls": b"x", "b.png": b"b"}, "{path}: b.png has no label. Expected it in a file "
         "beside it, b.cls or .json."),
        ("a.tar", {"a.png": b"a", "a.json": b"{"}, "{path}, a.json has no label that can be read: Expecting property "
         "name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("a.tar", {"a.png": b"a", "a.cls": b"\xff"}, "{path}, a.cls has no label that can be read: 'utf-8' codec can't "
         "decode byte 0xff in position 0: invalid start byte"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_tar_files_is_said(
    tmp_path: Path, name: str, members: dict[str, bytes], message: str
) -> None:
    path = as_tar(tmp_path / name, members)
    with pytest.raises(DataLayoutError) as caught:
        read_manifest(path)
    assert str(caught.value) == message.format(path=path)


def test_a_tar_that_is_cut_off_is_refused(root: Path, tmp_path: Path) -> None:
    path = as_tar(tmp_path / "all.tar", {file.relative_to(root).as_posix(): file.read_bytes() for file in files(root)})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataLayoutError) as caught:
        read_manifest(path)
    assert str(caught.value) == f"{path} is not a whole tar file: unexpected end of data."


def test_compressed_tars_missing_ones_and_keys_that_come_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataLayoutError) as packed:
        read_manifest(tmp_path / "pets.tar.gz")
    assert str(packed.value).startswith(f"{tmp_path / 'pets.tar.gz'} is compressed, and images are read from places")
    with pytest.raises(EmptyFolderError) as absent:
        read_manifest(tmp_path / "pets-{0..1}.tar")
    assert str(absent.value) == f"{tmp_path / 'pets-0.tar'} does not exist."
    with pytest.raises(EmptyFolderError) as none:
        read_manifest(tmp_path / "*.tar")
    assert str(none.value) == f"{tmp_path / '*.tar'} names no tar file."
    shards = [as_tar(tmp_path / f"pets-{number}.tar", {"a.png": b"a", "a.cls": b"x"}) for number in range(2)]
    with pytest.raises(DataLayoutError) as twice:
        read_manifest(tmp_path / "pets-{0..1}.tar")
    assert str(twice.value) == (
        f"{shards[1]}: a.png is in {shards[0]}, too. Images of one split need keys of their own."
    )


def test_a_parquet_file_that_is_none_or_lacks_a_column(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    path.write_bytes(b"no parquet")
    with pytest.raises(DataLayoutError) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path} is not a Parquet file of texts: ")
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"file": ["a"], "label": ["x"]}), path)
    with pytest.raises(DataLayoutError) as lacking:
        read_manifest(path)
    assert str(lacking.value) == (
        f"{path} must have the columns path,label[,split][,sha256]; found file,label. A table of texts has the columns "
        "text,label; another column of texts: --text-column NAME"
    )


@pytest.mark.parametrize("sha256", ["0", "xy" * 32, "ab" * 31])
def test_a_hash_that_is_none_is_refused(root: Path, sha256: str) -> None:
    path = root / "list.csv"
    path.write_text(f"path,label,sha256\ntrain/ants/000.png,ants,{sha256}\n")
    with pytest.raises(DataLayoutError) as caught:
        read_manifest(path)
    assert str(caught.value) == f"{path}, line 2: sha256 is {sha256!r}; it must be 64 hexadecimal digits"


def test_an_address_that_leads_nowhere_is_an_error_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EmptyFolderError) as nothing:
        read_manifest("memory://nowhere")
    assert str(nothing.value).startswith("memory://nowhere holds no images. Expected memory://nowhere/<class>/*.jpg")
    with pytest.raises(RemoteIOError) as unknown:
        read_manifest("nosuch://bucket/x")
    assert str(unknown.value).startswith("nosuch://bucket/x is not opened: its scheme is 'nosuch'")
    monkeypatch.setenv(remote.ALLOWED, "nosuch")
    with pytest.raises(RemoteIOError, match="nosuch://bucket/x: Protocol not known: nosuch"):
        read_manifest("nosuch://bucket/x")


def test_a_missing_driver_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(url: str) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(remote, "_file_system", absent)
    with pytest.raises(MissingExtraError) as caught:
        read_manifest("s3://bucket/pets")
    message = 's3://bucket/pets: Install s3fs to access S3. For it: pip install -e ".[remote]" in the clone'
    assert str(caught.value) == message


def test_an_unreadable_image_from_afar_is_named_with_its_source(root: Path, tmp_path: Path) -> None:
    url = put(root, "memory://strict")
    with pytest.raises(UnreadableImageError) as caught:
        extract(url, tmp_path / "cache.h5", backbone=toy_backbone(), workers=1, strict=True)
    assert str(caught.value).startswith("train/bees/broken.png of memory://strict cannot be read: ")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("photos/ants/..", "photos"),
        ("s3://bucket/photos.csv", "s3://bucket/photos.csv"),
        ("https://ann:secret@example.org/a/b.tar?signature=1", "https://example.org/a/b.tar"),
    ],
)
def test_a_report_names_data_without_secrets(data: str, name: str) -> None:
    assert remote.display_name(data) == name
