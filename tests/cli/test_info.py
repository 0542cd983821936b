from __future__ import annotations

import os
from pathlib import Path

import h5py
import pytest

from commands import as_json, done, refused, toy_cache
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.writer import CacheWriter
from featcache.data.manifest import read_manifest


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


def test_without_views_the_recipe_is_said_to_be_unused(data: Path, tmp_path: Path) -> None:
    """It is a part of the spec, but `tutorial` is not the recipe that views would get by default."""
    toy_cache(data, tmp_path / "clean.h5", views=0)
    assert "  augment         tutorial (not used: there are no augmented views)" in done("info", tmp_path / "clean.h5")
    assert "not used" not in done("info", toy_cache(data, tmp_path / "views.h5", views=1))


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
    found, of_partial = (as_json("info", path) for path in (unfinished, unfinished.with_name("half.h5.partial")))
    assert {**found, "seconds": None} == {**of_partial, "seconds": None}


def test_an_unfinished_cache_is_refused_with_the_way_on(unfinished: Path) -> None:
    assert refused("fit-head", unfinished) == (
        f"{unfinished} is not finished: 0 of 18 rows are in {unfinished}.partial. "
        "Run the command that creates it again; it resumes."
    )


@pytest.mark.parametrize("command", ["info", "fit-head", "verify"])
def test_something_else_is_no_cache(command: str, tmp_path: Path) -> None:
    photo, hdf5, folder = tmp_path / "photo.h5", tmp_path / "other.h5", tmp_path / "folder.h5"
    photo.write_bytes(b"GIF89a")
    folder.mkdir()
    h5py.File(hdf5, "w").close()
    for path in (photo, hdf5):
        assert refused(command, path) == f"{path} is not a feature cache: it does not begin with 'featcache'."
    assert refused(command, folder) == (
        f"{folder} is a folder, not a feature cache. A folder of images or texts becomes one with `featcache extract "
        f"{folder} -o cache.h5`."
    )


def test_a_newer_format_is_refused(data: Path, tmp_path: Path) -> None:
    path = toy_cache(data, tmp_path / "newer.h5", views=0)
    path.write_bytes(path.read_bytes().replace(b"featcache 1 ", b"featcache 9 ", 1))
    assert refused("info", path) == (
        f"{path} has format version 9; this featcache reads version 1. "
        "Use the featcache that wrote it, or extract again."
    )


def test_a_cache_in_the_making_is_shown_but_not_fitted(unfinished: Path, data: Path, cache: Path) -> None:
    spec, samples = FeatureCache.open(cache).spec, read_manifest(data).samples
    with CacheWriter(unfinished, spec, samples, {"penultimate": 3}, {"weights": "none"}):
        assert "NOT FINISHED" in done("info", unfinished)
        message = refused("fit-head", unfinished)
    assert message.startswith(f"{unfinished}.partial is being written by process {os.getpid()} on ")
