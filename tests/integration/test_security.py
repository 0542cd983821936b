"""What files of others cannot do: open URLs that their data does not name, start programs, hang, fill the memory.

SECURITY.md names these tests beside what it promises.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from commands import PATHS, ROOT, toy_cache, write_folder
from featcache._utils import remote
from featcache.backbones.metadata_cache import metadata_path
from featcache.core.model_card import ModelCard
from featcache.data.manifest import read_manifest
from featcache.data.sources.folder import FolderSource
from featcache.data.sources.registry import open_source
from featcache.data.sources.tar_index import MAX_CONTENT, index_tar
from featcache.errors import DataLayoutError, HeadError, RemoteIOError, UnreadableImageError
from featcache.models.inputs.names import list_inputs
from featcache.vision.decode import decode
from featcache.vision.image_files import upright_size
from toys import image_inputs, random_image

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n(x) print showpage\n%%EOF\n"
DOS_EPS = b"\xc5\xd0\xd3\xc6" + (30).to_bytes(4, "little") + len(EPS).to_bytes(4, "little") + bytes(18) + EPS
GIGABYTES = 3 * 10**9


def run(code: str, *arguments: object, seconds: float = 60) -> str:
    """What a program prints that must end by itself: a hang would be in C, where a test's own limit does not reach."""
    found = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": PATHS},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    return found.stdout


# 1. URLs


@pytest.mark.parametrize(
    "url",
    [
        "reference://::ref.json",
        "reference://x.jpg",
        "simplecache::https://example.org/a.jpg",
        "https://example.org/a.jpg::reference://x",
        "zip://a.jpg::file:///tmp/a.zip",
        "dir://::reference://x",
        "local://x",
        "ssh://example.org/a.jpg",
        "{reference}://a.jpg",
        "../a/x://b.jpg",
        "://a.jpg",
    ],
)
def test_urls_of_other_schemes_and_chains_are_not_opened(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(remote, "_file_system", lambda *names: opened.append(str(names)))
    for call in (remote.read, remote.names, remote.matches, remote.open_url, remote.stat, remote.is_folder):
        if url.startswith("https://"):  # one URL of HTTPS, with odd letters in its path
            assert remote.check_url(url) == "https"
            continue
        with pytest.raises(RemoteIOError, match=r"is not opened") as caught:
            call(url)
        assert "FEATCACHE_SCHEMES" in str(caught.value) or "(::)" in str(caught.value)
    assert opened == []


def test_an_allowed_url_is_never_taken_for_a_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    def chained(*args: object, **kwargs: object) -> None:
        raise AssertionError("fsspec looks for a chain")

    monkeypatch.setattr(fsspec.core, "_un_chain", chained)
    monkeypatch.setattr(fsspec.core, "url_to_fs", chained)
    url = "memory://chain/a::reference:/{{x}}.jpg"
    fsspec.filesystem("memory").pipe_file(remote._system(url)[1], b"plain")
    assert remote.read(url) == b"plain"
    assert remote._system("http://[::1]:9/a.jpg")[1] == "http://[::1]:9/a.jpg"
    assert remote._system("reference::a.h5")[1] == os.path.abspath("reference::a.h5")


def test_the_schemes_are_these_and_those_that_a_user_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from featcache._utils import remote; print(*sorted(remote.SCHEMES))"
    assert run(code).split() == ["file", "gs", "http", "https", "s3"]
    monkeypatch.setattr(remote, "SCHEMES", {"https"})
    with pytest.raises(RemoteIOError, match="'abfs', and those that are allowed are https"):
        remote.check_url("abfs://container/a.jpg")
    monkeypatch.setenv(remote.ALLOWED, "abfs,hf,::,")
    assert remote.check_url("ABFS://container/a.jpg") == "abfs"
    with pytest.raises(RemoteIOError, match="chain"):
        remote.check_url("::://a.jpg")
    remote.allow_scheme("s3")
    assert {"https", "s3"} == remote.SCHEMES
    with pytest.raises(ValueError, match="is not a scheme of URLs"):
        remote.allow_scheme("a::b")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_table_runs_nothing(kind: str, tmp_path: Path) -> None:
    """The attack: a reference file with a template; before fsspec 2026.6.0 it ran what it liked."""
    ran = tmp_path / "ran"
    template = "{{ cycler.__init__.__globals__.os.system('touch " + str(ran) + "') }}"
    (tmp_path / "ref.json").write_text(
        json.dumps({"version": 1, "templates": {"u": template}, "refs": {"x.jpg": ["{{u}}", 0, 1]}})
    )
    rows = [
        {"path": f"reference://x.jpg::{tmp_path / 'ref.json'}", "label": "a"},
        {"path": f"reference://::{tmp_path / 'ref.json'}", "label": "b"},
    ]
    table = tmp_path / f"list.{kind}"
    if kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    elif kind == "csv":
        table.write_text("path,label\n" + "".join(f"{row['path']},{row['label']}\n" for row in rows))
    else:
        table.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(RemoteIOError, match="its scheme is 'reference'"):
        read_manifest(table)
    with pytest.raises(RemoteIOError, match="its scheme is 'reference'"):
        list_inputs([str(table)], image_inputs(), {})
    assert not ran.exists()


class Spy(MemoryFileSystem):
    """Files in memory; what was read is kept."""

    protocol = "spy"
    store: dict[str, object] = {}  # noqa: RUF012 -- as of MemoryFileSystem
    pseudo_dirs = [""]  # noqa: RUF012
    asked: list[str] = []  # noqa: RUF012

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **more: object) -> bytes:
        Spy.asked.append(path)
        found: bytes = super().cat_file(path, start, end, **more)
        return found


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> type[Spy]:
    fsspec.register_implementation("spy", Spy, clobber=True)
    monkeypatch.setattr(remote, "SCHEMES", remote.SCHEMES | {"spy"})
    remote._file_system.cache_clear()
    buffer = io.BytesIO()
    random_image(1).save(buffer, "PNG")
    for name in ("spy://here/a/1.png", "spy://here/b/2.png", "spy://other/3.png"):
        Spy().pipe_file(name, buffer.getvalue())
    Spy.asked.clear()
    return Spy


