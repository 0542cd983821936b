"""The loader: views in order, the same however many threads make them; unreadable images left out."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from commands import in_process
from featcache._utils.timing import PhaseTimer
from featcache.core.specs import ViewSpec
from featcache.data.manifest import Manifest, read_manifest
from featcache.data.sample_loader import Batch
from featcache.vision import loader as loader_module
from featcache.vision.augment import make_views
from featcache.vision.decode import decode
from featcache.vision.loader import ViewLoader, read_image

SPEC = ViewSpec(8, 10, seed=4)
NUMBERS = [0, 1, 3]


@pytest.fixture
def manifest(split_folder: Path) -> Manifest:
    return read_manifest(split_folder)


def views_of(batch: Batch) -> NDArray[np.uint8]:
    """The inputs of a batch by image, shape (b, v, s, s, 3)."""
    return batch.inputs.reshape(len(batch.rows), len(NUMBERS), *batch.inputs.shape[1:])


def load(
    manifest: Manifest, rows: list[int], *, workers: int = 2, batch_size: int = 4
) -> tuple[list[Batch], dict[int, str]]:
    loader = ViewLoader(manifest, SPEC, workers=workers)
    batches = list(loader.batches(rows, NUMBERS, batch_size))
    loader.close()
    return batches, loader.skipped


def expected_views(manifest: Manifest, row: int) -> np.ndarray:
    image = decode(manifest.path(row).read_bytes())
    return make_views(image, SPEC, manifest.samples.sha256[row].tobytes(), NUMBERS)


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_batches_hold_the_views_of_the_rows_in_the_order_asked(
    manifest: Manifest, workers: int, batch_size: int
) -> None:
    rows = [12, 3, 17, 0, 5, 9, 1]
    batches, skipped = load(manifest, rows, workers=workers, batch_size=batch_size)
    assert [batch.rows.tolist() for batch in batches] == [
        rows[start : start + batch_size] for start in range(0, 7, batch_size)
    ]
    np.testing.assert_array_equal(np.concatenate([b.labels for b in batches]), manifest.samples.labels[rows])
    np.testing.assert_array_equal(
        np.concatenate([batch.inputs for batch in batches]),
        np.concatenate([expected_views(manifest, row) for row in rows]),
    )
    assert skipped == {}


@given(rows=st.permutations(range(18)), workers=st.sampled_from([1, 2, 5]), batch_size=st.integers(1, 20))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_order_changes_a_view(manifest: Manifest, rows: list[int], workers: int, batch_size: int) -> None:
    batches, _ = load(manifest, rows, workers=workers, batch_size=batch_size)
    for batch in batches:
        for row, pixels in zip(batch.rows, views_of(batch), strict=True):
            np.testing.assert_array_equal(pixels, expected_views(manifest, row))


@pytest.mark.parametrize("workers", [1, 5])
def test_unreadable_images_are_left_out_and_change_no_other(split_folder: Path, workers: int) -> None:
    whole = read_manifest(split_folder)
    rows = list(range(18))
    expected = {row: expected_views(whole, row) for row in rows}
    whole.path(0).write_bytes(b"")
    whole.path(5).write_bytes(b"not an image")
    broken = whole.path(9).read_bytes()
    whole.path(9).write_bytes(broken[: len(broken) // 2])
    batches, skipped = load(read_manifest(split_folder), rows, workers=workers)
    assert skipped.pop(9)
    assert skipped == {0: "the file is empty (0 bytes)", 5: "not an image that Pillow can identify"}
    good = [row for row in rows if row not in (0, 5, 9)]
    assert [batch.rows.tolist() for batch in batches] == [good[start : start + 4] for start in range(0, 15, 4)]
    for row, pixels in zip(good, np.concatenate([views_of(batch) for batch in batches]), strict=True):
        np.testing.assert_array_equal(pixels, expected[row])


def test_only_unreadable_images_give_no_batch(split_folder: Path) -> None:
    manifest = read_manifest(split_folder)
    for row in (2, 3):
        manifest.path(row).unlink()
    batches, skipped = load(manifest, [2, 3])
    assert batches == []
    assert skipped == {2: "No such file or directory", 3: "No such file or directory"}


def test_a_file_that_changed_since_the_manifest_is_left_out(manifest: Manifest) -> None:
    manifest.path(1).write_bytes(manifest.path(2).read_bytes())
    batches, skipped = load(manifest, [0, 1, 2])
    assert skipped == {
        1: "its bytes are not those that were hashed: it has changed, or its manifest's sha256 is of another file"
    }
    assert batches[0].rows.tolist() == [0, 2]


def test_read_image_gives_the_bytes_of_the_row(manifest: Manifest) -> None:
    expected = manifest.samples.sha256[7].tobytes()
    assert read_image(manifest, 7, expected) == (Path(manifest.source.name) / manifest.samples.ids[7]).read_bytes()


def test_the_loader_reads_ahead_no_further_than_it_says(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def record(manifest: Manifest, row: int, expected: bytes) -> bytes:
        started.append(row)
        return read_image(manifest, row, expected)

    monkeypatch.setattr(loader_module, "read_image", record)
    monkeypatch.setattr(loader_module, "AHEAD_BYTES", 0)
    loader = ViewLoader(manifest, SPEC, workers=1)
    batches = loader.batches(range(18), [0], 2)
    assert next(batches).rows.tolist() == [0, 1]
    time.sleep(0.1)
    assert len(started) <= 2 + (2 + 2 * 1)
    batches.close()
    loader.close()
    assert len(started) < 18


@pytest.mark.parametrize(("name", "most"), [("AHEAD_BYTES", 7 * len(NUMBERS) * 8 * 8 * 3), ("AHEAD_IMAGES", 7)])
def test_views_of_no_more_images_wait_than_may(
    name: str, most: int, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_module, name, most)
    made: list[int] = []
    monkeypatch.setattr(loader_module, "read_image", lambda m, row, sha: made.append(row) or read_image(m, row, sha))
    with closing(ViewLoader(manifest, SPEC, workers=1)) as loader:

        def settle() -> None:
            loader._pool.submit(int).result()  # its one thread has done all that was asked of it before

        loader.start(range(18), NUMBERS)
        settle()
        assert made == list(range(7))
        batches = loader.batches(range(18), NUMBERS, 1)
        next(batches)
        settle()
        assert made == list(range(8))
        batches.close()


def test_the_loader_times_reading_decoding_and_viewing(manifest: Manifest) -> None:
    watch = PhaseTimer()
    loader = ViewLoader(manifest, SPEC, workers=2, timer=watch)
    list(loader.batches(range(5), [0], 2))
    loader.close()
    seconds = watch.seconds()
    assert set(seconds) == {"read", "decode", "view", "wall"}
    assert min(seconds.values()) > 0


def test_a_loader_serves_many_passes(manifest: Manifest) -> None:
    loader = ViewLoader(manifest, SPEC, workers=2)
    first, second = (list(loader.batches([4, 2], NUMBERS, 2)) for _ in range(2))
    loader.close()
    np.testing.assert_array_equal(first[0].inputs, second[0].inputs)
    assert second[0].rows.tolist() == [4, 2]


@pytest.mark.parametrize("requested", [[4, 2, 9], [4, 2], [9]])
def test_what_was_begun_is_used_where_it_is_asked_for(
    requested: list[int], manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def record(manifest: Manifest, row: int, expected: bytes) -> bytes:
        read.append(row)
        return read_image(manifest, row, expected)

    monkeypatch.setattr(loader_module, "read_image", record)
    loader = ViewLoader(manifest, SPEC, workers=1)
    loader.start([4, 2, 9], NUMBERS)
    while len(read) < 3:
        time.sleep(0.001)
    (batch,) = loader.batches(requested, NUMBERS, 5)
    (second,) = loader.batches([7], NUMBERS, 5)
    loader.close()
    assert batch.rows.tolist() == requested
    assert second.rows.tolist() == [7]
    np.testing.assert_array_equal(batch.inputs, np.concatenate([expected_views(manifest, row) for row in requested]))
    assert read == ([4, 2, 9, 7] if requested == [4, 2, 9] else [4, 2, 9, *requested, 7])


def test_what_was_begun_and_never_asked_for_stops_with_the_loader(manifest: Manifest) -> None:
    loader = ViewLoader(manifest, SPEC, workers=1)
    loader.start(range(18), NUMBERS)
    loader.close()
    assert not any(thread.name.startswith("views") for thread in threading.enumerate())


def test_views_are_made_without_teams_of_threads() -> None:
    """A team for each of the threads that make views would be cores times cores."""
    code = """
import os, numpy as np, torch
from concurrent.futures import ThreadPoolExecutor
from featcache.core.specs import ViewSpec
from featcache.vision.augment import make_views
torch.set_num_threads(4)
image = np.zeros((400, 600, 3), np.uint8)
with ThreadPoolExecutor(3) as pool:
    list(pool.map(lambda n: make_views(image, ViewSpec(), bytes([n]) * 32, range(6)), range(24)))
    print(len(os.listdir("/proc/self/task")))
"""
    before = "import os, numpy, torch; torch.set_num_threads(4); print(len(os.listdir('/proc/self/task')))"
    assert int(in_process(code).stdout) <= int(in_process(before).stdout) + 3
