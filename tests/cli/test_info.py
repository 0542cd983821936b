from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from commands import as_json, done, refused, toy_cache
from featcache.cache import FeatureCache
from featcache.manifest import read_manifest
from featcache.writer import CacheWriter
from toys import toy_backbone


def test_info_says_what_is_in_the_cache(cache: Path) -> None:
    text = done("info", cache)
    assert text == f"{FeatureCache.open(cache)}\n"
    lines = text.splitlines()
    assert lines[0].startswith(f"{cache}: feature cache, format 1, ")
    assert lines[0].endswith(", complete")
    assert lines[1:5] == [
        "images      18 (13 train, 5 val), 0 skipped",
        "classes     2 (ants, bees)",
        "views       1 clean + 2 augmented of each training image",
        "layers      penultimate (width 3)",
    ]


def test_json_is_one_object_with_the_same(cache: Path) -> None:
    found = as_json("info", cache)
    assert found["images_by_class"] == {
        "train": {"ants": 7, "bees": 6},
        "val": {"ants": 3, "bees": 2},
        "test": {"ants": 0, "bees": 0},
    }
    assert (found["images"], found["extracted"], found["views"], found["complete"]) == (18, 18, 2, True)
    assert found["layers"] == {"penultimate": 3}
    assert found["spec"]["backbone"] == "toy"
    assert found["digest"] == FeatureCache.open(cache).spec.digest()
    assert found["size_bytes"] == cache.stat().st_size


@pytest.fixture
def unfinished(data: Path, cache: Path, tmp_path: Path) -> Path:
    path = tmp_path / "half.h5"
    samples = read_manifest(data).samples
    with CacheWriter(path, FeatureCache.open(cache).spec, samples, {"penultimate": 3}, {"weights": "none"}):
        pass
    return path


def test_an_unfinished_file_is_shown_as_such(unfinished: Path) -> None:
    partial = unfinished.with_name("half.h5.partial")
    assert done("info", partial).splitlines()[0].endswith(", NOT FINISHED, 0 rows are there")
    found = as_json("info", partial)
    assert (found["complete"], found["extracted"], found["images"]) == (False, 0, 18)


def test_an_unfinished_cache_is_shown_by_its_future_name(unfinished: Path) -> None:
    assert as_json("info", unfinished) == as_json("info", unfinished.with_name("half.h5.partial"))


def test_an_unfinished_cache_is_refused_with_the_way_on(unfinished: Path) -> None:
    assert refused("fit-head", unfinished) == (
        f"{unfinished} is not finished: {unfinished}.partial is there. "
        "Run the same `featcache extract` again; it goes on where it stopped."
    )


@pytest.mark.parametrize("command", ["info", "fit-head"])
def test_something_else_is_no_cache(command: str, tmp_path: Path) -> None:
    photo, hdf5, folder = tmp_path / "photo.h5", tmp_path / "other.h5", tmp_path / "folder.h5"
    photo.write_bytes(b"GIF89a")
    folder.mkdir()
    h5py.File(hdf5, "w").close()
    assert refused(command, photo).startswith(f"{photo} is not a feature cache: it cannot be read as HDF5 (")
    assert refused(command, folder).startswith(f"{folder} is not a feature cache: ")
    assert refused(command, hdf5) == (f"{hdf5} is HDF5, but not a feature cache (attribute format is not 'featcache').")


def test_a_newer_format_is_refused(data: Path, tmp_path: Path) -> None:
    path = toy_cache(data, tmp_path / "newer.h5", views=0)
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = 9
    assert refused("info", path) == (
        f"{path} has format version 9; this featcache reads version 1. "
        "Use the featcache that wrote it, or extract again."
    )


def test_a_cache_that_is_being_written_is_busy(data: Path, tmp_path: Path) -> None:
    path = toy_cache(data, tmp_path / "busy.h5", views=0)
    hold = "import h5py, sys; file = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        message = refused("info", path)
        other.communicate()
    assert message == f"{path} is open in another process. Wait until it ends, or stop it; nothing is lost."
    assert toy_backbone().name in done("info", path)