def test_an_id_is_no_url_that_the_data_does_not_name(spy: type[Spy], tmp_path: Path) -> None:
    write_folder(tmp_path / "data", {"a": 1, "b": 1})
    table = tmp_path / "data/list.csv"
    table.write_text("path,label\nspy://here/a/1.png,a\nb/000.png,b\n")
    folder, listed = open_source(tmp_path / "data"), open_source(table)
    for source in (folder, folder.subset(["spy://other/3.png"]), listed, listed.subset(["spy://other/3.png"])):
        with pytest.raises(FileNotFoundError, match="does not list this URL"):
            source.read("spy://other/3.png")
    with pytest.raises(FileNotFoundError, match="does not list this URL"):
        FolderSource("spy://here").read("spy://other/3.png")
    assert spy.asked == []
    before = open_source(table)  # asked before its images were
    for source in (before, before.subset(["spy://here/a/1.png"]), open_source(table).subset(["spy://here/a/1.png"])):
        assert source.read("spy://here/a/1.png").startswith(b"\x89PNG")
    assert spy.asked == ["spy://here/a/1.png"] * 3


def test_ids_of_metadata_files_are_those_that_they_list(spy: type[Spy], tmp_path: Path) -> None:
    write_folder(tmp_path / "data", {"train": 2})
    (tmp_path / "data/train/metadata.csv").write_text("file_name,label\n000.png,a\nspy://here/a/1.png,b\n")
    source = open_source(tmp_path / "data")
    assert source.read("spy://here/a/1.png").startswith(b"\x89PNG")
    with pytest.raises(FileNotFoundError, match="does not list this URL"):
        source.read("spy://other/3.png")


@pytest.mark.parametrize("name", ["../../other/3.png", "/other/3.png", "../../../../other/3.png"])
def test_a_relative_id_stays_with_its_host(name: str, spy: type[Spy]) -> None:
    assert remote.join("s3://bucket/pets", name) == "s3://bucket/other/3.png"
    assert remote.join("https://example.org/pets", name) == "https://example.org/other/3.png"
    with pytest.raises(FileNotFoundError):
        FolderSource("spy://here").read(name)
    assert spy.asked == ["spy://here/other/3.png"]


