"""The cache: what is written is read, by row; nothing else than a whole, matching cache is taken for one."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from featcache import writer as writer_module
from featcache.cache import FeatureCache, partial_path
from featcache.errors import (
    CacheBusyError,
    CacheError,
    CacheIncompleteError,
    CacheMismatchError,
    CacheVersionError,
    NotACacheError,
)
from featcache.samples import Samples
from featcache.spec import ExtractSpec, ViewSpec
from featcache.writer import CacheWriter

SPEC = ExtractSpec("toy", "ab" * 32, ViewSpec(8, 10), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), views=2)
DIMS = {"penultimate": 4}
PROVENANCE = {"device": "cpu"}
N = 10


def make_samples(ids: list[str] | None = None) -> Samples:
    """Seven training rows and three val rows."""
    ids = ids or [f"{'train' if row < 7 else 'val'}/{row}.png" for row in range(N)]
    n = len(ids)
    hashes = np.random.default_rng(1).integers(0, 256, (n, 32), dtype=np.uint8)
    labels = np.arange(n, dtype=np.int64) % 2
    split = np.array([0] * 7 + [1] * 3 + [0] * n, dtype=np.uint8)[:n]
    return Samples(tuple(ids), labels, split, hashes, ("ants", "bees"))


SAMPLES = make_samples()


def values(rows: NDArray[np.int64] | list[int], views: int = 3, dim: int = 4) -> NDArray[np.float32]:
    """Row r, view v, column c holds r + v / 4 + c / 64: exact in float16."""
    grid = np.arange(views)[:, None] / 4 + np.arange(dim) / 64
    return (np.asarray(rows)[:, None, None] + grid).astype(np.float32)


def writer(path: Path, spec: ExtractSpec = SPEC, samples: Samples = SAMPLES) -> CacheWriter:
    return CacheWriter(path, spec, samples, DIMS, PROVENANCE)


def write_rows(open_writer: CacheWriter, rows: list[int], views: int = 3) -> None:
    open_writer.write(np.array(rows, dtype=np.int64), {"penultimate": values(rows, views)})


def finished(path: Path, skipped: dict[int, str] | None = None) -> FeatureCache:
    skipped = skipped or {}
    with writer(path) as w:
        for rows, views in ((range(7), 3), (range(7, 10), 1)):
            write_rows(w, [row for row in rows if row not in skipped], views)
        return w.finish(skipped)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "photos.h5"


def tamper(path: Path, change: Callable[[h5py.File], None]) -> None:
    with h5py.File(path, "r+") as file:
        change(file)


def set_attribute(name: str, value: Any) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.__setitem__(name, value)


def delete(name: str) -> Callable[[h5py.File], None]:
    return lambda file: file.__delitem__(name)


def replace(name: str, data: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = data

    return change


def test_what_was_written_is_read(path: Path) -> None:
    finished(path)
    cache = FeatureCache.open(path)
    assert cache.spec == SPEC
    assert cache.samples.differences(SAMPLES) == []
    for name in ("labels", "split", "sha256"):
        found, expected = getattr(cache.samples, name), getattr(SAMPLES, name)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
    assert (cache.samples.ids, cache.samples.classes) == (SAMPLES.ids, SAMPLES.classes)
    assert (cache.dims, cache.provenance, cache.complete) == (DIMS, PROVENANCE, True)
    assert cache.done.tolist() == [3] * 7 + [1] * 3
    assert cache.size_bytes == path.stat().st_size
    train, val = cache.features("train"), cache.features("val")
    np.testing.assert_array_equal(train.x, values(range(7)))
    np.testing.assert_array_equal(val.x, values(range(7, 10), 1))
    assert val.samples.ids == SAMPLES.ids[7:]
    np.testing.assert_array_equal(train.y, SAMPLES.labels[:7])


def test_a_split_without_rows_is_empty(path: Path) -> None:
    test = finished(path).features("test")
    assert test.x.shape == (0, 1, 4)
    assert test.samples.ids == ()


@given(st.permutations(range(7)), st.integers(1, 7))
@settings(max_examples=15, deadline=None)
def test_rows_land_by_number_in_whatever_order_they_come(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], size: int
) -> None:
    path = tmp_path_factory.mktemp("order") / "a.h5"
    with writer(path) as w:
        for start in range(0, 7, size):
            write_rows(w, sorted(order[start : start + size]))
        write_rows(w, [7, 8, 9], 1)
        cache = w.finish({})
    np.testing.assert_array_equal(cache.features("train").x, values(range(7)))


def test_features_are_a_read_only_memory_map_of_the_file(path: Path) -> None:
    x = finished(path).features("train").x
    assert isinstance(x, np.memmap)
    assert isinstance(x.base, np.memmap)
    assert not x.flags.owndata
    assert Path(x.filename).name == path.name
    with pytest.raises(ValueError, match="read-only"):
        x[0] = 0


def test_skipped_rows_are_left_out_and_no_row_shifts(path: Path) -> None:
    cache = finished(path, {2: "broken", 8: "the file is empty (0 bytes)"})
    assert cache.skipped == [("train/2.png", "broken"), ("val/8.png", "the file is empty (0 bytes)")]
    assert FeatureCache.open(path).skipped == cache.skipped
    train, val = cache.features("train"), cache.features("val")
    np.testing.assert_array_equal(train.x, values([0, 1, 3, 4, 5, 6]))
    np.testing.assert_array_equal(val.x, values([7, 9], 1))
    assert train.samples.ids == tuple(f"train/{row}.png" for row in (0, 1, 3, 4, 5, 6))
    np.testing.assert_array_equal(val.samples.sha256, SAMPLES.sha256[[7, 9]])
    assert cache.done.tolist() == [3, 3, 0, 3, 3, 3, 3, 1, 0, 1]
    assert isinstance(cache.features("train").x, np.ndarray)


def test_skipped_rows_hold_nan_in_every_view(path: Path) -> None:
    finished(path, {2: "broken", 8: "broken"})
    with h5py.File(path) as file:
        x = file["features/penultimate"][:]
    assert np.isnan(x[[2, 8]]).all()
    assert not np.isnan(x[[0, 1, 3, 4, 5, 6]]).any()


def test_layers_are_kept_apart(path: Path) -> None:
    spec = dataclasses.replace(SPEC, layers=("penultimate", "stage.1"), dtype="float32")
    with CacheWriter(path, spec, SAMPLES, {"penultimate": 4, "stage.1": 2}, {}) as w:
        for rows, views in ((np.arange(7), 3), (np.arange(7, 10), 1)):
            w.write(rows, {"penultimate": values(rows, views), "stage.1": -values(rows, views, 2)})
        cache = w.finish({})
    assert cache.dims == {"penultimate": 4, "stage.1": 2}
    np.testing.assert_array_equal(cache.features("train").x, values(range(7)))
    np.testing.assert_array_equal(cache.features("val", "stage.1").x, -values(range(7, 10), 1, 2))
    assert cache.features("val", "stage.1").x.dtype == np.float32


def test_an_unknown_layer_is_refused_by_name(path: Path) -> None:
    with pytest.raises(CacheIncompleteError) as error:
        finished(path).features("train", "layer3")
    assert str(error.value) == (
        f"{path} has no layer 'layer3'; it has penultimate. Extract again to another file with --layers layer3."
    )


def test_a_missing_view_is_refused_by_number(path: Path) -> None:
    with pytest.raises(CacheIncompleteError) as error:
        finished(path).features("train").view(3)
    assert str(error.value) == (
        "View 3 was asked for, but these features hold views 0 to 2. Extract with --views 3 or more."
    )


def test_ids_of_any_bytes_survive(path: Path) -> None:
    names = ["ä ü/蟻 🐝.png", "new\nline/\t.png", os.fsdecode(b"latin1-\xe9\xff.png"), " .png", "'\"\\.png"]
    samples = dataclasses.replace(make_samples(names), classes=("ä\n", os.fsdecode(b"\xe9")))
    rows = np.arange(5)
    with writer(path, samples=samples) as w:
        w.write(rows[:4], {"penultimate": values(rows[:4])})
        w.finish({4: "naïve: " + os.fsdecode(b"\xe9")})
    cache = FeatureCache.open(path)
    assert cache.samples.ids == tuple(names)
    assert cache.samples.classes == samples.classes
    assert cache.skipped == [(names[4], "naïve: " + os.fsdecode(b"\xe9"))]
    cache.check_matches(SPEC, samples)


def test_a_partial_file_is_invisible_and_says_how_to_go_on(path: Path) -> None:
    with writer(path) as w:
        write_rows(w, [0, 1, 2])
    assert not path.exists()
    with pytest.raises(CacheIncompleteError) as error:
        FeatureCache.open(path)
    assert str(error.value) == (
        f"{path} is not finished: {path}.partial is there. "
        "Run the same `featcache extract` again; it goes on where it stopped."
    )
    partial = FeatureCache.open(partial_path(path), partial=True)
    assert not partial.complete
    assert partial.done.tolist() == [3] * 3 + [0] * 7
    np.testing.assert_array_equal(partial.features("train").x, values([0, 1, 2]))


def test_a_partial_file_under_the_final_name_is_still_unfinished(path: Path) -> None:
    with writer(path) as w:
        write_rows(w, [0, 1, 2])
    partial_path(path).rename(path)
    with pytest.raises(CacheIncompleteError) as error:
        FeatureCache.open(path)
    assert str(error.value) == (
        f"{path} is not finished: 3 of 10 rows are there. "
        "Run the same `featcache extract` again; it goes on where it stopped."
    )


def test_a_missing_cache_says_how_to_make_it(path: Path) -> None:
    with pytest.raises(NotACacheError) as error:
        FeatureCache.open(path)
    assert str(error.value) == f"{path} does not exist. Make it with `featcache extract DATA -o {path}`."


def test_a_writer_goes_on_with_the_rows_that_are_missing(path: Path) -> None:
    with writer(path) as w:
        assert w.pending().tolist() == list(range(N))
        write_rows(w, [0, 2, 3, 5])
    with writer(path) as w:
        assert w.pending().tolist() == [1, 4, 6, 7, 8, 9]
        write_rows(w, [1, 4, 6])
        write_rows(w, [7, 8, 9], 1)
        cache = w.finish({})
    np.testing.assert_array_equal(cache.features("train").x, values(range(7)))
    assert not partial_path(path).exists()
    assert sorted(file.name for file in path.parent.iterdir()) == ["photos.h5"]


def test_a_row_counts_only_once_all_its_layers_are_on_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with writer(path) as w:
        file = w._file
        marks: list[tuple[list[int], float]] = []
        flush = h5py.File.flush

        def record(self: h5py.File) -> None:
            flush(self)
            marks.append((file["done"][:2].tolist(), float(file["features/penultimate"][1, 2, 3])))

        monkeypatch.setattr(h5py.File, "flush", record)
        write_rows(w, [0, 1])
    expected = float(values([1])[0, 2, 3])
    assert marks == [([0, 0], expected), ([3, 3], expected)]


def test_finish_refuses_rows_that_are_neither_there_nor_skipped(path: Path) -> None:
    with writer(path) as w:
        write_rows(w, [0, 1, 2, 3, 4])
        with pytest.raises(CacheIncompleteError) as error:
            w.finish({6: "broken"})
    assert str(error.value) == (
        f"{path}.partial: 4 rows are neither extracted nor skipped, for example train/5.png. "
        "Run the same command again."
    )
    assert not path.exists()


def test_a_death_between_the_last_row_and_the_rename_is_mended(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writer_module.os, "replace", _replace_but(partial_path(path), die))
        with pytest.raises(KeyboardInterrupt):
            finished(path, {2: "broken"})
    assert not path.exists()
    with writer(path) as w:
        assert w.pending().tolist() == [2]
        cache = w.finish({2: "broken"})
    assert cache.skipped == [("train/2.png", "broken")]
    np.testing.assert_array_equal(cache.features("train").x, values([0, 1, 3, 4, 5, 6]))


def _replace_but(source: Path, otherwise: Callable[..., None]) -> Callable[..., None]:
    real = os.replace
    return lambda a, b: otherwise(a, b) if Path(a) == source else real(a, b)


def test_a_failed_creation_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(writer_module, "_fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        writer(path)
    assert list(path.parent.iterdir()) == []


VIEW_CHANGES = {
    "image_size": (9, "8", "9"),
    "resize_size": (12, "10", "12"),
    "interpolation": ("bicubic", "bilinear", "bicubic"),
    "augment": ("crop", "tutorial", "crop"),
    "seed": (3, "0", "3"),
}
CHANGES = {
    "backbone": ("resnet18", "toy", "resnet18"),
    "weights_sha256": ("cd" * 32, "abababababab...", "cdcdcdcdcdcd..."),
    "mean": ((0.5, 0.5, 0.25), "0.5,0.5,0.5", "0.5,0.5,0.25"),
    "std": ((0.5, 0.25, 0.25), "0.25,0.25,0.25", "0.5,0.25,0.25"),
    "views": (1, "2", "1"),
    "layers": (("penultimate", "layer3"), "penultimate", "penultimate,layer3"),
    "precision": ("bf16", "fp32", "bf16"),
    "dtype": ("float32", "float16", "float32"),
}


@pytest.mark.parametrize("name", [*VIEW_CHANGES, *CHANGES])
def test_another_spec_is_refused_naming_the_field_and_both_values(path: Path, name: str) -> None:
    value, here, there = (VIEW_CHANGES | CHANGES)[name]
    if name in VIEW_CHANGES:
        asked = dataclasses.replace(SPEC, view=dataclasses.replace(SPEC.view, **{name: value}))
    else:
        asked = dataclasses.replace(SPEC, **{name: value})
    cache = finished(path)
    cache.check_matches(SPEC, SAMPLES)
    with pytest.raises(CacheMismatchError) as error:
        cache.check_matches(asked, SAMPLES)
    assert str(error.value) == (
        f"{path} was made with {name}={here}, you asked for {there}. "
        "Extract again to another file, or ask for what the cache has."
    )


def test_every_field_of_the_spec_is_in_the_mismatch_table() -> None:
    assert SPEC.flat().keys() == VIEW_CHANGES.keys() | CHANGES.keys()


def test_all_differing_fields_are_named(path: Path) -> None:
    asked = dataclasses.replace(SPEC, views=5, dtype="float32")
    with pytest.raises(CacheMismatchError, match="views=2, you asked for 5; dtype=float16, you asked for float32"):
        finished(path).check_matches(asked, SAMPLES)


def _without(row: int) -> Samples:
    return SAMPLES.take(np.delete(np.arange(N), row))


def _with(field: str, row: int, value: Any) -> Samples:
    column = getattr(SAMPLES, field).copy()
    column[row] = value
    return dataclasses.replace(SAMPLES, **{field: column})


OTHER_SAMPLES = {
    "1 added (for example train/new.png)": make_samples([*SAMPLES.ids, "train/new.png"]),
    "1 removed (for example train/3.png)": _without(3),
    "1 changed in content (for example train/4.png)": _with("sha256", 4, 0),
    "1 with another label (for example val/8.png)": _with("labels", 8, 1),
    "1 in another split (for example train/0.png)": _with("split", 0, 2),
    "order or classes differ": SAMPLES.take(np.arange(N)[::-1]),
    "10 with another label (for example train/0.png)": dataclasses.replace(SAMPLES, classes=("a", "b")),
}


@pytest.mark.parametrize("change", OTHER_SAMPLES)
def test_other_images_are_refused_by_name(path: Path, change: str) -> None:
    samples = OTHER_SAMPLES[change]
    if "added" in change:
        hashes = np.vstack([SAMPLES.sha256, np.zeros((1, 32), np.uint8)])
        samples = dataclasses.replace(samples, sha256=hashes)
    with pytest.raises(CacheMismatchError) as error:
        finished(path).check_matches(SPEC, samples)
    assert str(error.value) == (
        f"{path} was made from other images: {change}. Extract again to another file, or remove photos.h5."
    )


def test_a_partial_file_of_other_images_is_refused(path: Path) -> None:
    with writer(path) as w:
        write_rows(w, [0])
    with pytest.raises(CacheMismatchError) as error:
        writer(path, samples=_without(9))
    assert str(error.value) == (
        f"{path}.partial was made from other images: 1 removed (for example val/9.png). "
        "Extract again to another file, or remove photos.h5.partial."
    )


@pytest.mark.parametrize("content", [b"", b"path,label\n", b"\x89HDF\r\n\x1a\n", bytes(4096)])
def test_a_file_that_is_not_hdf5_is_not_a_cache(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(NotACacheError) as error:
        FeatureCache.open(path)
    assert str(error.value).startswith(f"{path} is not a feature cache: it cannot be read as HDF5 (")


def test_a_folder_is_not_a_cache(path: Path) -> None:
    path.mkdir()
    with pytest.raises(NotACacheError):
        FeatureCache.open(path)


def test_other_hdf5_is_not_a_cache(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(NotACacheError) as error:
        FeatureCache.open(path)
    assert str(error.value) == (f"{path} is HDF5, but not a feature cache (attribute format is not 'featcache').")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_cache_is_refused(path: Path, share: float) -> None:
    finished(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(NotACacheError):
        FeatureCache.open(path)


@pytest.mark.parametrize("version", [0, 2, 99])
def test_another_version_is_refused(path: Path, version: int) -> None:
    finished(path)
    tamper(path, set_attribute("version", version))
    with pytest.raises(CacheVersionError) as error:
        FeatureCache.open(path)
    assert str(error.value) == (
        f"{path} has format version {version}; this featcache reads version 1. "
        "Use the featcache that wrote it, or extract again."
    )


def test_a_tampered_spec_does_not_have_its_digest(path: Path) -> None:
    finished(path)
    tamper(path, set_attribute("spec", SPEC.to_json().replace('"seed":0', '"seed":1')))
    with pytest.raises(NotACacheError) as error:
        FeatureCache.open(path)
    assert str(error.value) == (f"{path} is a damaged feature cache: its spec does not have its digest. Extract again.")


DAMAGE = {
    "spec is not JSON": set_attribute("spec", "{"),
    "spec is JSON of another kind": set_attribute("spec", '"text"'),
    "spec lacks a field": set_attribute("spec", "{}"),
    "digest is another": set_attribute("digest", "0" * 64),
    "provenance is not JSON": set_attribute("provenance", "x"),
    "version is text": set_attribute("version", "one"),
    "no spec": lambda file: file.attrs.__delitem__("spec"),
    "no complete": lambda file: file.attrs.__delitem__("complete"),
    "no labels": delete("labels"),
    "no features": delete("features"),
    "no layer": delete("features/penultimate"),
    "labels too short": replace("labels", np.zeros(3, np.int64)),
    "done too long": replace("done", np.zeros(11, np.uint16)),
    "ids are numbers": replace("ids", np.arange(10)),
    "features of another rank": replace("features/penultimate", np.zeros((10, 4), np.float16)),
    "features of fewer rows": replace("features/penultimate", np.zeros((9, 3, 4), np.float16)),
    "features of fewer views": replace("features/penultimate", np.zeros((10, 2, 4), np.float16)),
    "features of another dtype": replace("features/penultimate", np.zeros((10, 3, 4), np.float64)),
    "labels without a class": replace("labels", np.full(10, 7)),
    "features are chunked": lambda file: (
        file.__delitem__("features/penultimate"),
        file.create_dataset("features/penultimate", data=np.zeros((10, 3, 4), np.float16), chunks=(1, 3, 4)),
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_refused(path: Path, damage: str) -> None:
    finished(path)
    tamper(path, DAMAGE[damage])
    with pytest.raises(CacheError, match=f"^{path} "):
        FeatureCache.open(path)


def test_a_cache_whose_text_heap_is_garbage_is_refused(path: Path) -> None:
    finished(path)
    data = bytearray(path.read_bytes())
    place = data.index(b"GCOL")
    data[place : place + 16] = b"\xff" * 16
    path.write_bytes(data)
    with pytest.raises(CacheError):
        FeatureCache.open(path)


_HOLD = """
import sys, json
from pathlib import Path
from featcache.cache import open_file
file = open_file(Path(sys.argv[1]), sys.argv[2])
print("open", flush=True)
sys.stdin.read()
"""


def hold(path: Path, mode: str) -> subprocess.Popen[str]:
    """Another process that has the file open until its stdin ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path), mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "open\n"
    return process


