"""What `Classifier.predict` and `featcache predict` take: wherever an image comes from, its prediction is the same."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import fsspec
import pytest

from commands import done, featcache_cli, write_folder
from featcache.errors import DataLayoutError, EmptyFolderError, IgnoredFilesWarning
from featcache.extraction.extract import extract
from featcache.heads.fit_head import fit_head
from featcache.models.classifier import Classifier
from featcache.models.inputs.base import SampleFile
from featcache.models.inputs.names import list_inputs
from toys import image_inputs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("inputs") / "data")


@pytest.fixture(scope="module")
def model(data: Path) -> Path:
    out = data.parent / "cache.h5"
    extract(data, out, backbone="mobilenet_v3_small", weights="none", image_size=32, views=0, device="cpu")
    fit_head(out, data.parent / "model")
    return data.parent / "model"


@pytest.fixture(scope="module")
def classifier(model: Path) -> Classifier:
    return Classifier.load(model, device="cpu")


@pytest.fixture
def paths(data: Path) -> list[Path]:
    return sorted((data / "val").rglob("*.png"))


def tar_of(root: Path, path: Path, paths: list[Path]) -> Path:
    """Keys without any label."""
    with tarfile.open(path, "w") as tar:
        for number, item in enumerate(paths):
            tar.add(item, f"{number:03d}.png")
    return path


def in_memory(paths: list[Path], folder: str) -> str:
    """The URL of a folder with the images, flat: no class folders."""
    system = fsspec.filesystem("memory")
    for number, path in enumerate(paths):
        system.pipe_file(f"/{folder}/{number:03d}.png", path.read_bytes())
    return f"memory://{folder}"


def test_bytes_files_and_urls_are_predicted_as_their_file(classifier: Classifier, paths: list[Path]) -> None:
    expected = [item.top for item in classifier.predict(paths)]
    url = in_memory(paths, "single")
    with paths[0].open("rb") as file:
        (from_file,) = classifier.predict(file)
    assert (from_file.top, from_file.path) == (expected[0], str(paths[0]))
    contents = [path.read_bytes() for path in paths]
    assert [item.top for item in classifier.predict(contents)] == expected
    assert [item.top for item in classifier.predict(io.BytesIO(item) for item in contents)] == expected
    assert classifier.predict(contents[0])[0].top == expected[0]
    listed = classifier.predict([f"{url}/{number:03d}.png" for number in range(len(paths))])
    assert [item.top for item in listed] == expected
    assert listed[1].path == f"{url}/001.png"
    assert classifier.predict(f"{url}/000.png")[0].top == expected[0]


@pytest.mark.parametrize("kind", ["folder", "csv", "tar", "url"])
def test_a_collection_without_labels_gives_all_its_images(
    kind: str, classifier: Classifier, model: Path, data: Path, paths: list[Path], tmp_path: Path
) -> None:
    expected = [item.top for item in classifier.predict(paths)]
    table = tmp_path / "list.csv"
    table.write_text("\n".join(["path", *map(str, paths)]) + "\n")
    name = {
        "folder": str(data / "val"),
        "csv": str(table),
        "tar": str(tar_of(data, tmp_path / "shard.tar", paths)),
        "url": in_memory(paths, "many"),
    }[kind]
    listed = classifier.predict(name)
    assert [item.top for item in listed] == expected
    lines = done("predict", model, name, "--device", "cpu").splitlines()
    assert lines == [str(item) for item in classifier.predict(name, top=3)]


def test_what_cannot_be_read_keeps_its_place(classifier: Classifier, paths: list[Path]) -> None:
    url = in_memory(paths, "gone")
    first, second, third = classifier.predict([f"{url}/none.png", paths[0].read_bytes(), b"no image"])
    assert first.error is not None
    assert (second.error, third.error) == (None, "not an image that Pillow can identify")


def test_text_files_and_empty_folders_are_refused(tmp_path: Path, paths: list[Path]) -> None:
    with pytest.raises(DataLayoutError, match="open image files with"):
        list(image_inputs().each(io.StringIO("x")))
    with pytest.raises(EmptyFolderError, match="it holds none"):
        list(image_inputs().each(tmp_path))
    with pytest.raises(EmptyFolderError, match="nothing/here names no image"):
        list(image_inputs().each("memory://nothing/here"))
    (only,) = list_inputs([str(paths[0])], image_inputs(), {})
    assert only == paths[0]
    missing: dict[str, str] = {}
    listed = list_inputs([str(tmp_path), in_memory(paths, "listed")], image_inputs(), missing)
    assert (len(listed), list(missing)) == (len(paths), [str(tmp_path)])
    assert isinstance(listed[0], SampleFile)


def test_files_of_a_folder_that_are_no_images_are_counted(
    classifier: Classifier, paths: list[Path], tmp_path: Path
) -> None:
    for folder, name in enumerate(("a.png", "b/c.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(paths[folder], tmp_path / name)
    for name in ("notes.txt", "b/more.txt", "b/film.mp4"):
        (tmp_path / name).write_bytes(b"no image")
    with pytest.warns(IgnoredFilesWarning) as caught:
        listed = classifier.predict(tmp_path)
    assert [item.path for item in listed] == [str(tmp_path / "a.png"), str(tmp_path / "b/c.png")]
    (warning,) = caught.list
    assert str(warning.message).startswith(f"{tmp_path}: ignored ")
    assert "2 files: not an image (.txt)" in str(warning.message)
    assert "1 file: " in str(warning.message)
    assert [item.path for item in classifier.predict([tmp_path / "a.png"])] == [str(tmp_path / "a.png")]


def test_what_a_folder_without_images_holds_is_said(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(EmptyFolderError, match=r"it holds none \(1 file: not an image \(\.txt\)\)\.$"):
        list(image_inputs().each(tmp_path))


def test_images_of_a_tar_cannot_be_moved(model: Path, paths: list[Path], data: Path, tmp_path: Path) -> None:
    tar = tar_of(data, tmp_path / "shard.tar", paths)
    result = featcache_cli("predict", model, tar, "--move-to", tmp_path / "sorted")
    assert result.exit_code == 2
    assert "need local files, not URLs, tar files or data sets" in result.stderr
    shutil.rmtree(tmp_path / "sorted", ignore_errors=True)