def test_a_table_from_afar_names_no_file_of_this_machine(spy: type[Spy], tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"secret")
    Spy().pipe_file("spy://here/list.csv", f"path,label\nfile://{tmp_path}/1.png,a\na/1.png,b\n".encode())
    with pytest.raises(DataLayoutError, match="names a file of this machine"):
        read_manifest("spy://here/list.csv")


# 2. Formats


@pytest.mark.parametrize("content", [EPS, DOS_EPS], ids=["EPS", "DOS EPS"])
def test_a_program_in_a_picture_is_not_run(content: bytes, tmp_path: Path) -> None:
    """No process starts, whatever reads it; a fake Ghostscript would tell."""
    tools, ran = tmp_path / "bin", tmp_path / "ran"
    tools.mkdir()
    (tools / "gs").write_text(f"#!/bin/sh\necho ran >> {ran}\nexit 1\n")
    (tools / "gs").chmod(0o755)
    (tmp_path / "a.jpg").write_bytes(content)
    code = f"""
import os, sys
os.environ["PATH"] = {str(tools)!r} + os.pathsep + os.environ["PATH"]
started = []
sys.addaudithook(lambda event, args: started.append(event) if event in
    ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork") else None)
from pathlib import Path
from featcache.errors import UnreadableImageError
from featcache.vision.decode import decode, value_extent
from featcache.vision.image_files import upright_size
path = Path(sys.argv[1])
for call in (decode, value_extent):
    try:
        call(path.read_bytes())
    except UnreadableImageError as error:
        print(error)
print(upright_size(path), upright_size(path.read_bytes()), started)
"""
    reason = "a PostScript program (EPS), which is not run: export it as PNG\n"
    assert run(code, tmp_path / "a.jpg") == f"{reason}{reason}None None []\n"
    assert not ran.exists()


