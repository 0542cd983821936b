"""Passes over a matrix in blocks give what passes over it whole give, in memory that does not grow."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from featcache.cache import lazy_arrays
from featcache.cache.features import Features
from featcache.cache.lazy_arrays import CenteredMatrix, ConcatenatedFeatures, LazyRows, as_slice
from featcache.core.samples import Samples
from featcache.heads.linear import LinearHead

INDEX = np.array([0, 1, 3, 6])


def matrix(n: int, d: int, dtype: str = "float16", seed: int = 0) -> NDArray[Any]:
    return (5 + np.random.default_rng(seed).normal(size=(n, d))).astype(dtype)


@pytest.fixture(params=["kept", "streamed"])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Blocks of 64 numbers; kept in memory or not."""
    monkeypatch.setattr(lazy_arrays, "BLOCK_BYTES", 256)
    if request.param == "streamed":
        monkeypatch.setattr(lazy_arrays, "MAX_CACHED_BYTES", 0)
    return bool(request.param == "kept")


@given(st.sets(st.integers(0, 12)))
@settings(deadline=None)
def test_a_slice_stands_for_consecutive_rows_and_for_no_others(chosen: set[int]) -> None:
    rows = np.array(sorted(chosen), dtype=np.int64)
    here = as_slice(rows)
    np.testing.assert_array_equal(np.arange(20)[here], rows)
    assert isinstance(here, slice) == (len(rows) > 0 and np.all(np.diff(rows) == 1))


@pytest.mark.parametrize("key", [slice(1, 3), slice(None), 2, np.array([3, 0]), (slice(0, 2), 1), (1, 2, 0)])
def test_rows_are_those_of_the_array(key: Any) -> None:
    x = np.arange(7 * 3 * 2).reshape(7, 3, 2)
    rows = LazyRows(x, INDEX)
    np.testing.assert_array_equal(rows[key], x[INDEX][key])
    assert (rows.shape, rows.dtype, len(rows)) == ((4, 3, 2), x.dtype, 4)


def test_views_of_rows_are_those_of_the_array() -> None:
    x = np.arange(7 * 3 * 2).reshape(7, 3, 2)
    rows = LazyRows(x, INDEX)
    np.testing.assert_array_equal(rows, x[INDEX])
    np.testing.assert_array_equal(np.asarray(rows, dtype=np.float32), x[INDEX].astype(np.float32))
    np.testing.assert_array_equal(rows.select(2), x[INDEX][:, 2])
    np.testing.assert_array_equal(rows.flatten_views(), x[INDEX].reshape(12, 2))
    assert np.shares_memory(rows.flatten_views().base, x)


def test_every_finite_float16_becomes_the_same_float32() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)][:, None]
    found = np.concatenate([block.copy() for _, block in CenteredMatrix.__iter__(centred_on_zero(finite))])
    np.testing.assert_array_equal(found.view(np.uint32), finite.astype(np.float32).view(np.uint32))


def centred_on_zero(x: NDArray[Any]) -> CenteredMatrix:
    centred = CenteredMatrix(np.zeros_like(x), np.ones(len(x)))
    centred._x, centred._cached = x, None
    return centred


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_blocks_are_the_rows_less_their_weighted_mean(dtype: str, kept: bool) -> None:
    x, weight = matrix(50, 7, dtype), np.random.default_rng(1).uniform(0, 2, 50)
    centred = CenteredMatrix(x, weight)
    exact = x.astype(np.float64)
    mean = np.average(exact, axis=0, weights=weight)
    rtol = 1e-12 if dtype == "float64" else 1e-6
    np.testing.assert_allclose(centred.mean, mean, rtol=rtol)
    some = np.array([3, 40, 7])
    np.testing.assert_allclose(centred.take(some), exact[some] - mean, atol=10 * rtol)
    seen = 0
    for _ in range(2):
        for rows, block in centred:
            np.testing.assert_allclose(block, exact[rows] - mean, atol=10 * rtol)
            assert block.dtype == (np.float64 if dtype == "float64" else np.float32)
            assert len(block) <= 256 // (7 * block.itemsize)
            seen += len(block)
    assert seen == 100
    assert (centred._cached is not None) is kept


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 4000), st.integers(0, 2**32 - 1))
def test_a_streamed_fit_is_the_fit_in_memory(block_bytes: int, seed: int) -> None:
    x = matrix(60, 5, seed=seed)
    y = np.arange(60) % 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lazy_arrays, "BLOCK_BYTES", block_bytes)
        whole = LinearHead().fit(x, y)
        patch.setattr(lazy_arrays, "MAX_CACHED_BYTES", 0)
        streamed = LinearHead().fit(x, y)
        some = LinearHead().fit(LazyRows(np.repeat(x, 2, axis=0), 2 * np.arange(60)), y)
    np.testing.assert_array_equal(streamed.coef_, whole.coef_)
    np.testing.assert_array_equal(some.coef_, whole.coef_)
    np.testing.assert_allclose(whole.predict_proba(x), LinearHead().fit(x, y).predict_proba(x), atol=2e-3)
    assert some.n_features_in_ == 5


@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_what_is_not_finite_is_refused_in_whatever_block_it_lies(value: float, name: str, kept: bool) -> None:
    x = matrix(40, 8)
    x[39, 7] = value
    for some in (x, LazyRows(x, np.arange(40))):
        with pytest.raises(ValueError, match=f"(?s)^Input X contains {name}"):
            LinearHead().fit(some, np.arange(40) % 2)


def test_rows_and_labels_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        LinearHead().fit(LazyRows(matrix(7, 2), INDEX), [0, 1, 0])


@pytest.mark.parametrize("skip", [False, True])
def test_the_memory_of_a_streamed_fit_does_not_grow_with_the_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skip: bool
) -> None:
    monkeypatch.setattr(lazy_arrays, "MAX_CACHED_BYTES", 0)
    monkeypatch.setattr(lazy_arrays, "BLOCK_BYTES", 2**16)
    peaks = []
    for n in (2_000, 16_000):
        x: Any = np.memmap(tmp_path / f"{n}.raw", dtype=np.float16, mode="w+", shape=(n, 256))
        x[:] = matrix(n, 256)
        tracemalloc.start()
        LinearHead(tol=1.0).fit(LazyRows(x, np.arange(1, n)) if skip else x, np.arange(n - skip) % 2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 14_000 * 80  # labels, weights and what is worked out of them, float64
    assert x.nbytes > 5 * (peaks[1] - peaks[0])


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
    one = Features(WHOLE[index], samples).with_views(views)
    several = Features(LazyRows(ConcatenatedFeatures(PARTS), index), samples).with_views(views)
    assert one.concatenated is None
    assert several.concatenated is not None
    assert several.concatenated.widths == [4, 1, 6]
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
