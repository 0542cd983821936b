"""What is written: finite or refused, in its place, with its checksum, by a reckoning that is not the writer's own."""

from __future__ import annotations

import dataclasses
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from caches import DIMS, PROVENANCE, SAMPLES, SPEC, finished, values, write_rows, writer
from featcache.cache.checksums import checksums, damaged_rows
from featcache.cache.description import seconds_per_1000
from featcache.cache.format.layout import read
from featcache.cache.reuse import copy_rows, match_rows
from featcache.cache.writer import CacheWriter, _are_finite, _runs


@pytest.mark.parametrize("dtype", ["<f2", "<f4"])
def test_a_row_is_finite_where_numpy_finds_all_its_numbers_so(dtype: str) -> None:
    bits = np.arange(2**16, dtype=np.uint32)
    numbers = bits.astype(np.uint16).view("<f2") if dtype == "<f2" else (bits << 16).view("<f4")  # every exponent
    found = _are_finite(np.stack([numbers, np.ones_like(numbers)], axis=1)[:, None])
    np.testing.assert_array_equal(found, np.isfinite(numbers))
    assert 0 < np.count_nonzero(~found) < 2**12


@settings(deadline=None)
@given(st.sets(st.integers(0, 40)))
def test_runs_are_the_rows_and_none_could_be_joined(rows: set[int]) -> None:
    runs = _runs(np.array(sorted(rows), dtype=np.int64))
    assert [row for start, stop in runs for row in range(start, stop)] == sorted(rows)
    assert all(stop < start for (_, stop), (start, _) in pairwise(runs))


@settings(deadline=None)
@given(arrays.arrays("<f2", (3, 2, 5)), arrays.arrays("<f4", (3, 2, 1)), st.binary(max_size=120))
def test_a_checksum_is_zlibs_over_features_views_and_reason(a: np.ndarray, b: np.ndarray, reason: bytes) -> None:
    done, skipped = np.array([2, 0, 1], "<u2"), np.array([reason, b"", b"x"], "S120")
    found = checksums({"a": a, "b": b}, done, skipped)
    assert found.tolist() == [
        zlib.crc32(a[row].tobytes() + b[row].tobytes() + done[row].tobytes() + skipped[row : row + 1].tobytes())
        for row in range(3)
    ]


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [0, 2, 3, 6], [5]])
def test_damage_is_found_among_rows_with_and_without_gaps(rows: list[int], tmp_path: Path) -> None:
    path = tmp_path / "photos.h5"
    with writer(path) as w:
        write_rows(w, rows)
    layout = read(Path(f"{path}.partial"))
    region = layout.layers["penultimate"]
    np.testing.assert_array_equal(region.view(layout.data)[rows], values(rows))
    chosen = np.array(rows, dtype=np.int64)
    assert damaged_rows(layout, chosen).tolist() == []
    hit = rows[len(rows) // 2]
    with Path(f"{path}.partial").open("r+b") as file:
        file.seek(region.offset + hit * region.stride)
        file.write(b"\x01")
    assert damaged_rows(layout, chosen).tolist() == [hit]


def test_no_rows_are_no_trouble(tmp_path: Path) -> None:
    with writer(tmp_path / "photos.h5") as w:
        assert w.write(np.empty(0, np.int64), {"penultimate": np.empty((0, 3, 4), np.float32)}) == {}
        assert not w.done.any()


def test_seconds_of_rows_add_up_and_are_carried(tmp_path: Path) -> None:
    spec = dataclasses.replace(SPEC, views=2)
    old = finished(tmp_path / "old.h5")
    assert seconds_per_1000(old) is None
    with CacheWriter(tmp_path / "c.h5", spec, SAMPLES, DIMS, PROVENANCE, optional=("extract_s",)) as open_writer:
        rows = np.arange(7)
        open_writer.write(rows, {"penultimate": values(rows, 1)}, extract_s=np.full(7, 0.5, np.float32))
    with CacheWriter(tmp_path / "c.h5", spec, SAMPLES, DIMS, PROVENANCE) as open_writer:  # resumed
        later = {"penultimate": values(rows, 3)[:, 1:]}
        open_writer.write(rows, later, 1, extract_s=np.full(7, 1.0, np.float32))
        write_rows(open_writer, [7, 8, 9], 1)  # seconds unknown
        cache = open_writer.finish({})
    assert cache.layout.extract_s is not None
    np.testing.assert_array_equal(cache.layout.extract_s.view(cache.layout.data), [1.5] * 7 + [0] * 3)
    assert seconds_per_1000(cache) == 500
    assert cache.to_dict()["extract_s_per_1000_views"] == 500
    assert "took        500 s per 1,000 views" in str(cache)
    fewer = dataclasses.replace(spec, views=1)
    with CacheWriter(tmp_path / "fewer.h5", fewer, SAMPLES, DIMS, PROVENANCE, optional=("extract_s",)) as open_writer:
        matches = match_rows(cache, SAMPLES, open_writer.expected_views, np.array([], np.int64))
        copy_rows(open_writer, cache, matches)
        carried = open_writer.finish({})
    assert seconds_per_1000(carried) == 500