@pytest.mark.parametrize("name", ["PSD", "TGA", "ICO", "PCX", "SGI", "IM", "MSP", "SPIDER", "XBM"])
def test_formats_that_are_not_listed_are_not_read(name: str) -> None:
    Image.init()
    buffer = io.BytesIO()
    mode = {"MSP": "1", "XBM": "1", "SPIDER": "F"}.get(name, "RGB")
    if name == "PSD":
        buffer.write(b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\4\0\0\0\4\0\x08\0\3" + bytes(20))
    else:
        Image.new(mode, (16, 16)).save(buffer, name)
    with pytest.raises(UnreadableImageError):
        decode(buffer.getvalue())
    assert upright_size(buffer.getvalue()) is None


@pytest.mark.parametrize("name", ["PNG", "JPEG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "JPEG2000", "MPO", "AVIF"])
def test_formats_that_are_listed_are_read(name: str) -> None:
    Image.init()
    if name not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {name}")
    buffer = io.BytesIO()
    Image.new("RGB", (16, 12), (200, 100, 50)).save(buffer, name)
    assert np.abs(decode(buffer.getvalue()).astype(int) - (200, 100, 50)).max() <= 4
    assert upright_size(buffer.getvalue()) == (12, 16)


# 3. Pipes, devices, gigabytes

MakeFile = Callable[[Path], object]


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(GIGABYTES)


ODD_FILES: dict[str, tuple[MakeFile, str]] = {
    "device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file, but a device"),
    "pipe": (lambda path: os.mkfifo(path), "not a regular file, but a pipe"),
    "gigabytes": (sparse, "it has 3,000,000,000 bytes, more than the 2,147,483,648"),
}


@pytest.fixture(params=ODD_FILES)
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A file that must not be read to its end, and why it is not."""
    make, reason = ODD_FILES[request.param]
    path = tmp_path / "odd.jpg"
    make(path)
    return path, reason


READ = """
import sys
from collections import Counter
from featcache.data.sources.folder import FolderSource
from featcache.data.sources.registry import open_source
from featcache._utils.regular_files import read_regular
from featcache.vision.image_files import upright_size
from pathlib import Path
path = Path(sys.argv[1])
table = path.with_name("list.csv")
table.write_text(f"path,label\\n{path},a\\nfile://{path},b\\n")
listed = open_source(table)
for read, name in ((FolderSource(str(path.parent)).read, path.name), (FolderSource("/").read, str(path)),
                   (read_regular, str(path)), (listed.read, f"file://{path}")):
    try:
        print(len(read(name)))
    except OSError as error:
        print(error.strerror)
print(upright_size(path))
print(len(FolderSource(str(path.parent)).hash([path.name])))
"""


def test_an_image_is_a_regular_file_of_bounded_size(odd: tuple[Path, str]) -> None:
    path, reason = odd
    lines = run(READ, path, seconds=100).splitlines()
    assert all(reason in line for line in lines[:3])
    assert "not a regular file" in lines[3] or "bytes" in lines[3]
    assert lines[4:] == ["None", "1"]


WEIGHTS = """
import sys
from featcache.backbones.metadata_cache import metadata_path
from featcache.backbones.load import load_backbone
print(metadata_path("mobilenet_v2", sys.argv[1], ["penultimate"], 0))
try:
    load_backbone("mobilenet_v2", weights=sys.argv[1])
except Exception as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("kind", ["device", "pipe"])
def test_weights_are_a_regular_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    ODD_FILES[kind][0](path)
    assert run(WEIGHTS, path) == "None\nBackboneError\n"
    assert metadata_path("mobilenet_v2", "/dev/zero", ["penultimate"], 0) is None


def test_a_model_is_not_read_to_the_end_of_gigabytes(tmp_path: Path) -> None:
    sparse(tmp_path / "model.json")
    with pytest.raises((HeadError, OSError), match="bytes"):
        ModelCard.read(tmp_path)


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def sparse_tar(path: Path, name: str, kind: bytes = tarfile.REGTYPE) -> Path:
    """A tar of some kilobytes on the disk, with a file of three gigabytes."""
    info = tarfile.TarInfo(name)
    info.size, info.type = GIGABYTES, kind
    header = info.tobuf()
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + GIGABYTES + 10 * 1024)
    return path


@pytest.mark.parametrize("name", ["a.cls", "a.json"])
def test_a_label_of_gigabytes_is_refused_at_once(name: str, tmp_path: Path) -> None:
    path = sparse_tar(tmp_path / "train.tar", name)
    started = time.monotonic()
    with pytest.raises(DataLayoutError, match=rf"{name} has 3,000,000,000 bytes; .* {MAX_CONTENT:,} at"):
        index_tar(str(path), (".cls", ".json"))
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_header_of_gigabytes_is_refused_at_once(kind: bytes, tmp_path: Path) -> None:
    path = sparse_tar(tmp_path / "train.tar", "a.jpg", kind)
    started = time.monotonic()
    with pytest.raises(DataLayoutError, match=r"not a whole tar file: a header of 3,000,000,000 bytes"):
        index_tar(str(path))
    assert time.monotonic() - started < 1


def test_nobody_waits_for_the_other_tars_after_an_error(tmp_path: Path) -> None:
    sparse_tar(tmp_path / "b.tar", "a.jpg")
    (tmp_path / "a.tar").write_bytes(b"no tar" * 200)
    started = time.monotonic()
    with pytest.raises(DataLayoutError, match=r"a\.tar is not a whole tar file"):
        open_source(tmp_path).entries(Counter())
    assert time.monotonic() - started < 1


def test_a_tar_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    code = """
import sys
from featcache.data.sources.tar_index import index_tar
try:
    index_tar(sys.argv[1])
except OSError as error:
    print(error.strerror)
"""
    assert run(code, tmp_path / "a.tar") == "not a regular file, but a pipe\n"


MEMORY = """
import sys
from collections import Counter
from featcache.errors import FeatcacheError
from featcache._utils.environment import peak_memory_bytes
from featcache.data.sources.registry import open_source
try:
    print(len(open_source(sys.argv[1]).entries(Counter()).entries))
except FeatcacheError as error:
    print(error)
print(peak_memory_bytes() // 2**20)
"""


def test_a_small_table_does_not_fill_the_memory(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "list.parquet"
    n = 20_000_000
    columns = {
        name: pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(n, np.int32)), [value])
        for name, value in (("path", "x" * 200), ("label", "a"))
    }
    parquet.write_table(pyarrow.table(columns), path)
    assert path.stat().st_size < 600_000
    said, megabytes = run(MEMORY, path, seconds=120).splitlines()
    assert "fills the memory with the same again and again" in said
    assert int(megabytes) < 2500


