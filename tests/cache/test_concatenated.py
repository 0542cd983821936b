"""Features of several layers side by side are those of one array that holds them all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.cache import lazy_arrays
from featcache.cache.concatenated import ConcatenatedFeatures
from featcache.cache.features import Features
from featcache.cache.lazy_arrays import CenteredMatrix, LazyRows
from featcache.core.samples import Samples
from featcache.heads.linear import LinearHead

RNG = np.random.default_rng(0)
PARTS = tuple(RNG.normal(size=(9, 3, d)).astype(np.float16) for d in (4, 1, 6))
WHOLE = np.concatenate(PARTS, axis=2)
SCALE = RNG.uniform(0.5, 2, 11).astype(np.float32)


@pytest.mark.parametrize("key", [slice(2, 5), 3, np.array([4, 0]), (slice(1, 4), 2), (np.array([1, 1]), slice(0, 2))])
@pytest.mark.parametrize("scale", [None, SCALE])
def test_joined_is_the_array_of_all_parts(key: Any, scale: Any) -> None:
    joined, whole = ConcatenatedFeatures(PARTS, scale), WHOLE if scale is None else WHOLE * scale
    np.testing.assert_array_equal(joined[key], whole[key])
    assert (joined.shape, joined.dtype, len(joined)) == ((9, 3, 11), whole.dtype, 9)
    np.testing.assert_array_equal(joined.select(1)[:], whole[:, 1])
    np.testing.assert_array_equal(joined.select(slice(2)).rows()[:], whole[:, :2].reshape(18, 11))


def test_picking_views_reads_nothing() -> None:
    joined = ConcatenatedFeatures(PARTS)
    for one in (joined.select(2), joined.select(slice(2)), joined.rows(), joined.scaled(SCALE)):
        assert all(np.shares_memory(part, given) for part, given in zip(one.parts, PARTS, strict=True))


@given(st.lists(st.integers(0, 8), min_size=1, max_size=9, unique=True), st.integers(0, 2))
def test_features_of_several_layers_are_those_of_one_array(rows: list[int], views: int) -> None:
    index = np.array(rows, dtype=np.int64)
    sha256 = np.random.default_rng(1).integers(0, 256, (9, 32), dtype=np.uint8)
    names = tuple(f"{row}.png" for row in range(9))
    samples = Samples(names, np.arange(9) % 2, np.zeros(9, np.uint8), sha256, ("a", "b")).take(index)
    one = Features(WHOLE[index], samples).first(views)
    several = Features(LazyRows(ConcatenatedFeatures(PARTS), index), samples).first(views)
    assert one.joined is None
    assert several.joined is not None
    assert several.joined.widths == [4, 1, 6]
    np.testing.assert_array_equal(several.clean()[:], one.clean()[:])
    for use in ("all", "mean", "clean"):
        np.testing.assert_array_equal(several.flatten(use).x[:], one.flatten(use).x[:])
    some = np.arange(len(rows))[::-1]
    np.testing.assert_array_equal(several.take(some).x[:], one.take(some).x[:])
    np.testing.assert_array_equal(several.scaled(SCALE).clean()[:], one.clean()[:] * SCALE)


@pytest.mark.parametrize("kept", [True, False])
def test_a_head_sees_no_difference(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not kept:
        monkeypatch.setattr(lazy_arrays, "MAX_CACHED_BYTES", 0)
    y = np.arange(27) % 3
    rows = LazyRows(ConcatenatedFeatures(PARTS), np.arange(9)).flatten_views()
    found, expected = LinearHead().fit(rows, y), LinearHead().fit(WHOLE.reshape(27, 11), y)
    np.testing.assert_array_equal(found.coef_, expected.coef_)
    np.testing.assert_array_equal(
        CenteredMatrix(rows, np.ones(27)).mean, CenteredMatrix(WHOLE.reshape(27, 11), np.ones(27)).mean
    )