def test_a_cache_that_another_process_writes_is_busy(path: Path) -> None:
    with writer(path) as w:
        write_rows(w, [0, 1])
    with hold(partial_path(path), "r+") as process:
        for attempt in (
            lambda: writer(path),
            lambda: FeatureCache.open(partial_path(path), partial=True),
        ):
            with pytest.raises(CacheBusyError) as error:
                attempt()
            assert str(error.value) == (
                f"{path}.partial is open in another process. Wait until it ends, or stop it; nothing is lost."
            )
        process.communicate("")
    with writer(path) as w:
        assert w.pending().tolist() == list(range(2, N))


def test_many_processes_may_read_a_finished_cache(path: Path) -> None:
    finished(path)
    with hold(path, "r") as process:
        np.testing.assert_array_equal(FeatureCache.open(path).features("train").x, values(range(7)))
        process.communicate("")


def test_reading_leaves_the_file_closed_and_unchanged(path: Path) -> None:
    finished(path)
    before = path.read_bytes()
    cache = FeatureCache.open(path)
    x = cache.features("train").x
    with h5py.File(path, "r+") as file:
        assert file.attrs["complete"]
    assert path.read_bytes() == before
    assert json.dumps(cache.provenance) == json.dumps(PROVENANCE)
    assert x[6, 2, 3] == 6 + 2 / 4 + 3 / 64
