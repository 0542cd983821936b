"""Blockwise computations give what the same computation gives at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache._utils.blockwise import (
    RunningMoments,
    iter_blocks,
    iter_similarities,
    nearest_columns,
    unit_rows,
)

X = np.random.default_rng(0).normal(3, 2, (23, 5)).astype(np.float32)


@given(st.integers(0, 50), st.integers(0, 100), st.integers(0, 400))
def test_blocks_cover_all_rows_once_and_hold_no_more_than_they_may(n: int, row_bytes: int, block_bytes: int) -> None:
    blocks = list(iter_blocks(n, row_bytes, block_bytes))
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(n))
    assert all((block.stop - block.start) * row_bytes <= max(block_bytes, row_bytes) for block in blocks)


@pytest.mark.parametrize("block_bytes", [1, 4 * 23 * 4, 2**20])
def test_similarities_are_cosines_of_unit_rows(block_bytes: int) -> None:
    unit, rows = unit_rows(X), np.array([4, 0, 22, 7, 7])
    whole = np.concatenate([values for _, values in iter_similarities(unit, rows, block_bytes)])
    lengths = np.linalg.norm(X.astype(np.float64), axis=1)
    np.testing.assert_allclose(whole, (X[rows] @ X.T) / np.outer(lengths[rows], lengths), rtol=1e-5)


def test_rows_of_zeros_stay() -> None:
    assert unit_rows(np.zeros((2, 3))).tolist() == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("k", [1, 3, 6])
def test_nearest_columns_come_largest_first(k: int) -> None:
    values = np.random.default_rng(1).permutation(24).reshape(4, 6).astype(np.float32)
    assert nearest_columns(values, k).tolist() == np.argsort(-values, axis=1)[:, :k].tolist()


@pytest.mark.parametrize("step", [1, 4, 23])
def test_running_moments_are_those_of_all_rows(step: int) -> None:
    moments = RunningMoments(5)
    for start in range(0, len(X), step):
        moments.update(X[start : start + step])
    assert moments.n == 23
    np.testing.assert_allclose(moments.mean, X.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(moments.deviation, X.std(axis=0, dtype=np.float64), rtol=1e-12)


def test_moments_of_far_off_values_do_not_cancel() -> None:
    x = 1e9 + np.arange(6.0)[:, None]
    moments = RunningMoments(1)
    for row in x:
        moments.update(row[None])
    assert moments.deviation[0] == pytest.approx(np.arange(6).std(), rel=1e-12)
