"""The most similar rows are those of all pairs, in any blocks, and ties are in the order of the rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from caches import cache_of, cache_of_layers, finished
from featcache._utils.blockwise import unit_rows
from featcache.cache import nearest
from featcache.cache import rows as cache_rows
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.nearest import nearest_rows
from featcache.errors import CacheDamagedError

NONE: NDArray[np.int64] = np.empty(0, np.int64)


def noise(n: int, d: int = 6, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    """40 train rows with two views and 20 val rows."""
    x = np.stack([noise(40), noise(40, seed=9)], axis=1)
    return cache_of(tmp_path / "c.h5", (x, np.arange(40) % 2), (noise(20, seed=1), np.arange(20) % 2))


def test_all_rows_are_compared_in_any_blocks(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = noise(7, seed=2)
    x = np.concatenate([noise(40), noise(20, seed=1)])
    cosines = (queries @ x.T) / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(x, axis=1)
    order = np.argsort(-cosines, axis=1)
    for rows, similarities in ((8192, 2**25), (7, 2**25), (1, 1), (3, 4 * 3 * 2)):
        monkeypatch.setattr(cache_rows, "_BLOCK_ROWS", rows)
        monkeypatch.setattr(nearest, "_BLOCK_BYTES", similarities)
        seen: list[tuple[str, int, int]] = []
        found = nearest_rows(cache, [queries], 5, ["train", "val"], "penultimate", [NONE] * 7,
                             lambda *step, seen=seen: seen.append(step))  # fmt: skip
        assert_array_equal(found.row, order[:, :5])
        assert_allclose(found.cosine, np.take_along_axis(cosines, order[:, :5], axis=1), atol=1e-6)
        assert (found.compared, seen[-1]) == (60, ("compare", 60, 60))
    val = nearest_rows(cache, [queries], 5, ["val"], "penultimate", [NONE] * 7)
    assert_array_equal(val.row, 40 + np.argsort(-cosines[:, 40:], axis=1)[:, :5])
    assert val.compared == 20


def test_rows_are_left_out_for_their_own_query(cache: FeatureCache) -> None:
    queries = noise(40)[[3, 8, 3]]
    found = nearest_rows(cache, [queries], 2, ["train", "val"], "penultimate", [np.array([3]), np.array([3, 50]), NONE])
    assert found.row[:, 0].tolist()[1:] == [8, 3]
    assert_allclose(found.cosine[1:, 0], 1, atol=1e-6)
    assert_array_equal(found.row[0, 0], found.row[2, 1])
    assert 3 not in found.row[:2]


def test_fewer_rows_than_requested(cache: FeatureCache, tmp_path: Path) -> None:
    found = nearest_rows(cache, [noise(1)], 30, ["val"], "penultimate", [np.array([45])])
    assert (np.sort(found.row[0, :19]).tolist()) == [row for row in range(40, 60) if row != 45]
    assert found.row[0, 19:].tolist() == [-1] * 11
    assert nearest_rows(cache, [noise(0)], 3, ["val"], "penultimate", []).row.shape == (0, 3)


def test_ties_are_in_the_order_of_the_rows_and_zeros_are_similar_to_nothing(tmp_path: Path) -> None:
    x = np.zeros((6, 1, 2), np.float32)
    x[[1, 3, 4, 5], 0] = [[2, 0], [1, 0], [0, 1], [3, 0]]
    cache = cache_of(tmp_path / "c.h5", (x, np.arange(6) % 2), (x[:1, 0] + 1, np.arange(1)))
    found = nearest_rows(cache, [np.array([[5.0, 0.0], [0.0, 0.0]])], 6, ["train"], "penultimate", [NONE] * 2)
    assert found.row.tolist() == [[1, 3, 5, 0, 2, 4], [0, 1, 2, 3, 4, 5]]
    assert found.cosine.tolist() == [[1, 1, 1, 0, 0, 0], [0] * 6]


def test_several_layers_have_the_mean_of_their_cosines(tmp_path: Path) -> None:
    a, b = noise(30, 4), 100 * noise(30, 9, seed=1)
    y = np.arange(30) % 2
    cache = cache_of_layers(
        tmp_path / "c.h5",
        ({"a": a[:20, None], "b": b[:20, None]}, y[:20]),
        ({"a": a[20:, None], "b": b[20:, None]}, y[20:]),
    )
    found = nearest_rows(cache, [a[:3], b[:3]], 4, ["train", "val"], "a,b", [NONE] * 3)
    mean = (unit_rows(a[:3]) @ unit_rows(a).T + unit_rows(b[:3]) @ unit_rows(b).T) / 2
    assert_array_equal(found.row, np.argsort(-mean, axis=1)[:, :4])
    assert_allclose(found.cosine, -np.sort(-mean, axis=1)[:, :4], atol=1e-6)


def test_skipped_rows_are_nobody_s_neighbors_and_damaged_ones_an_error(tmp_path: Path) -> None:
    cache = finished(tmp_path / "c.h5", {2: "broken", 8: "broken"})
    found = nearest_rows(cache, [np.ones((1, 4))], 10, ["train", "val"], "penultimate", [NONE])
    assert sorted(found.row[0].tolist()) == [-1, -1, 0, 1, 3, 4, 5, 6, 7, 9]
    assert found.compared == 8
    with cache.path.open("r+b") as file:
        file.seek(cache.layout.layers["penultimate"].offset)
        file.write(b"\x01")
    with pytest.raises(CacheDamagedError):
        nearest_rows(cache, [np.ones((1, 4))], 3, ["train"], "penultimate", [NONE])
