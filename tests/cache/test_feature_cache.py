"""The cache: what is written is read, by row; nothing else than a whole, matching cache is taken for one."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caches import DIMS, PROVENANCE, SAMPLES, SPEC, N, finished, make_samples, values, write_rows, writer
from featcache.cache import writer as writer_module
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.format import lock
from featcache.cache.format.container import OWNER_BYTES
from featcache.cache.paths import partial_path
from featcache.cache.writer import CacheWriter
from featcache.core.samples import Samples
from featcache.errors import (
    CacheBusyError,
    CacheDamagedError,
    CacheIncompleteError,
    CacheMismatchError,
    CacheSpaceError,
    NotACacheError,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "photos.h5"


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
    np.testing.assert_array_equal(train.view(1), values([0, 1, 3, 4, 5, 6])[:, 1])
    np.testing.assert_array_equal(train.flatten().x, values([0, 1, 3, 4, 5, 6]).reshape(18, 4))


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
        f"{path} is not finished: 3 of 10 rows are in {path}.partial. "
        "Run the command that creates it again; it resumes."
    )
    partial = FeatureCache.open(partial_path(path), partial=True)
    assert not partial.complete
    assert partial.done.tolist() == [3] * 3 + [0] * 7
    np.testing.assert_array_equal(partial.features("train").x, values([0, 1, 2]))


def test_a_partial_file_under_the_final_name_is_still_unfinished(path: Path) -> None:
    with writer(path) as w:
        write_rows(w, [0, 1, 2])
    partial_path(path).rename(path)
    with pytest.raises(CacheDamagedError) as error:
        FeatureCache.open(path)
    assert str(error.value) == (
        f"{path} is damaged: rows are missing. Mend it with `featcache verify {path} --repair DATA`."
    )


def test_a_cache_that_cannot_be_read_is_not_called_damaged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionError):
        FeatureCache.open(path)


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


def test_a_row_counts_only_once_its_features_and_checksum_are_on_file(path: Path) -> None:
    """Whatever write is the last one before a crash, a row is there whole or not at all."""
    expected = values([0, 1])
    last = 0
    while True:
        with writer(path) as w:
            left = [last]

            def dies(data: Any, left: list[int] = left, write: Any = w._file.write) -> int:
                if not left[0]:
                    raise KeyboardInterrupt
                left[0] -= 1
                return int(write(data))

            class File:
                seek, fileno, write = w._file.seek, w._file.fileno, staticmethod(dies)

            file, w._file = w._file, File()  # type: ignore[assignment]
            try:
                write_rows(w, [0, 1])
            except KeyboardInterrupt:
                pass
            else:
                w._file = file
                break
            w._file = file
        partial = FeatureCache.open(path, partial=True)
        there = np.flatnonzero(partial.done)
        np.testing.assert_array_equal(partial.features("train").x, expected[: len(there)] if len(there) else 0)
        partial_path(path).unlink()
        last += 1
    assert last == 3  # features, checksums, marks


def test_what_a_power_cut_took_back_is_extracted_again(path: Path) -> None:
    with writer(path) as w:
        write_rows(w, [0, 1, 2, 3])
        region = w._layout.layers["penultimate"]
    with partial_path(path).open("r+b") as file:  # the mark of row 2 reached the disk, its features did not
        file.seek(region.offset + 2 * region.stride)
        file.write(bytes(region.stride))
    with writer(path) as w:
        assert w.pending().tolist() == [2, 4, 5, 6, 7, 8, 9]


def test_views_are_added_to_rows_that_have_some(path: Path) -> None:
    with writer(path) as w:
        write_rows(w, list(range(7)), 1)
        assert w.pending().tolist() == list(range(N))
        assert w.done.tolist() == [1] * 7 + [0] * 3
        w.write(np.arange(7), {"penultimate": values(range(7))[:, 1:]}, first_view=1)
        write_rows(w, [7, 8, 9], 1)
        cache = w.finish({})
    np.testing.assert_array_equal(cache.features("train").x, values(range(7)))


def test_features_that_are_not_finite_are_refused_by_row(path: Path) -> None:
    bad = values([0, 1, 2])
    bad[1, 2, 3] = 1e6  # infinite in float16
    with writer(path) as w:
        refused = w.write(np.arange(3), {"penultimate": bad})
        assert refused == {1: "its features are not finite in float16"}
        assert w.done[:3].tolist() == [3, 0, 3]


def test_too_little_room_is_refused_before_anything_is_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Disk:
        free = 1000

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk)
    with pytest.raises(CacheSpaceError) as error:
        writer(path)
    assert " will have 68." in str(error.value)
    assert f"; 1.0 kB are free in {path.parent}" in str(error.value)
    assert list(path.parent.iterdir()) == []


_LIMITED = """
import resource, sys
sys.path[:0] = sys.argv[3:]
from pathlib import Path
from caches import write_rows, writer
from featcache.errors import CacheSpaceError
path, limit = Path(sys.argv[1]), int(sys.argv[2])
try:
    if not limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    with writer(path) as w:
        write_rows(w, [0, 1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        write_rows(w, [2, 3, 4])
except CacheSpaceError as error:
    print(error)
"""


def limited(path: Path, limit: int) -> str:
    helpers, root = Path(__file__).parents[1] / "helpers", Path(__file__).parents[2]
    arguments = [sys.executable, "-c", _LIMITED, str(path), str(limit), str(helpers), str(root)]
    ran = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_a_limit_on_file_sizes_is_met_at_creation(path: Path) -> None:
    assert "or a limit on file sizes is lower. Free some space" in limited(path, 0)
    assert list(path.parent.iterdir()) == []


def test_a_disk_that_fills_up_in_the_middle_leaves_what_is_there(path: Path) -> None:
    with writer(path) as w:
        write_rows(w, [0, 1])
        region = w._layout.layers["penultimate"]
    text = limited(path, region.offset + 3 * region.stride)
    assert text == (
        f"{path}.partial cannot be written: File too large. 2 of 10 rows are there. "
        "Free some space, then run the same command again: it resumes."
    )
    with writer(path) as w:
        assert w.pending().tolist() == list(range(2, N))


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

    monkeypatch.setattr(writer_module.os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        writer(path)
    assert list(path.parent.iterdir()) == []


VIEW_CHANGES = {
    "image_size": (9, "8", "9"),
    "resize_size": (12, "10", "12"),
    "interpolation": ("bicubic", "bilinear", "bicubic"),
    "augment": ("crop", "tutorial", "crop"),
    "seed": (3, "0", "3"),
    "mean": ((0.5, 0.5, 0.25), "0.5,0.5,0.5", "0.5,0.5,0.25"),
    "std": ((0.5, 0.25, 0.25), "0.25,0.25,0.25", "0.5,0.25,0.25"),
}
CHANGES = {
    "backbone": ("resnet18", "toy", "resnet18"),
    "weights_sha256": ("cd" * 32, "abababababab...", "cdcdcdcdcdcd..."),
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
    cure = "Extract again to another file, or ask for what the cache has."
    if name == "views":  # fewer than there are
        cure = "The cache has these views and more: use it as it is, or drop the others with "
        cure += f"`featcache update {path} DATA --views 1`."
    if name == "augment":
        cure = f"Extract these views with `featcache update {path} DATA --views 2 --augment crop`; "
        cure += "the clean ones are kept."
    assert str(error.value) == f"{path} was made with {name}={here}, you asked for {there}. {cure}"


def test_more_views_are_an_update_and_the_command_is_named(path: Path) -> None:
    cache, asked = finished(path), dataclasses.replace(SPEC, views=8)
    with pytest.raises(CacheMismatchError) as error:
        cache.check_matches(asked, SAMPLES, "my photos")
    assert str(error.value) == (
        f"{path} was made with views=2, you asked for 8. Extract the missing views with `featcache update {path} "
        "'my photos' --views 8`."
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
    "order, classes, or how many labels an image can have differ": SAMPLES.take(np.arange(N)[::-1]),
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
        f"{path} was made from other samples: {change}. Extract again to another file, or bring it up to date with "
        f"`featcache update {path} DATA`."
    )


def test_a_partial_file_of_other_images_is_refused(path: Path) -> None:
    with writer(path) as w:
        write_rows(w, [0])
    with pytest.raises(CacheMismatchError) as error:
        writer(path, samples=_without(9))
    assert str(error.value) == (
        f"{path}.partial was made from other samples: 1 removed (for example val/9.png). "
        "Extract again to another file, or remove photos.h5.partial."
    )


def hold(path: Path) -> subprocess.Popen[str]:
    """Another process that writes the cache until its stdin ends."""
    code = """
import sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from caches import writer
with writer(Path(sys.argv[1])):
    print("open", flush=True)
    sys.stdin.read()
"""
    helpers, root = Path(__file__).parents[1] / "helpers", Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path), str(helpers), str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "open\n"
    return process


def test_a_cache_that_another_process_writes_is_busy_and_names_it(path: Path) -> None:
    with writer(path) as w:
        write_rows(w, [0, 1])
    with hold(path) as process:
        for attempt in (lambda: writer(path), lambda: FeatureCache.open(path)):
            with pytest.raises(CacheBusyError) as error:
                attempt()
            text = str(error.value)
            assert text.startswith(f"{path}.partial is being written by process {process.pid} on ")
            assert text.endswith(". Wait until it ends, or stop it; nothing is lost.")
        assert FeatureCache.open(path, partial=True).done.tolist() == [3, 3] + [0] * 8
        process.communicate("")
    with writer(path) as w:
        assert w.pending().tolist() == list(range(2, N))


def test_a_cache_under_way_is_busy_whatever_is_asked_of_it(path: Path) -> None:
    with writer(path), pytest.raises(CacheBusyError):
        writer(path, dataclasses.replace(SPEC, views=7))


def test_the_lock_of_a_dead_process_blocks_nobody(path: Path) -> None:
    process = hold(path)
    process.kill()
    process.communicate()
    with pytest.raises(CacheIncompleteError):
        FeatureCache.open(path)
    with writer(path) as w:
        write_rows(w, list(range(7)))
        write_rows(w, [7, 8, 9], 1)
        w.finish({})
    header = path.read_bytes()[: FeatureCache.open(path).layout.header_bytes]
    assert header[-OWNER_BYTES:] == bytes(OWNER_BYTES)


def test_a_reader_who_asks_whether_a_cache_is_held_does_not_stop_a_writer(path: Path) -> None:
    with writer(path) as w:
        write_rows(w, [0, 1])
    with partial_path(path).open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        threading.Timer(0.03, fcntl.flock, (reader, fcntl.LOCK_UN)).start()
        with writer(path) as w:
            assert w.pending().tolist() == list(range(2, N))


def test_a_writer_that_came_too_late_leaves_the_finished_cache_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the partial file and locking it, another process finishes it."""
    with writer(path) as w:
        write_rows(w, [0, 1])
    take = lock.acquire

    def late(at: Path, file: BinaryIO, offset: int) -> None:
        monkeypatch.setattr(lock, "acquire", take)
        finished(path)
        take(at, file, offset)

    monkeypatch.setattr(lock, "acquire", late)
    with pytest.raises(CacheBusyError, match="was finished by another process just now"):
        writer(path)
    assert FeatureCache.open(path).complete


def test_what_is_open_stays_what_it_was_when_another_file_takes_its_name(path: Path) -> None:
    cache = finished(path)
    other = path.with_name("other.h5")
    backwards = SAMPLES.take(np.array([6, 5, 4, 3, 2, 1, 0, 7, 8, 9]))
    with writer(other, samples=backwards) as w:
        write_rows(w, [0, 1, 2, 3, 4, 5, 6])
        w.write(np.arange(3), {"penultimate": -values(range(3))})
        write_rows(w, [7, 8, 9], 1)
        w.finish({})
    os.replace(other, path)
    np.testing.assert_array_equal(cache.features("train").x, values(range(7)))


@pytest.mark.parametrize("moment", ["link", "posix_fallocate", "fsync"])
def test_what_a_kill_at_creation_leaves_is_swept_away(path: Path, moment: str) -> None:
    code = f"""
import os, signal, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from caches import writer
call = os.{moment}
def deadly(*arguments):
    {"call(*arguments)" if moment == "link" else "pass"}
    os.kill(os.getpid(), signal.SIGKILL)
os.{moment} = deadly
writer(Path(sys.argv[1]))
"""
    paths = [str(Path(__file__).parents[1] / "helpers"), str(Path(__file__).parents[2])]
    ran = subprocess.run([sys.executable, "-c", code, str(path), *paths], timeout=60, check=False)
    assert ran.returncode == -signal.SIGKILL
    assert len([file for file in path.parent.iterdir() if file.suffix == ".draft"]) == 1
    finished(path)
    assert list(path.parent.iterdir()) == [path]


def test_two_writers_of_one_process_are_two(path: Path) -> None:
    with writer(path), pytest.raises(CacheBusyError, match=f"process {os.getpid()} on "):
        writer(path)


def test_reading_leaves_the_file_closed_and_unchanged(path: Path) -> None:
    finished(path)
    before = path.read_bytes()
    cache = FeatureCache.open(path)
    x = cache.features("train").x
    assert path.read_bytes() == before
    path.unlink()  # what is mapped stays
    assert json.dumps(cache.provenance) == json.dumps(PROVENANCE)
    assert x[6, 2, 3] == 6 + 2 / 4 + 3 / 64


def test_a_cache_that_another_hdf5_program_wrote_anew_is_called_so_and_not_damaged(path: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.h5"
    finished(path)
    with h5py.File(path) as old, h5py.File(packed, "w", userblock_size=old.userblock_size) as new:  # as h5repack does
        for name in old:
            old.copy(name, new)
        header = path.read_bytes()[: old.userblock_size]
    with packed.open("r+b") as file:
        file.write(header)
    with pytest.raises(NotACacheError) as caught:
        FeatureCache.open(packed)
    assert "was rewritten by another program, such as h5repack" in str(caught.value)
    assert "damaged" not in str(caught.value)


def test_a_cache_that_was_cut_off_is_damaged(path: Path) -> None:
    finished(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(NotACacheError, match="is a damaged feature cache: it has"):
        FeatureCache.open(path)