def test_one_text_of_gigabytes_is_not_decoded(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "list.parquet"
    parquet.write_table(pyarrow.table({"path": ["x" * 700_000_000], "label": ["a"]}), path, compression="zstd")
    assert path.stat().st_size < 300_000
    said, megabytes = run(MEMORY, path, seconds=120).splitlines()
    assert "fills the memory" in said
    assert int(megabytes) < 700


@pytest.mark.parametrize("index", ["", None])
def test_a_sound_table_is_read_as_before(index: str | None, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    write_folder(tmp_path, {"a": 2, "b": 1})
    rows = {
        "path": ["a/000.png", "a/001.png", "b/000.png"],
        "label": pyarrow.array(["x", "y", "x"]).dictionary_encode(),
        "split": ["train", index, "train"],
        "group": [1.0, float("nan"), 2.0],
    }
    parquet.write_table(pyarrow.table(rows), tmp_path / "list.parquet")
    found = open_source(tmp_path / "list.parquet").entries(Counter()).entries
    assert [(one.id, one.classes, one.split, one.group) for one in found] == [
        ("a/000.png", ("x",), "train", "1"),
        ("a/001.png", ("y",), None, ""),
        ("b/000.png", ("x",), "train", "2"),
    ]


def test_images_that_repeat_do_not_fill_the_disk(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("datasets")
    from pyarrow import parquet

    one = pyarrow.array([b"x" * 900_000])
    bytes_ = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(100_000, np.int32)), one)
    table = pyarrow.table({"image": bytes_, "label": pyarrow.array(np.zeros(100_000, np.int64))})
    path = tmp_path / "train.parquet"
    parquet.write_table(table, path, store_schema=False)
    assert path.stat().st_size < 300_000
    said, megabytes = run(MEMORY, path, seconds=120).splitlines()
    assert "fills the disk with the same again and again" in said
    assert int(megabytes) < 3500


@pytest.mark.parametrize("name", ["../other/data.arrow", "/dev/zero", "pipe.arrow", ".."])
def test_a_saved_data_set_names_files_of_its_own(name: str, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "saved"
    datasets.Dataset.from_dict({"image": [b"x"], "label": ["a"]}).save_to_disk(folder)
    os.mkfifo(folder / "pipe.arrow")
    state = json.loads((folder / "state.json").read_text())
    state["_data_files"] = [{"filename": name}]
    (folder / "state.json").write_text(json.dumps(state))
    said, _ = run(MEMORY, folder, seconds=120).splitlines()
    assert "names a file outside of it" in said or "not a regular file" in said


def test_a_row_that_names_a_device_is_skipped(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    images = [{"bytes": None, "path": "/dev/zero"}, {"bytes": b"x", "path": None}]
    column = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}  # an Image would be read to be saved
    features = datasets.Features({"image": column, "label": datasets.Value("string")})
    datasets.Dataset.from_dict({"image": images, "label": ["a", "b"]}, features=features).save_to_disk(tmp_path / "d")
    code = """
import sys
from collections import Counter
from featcache.data.sources.registry import open_source
source = open_source(sys.argv[1])
names = [entry.id for entry in source.entries(Counter()).entries]
print(len(source.hash(names)))
try:
    source.read(names[0])
except OSError as error:
    print(error.strerror)
"""
    assert run(code, tmp_path / "d", seconds=120) == "2\nnot a regular file, but a device\n"


# 4. What SECURITY.md says


def test_each_promise_names_tests_that_there_are() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    named = {word.strip("`.,;)(") for word in text.split() if word.strip("`.,;)(").startswith(("test_", "tests/"))}
    files = {name for name in named if name.startswith("tests/")}
    assert files
    for name in files:
        path, _, test = name.partition("::")
        content = (ROOT / path).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in content, name


def test_a_cache_of_others_is_read_without_its_data(tmp_path: Path, spy: type[Spy]) -> None:
    """A cache whose ids are URLs: nothing is fetched by looking at it with other data."""
    from featcache.cache.feature_cache import FeatureCache

    data = write_folder(tmp_path / "data", {"train/a": 3, "train/b": 3})
    cache = FeatureCache.open(toy_cache(data, tmp_path / "cache.h5"))
    object.__setattr__(cache.samples, "ids", tuple(f"spy://other/{name}" for name in cache.samples.ids))
    source = open_source(data)
    for name in cache.samples.ids:
        with pytest.raises(FileNotFoundError):
            source.read(name)
    assert spy.asked == []
