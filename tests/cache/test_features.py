from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caches import finished, values
from featcache.cache.features import Features
from featcache.cache.lazy_arrays import LazyRows
from featcache.core.samples import Samples
from featcache.errors import CacheIncompleteError


def features(contents: list[int], views: int, d: int = 2) -> Features:
    """x[i, v, k] = 100 i + 10 v + k; images with equal `contents` have equal bytes; label = i mod 2."""
    n = len(contents)
    x = 100 * np.arange(n)[:, None, None] + 10 * np.arange(views + 1)[:, None] + np.arange(d)
    sha256 = np.zeros((n, 32), dtype=np.uint8)
    sha256[:, 7] = contents
    labels = np.arange(n, dtype=np.int64) % 2
    ids = tuple(f"{i}.png" for i in range(n))
    return Features(x.astype(np.float32), Samples(ids, labels, np.zeros(n, np.uint8), sha256, ("ants", "bees")))


def test_view_0_is_the_clean_one() -> None:
    three = features([1, 2, 3], views=2)
    assert three.views == 2
    assert three.y.tolist() == [0, 1, 0]
    assert three.clean().tolist() == [[0, 1], [100, 101], [200, 201]]
    assert three.view(2).tolist() == [[20, 21], [120, 121], [220, 221]]


@pytest.mark.parametrize(
    ("views", "asked", "message"),
    [
        (
            2,
            3,
            "View 3 was asked for, but these features hold views 0 to 2. Extract with --views 3 or more.",
        ),
        (
            0,
            1,
            "View 1 was asked for, but these features hold views 0 to 0. Extract with --views 1 or more.",
        ),
    ],
)
def test_a_view_that_is_missing_is_an_error_with_the_cure(views: int, asked: int, message: str) -> None:
    with pytest.raises(CacheIncompleteError) as caught:
        features([1], views).view(asked)
    assert str(caught.value) == message


def test_a_negative_view_is_not_counted_from_the_end() -> None:
    with pytest.raises(CacheIncompleteError, match="View -1 was asked for"):
        features([1], views=2).view(-1)


def test_epoch_e_trains_on_view_e_and_begins_again_after_k() -> None:
    assert [features([1], views=3).view_for_epoch(epoch) for epoch in range(1, 9)] == [1, 2, 3, 1, 2, 3, 1, 2]
    assert [features([1], views=1).view_for_epoch(epoch) for epoch in range(1, 4)] == [1, 1, 1]
    assert [features([1], views=0).view_for_epoch(epoch) for epoch in range(1, 4)] == [0, 0, 0]


def test_flatten_lays_the_views_out_image_by_image() -> None:
    flat = features([5, 9, 5], views=1).flatten()
    assert flat.x.tolist() == [[0, 1], [10, 11], [100, 101], [110, 111], [200, 201], [210, 211]]
    assert flat.y.tolist() == [0, 0, 1, 1, 0, 0]
    assert flat.groups.tolist() == [0, 0, 1, 1, 0, 0]
    assert flat.weights.tolist() == [0.5] * 6


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(0, 6))
def test_groups_join_exactly_the_views_and_copies_of_an_image_and_each_image_weighs_one(
    contents: list[int], views: int
) -> None:
    flat = features(contents, views).flatten()
    of_row = np.repeat(contents, views + 1)
    np.testing.assert_array_equal(flat.groups[:, None] == flat.groups, of_row[:, None] == of_row)
    np.testing.assert_allclose(flat.weights.reshape(len(contents), -1).sum(axis=1), 1.0, rtol=1e-12)
    assert flat.groups.dtype == flat.y.dtype == np.int64


def test_flatten_copies_no_features() -> None:
    two = features([1, 2], views=3)
    assert np.shares_memory(two.flatten().x, two.x)


@pytest.mark.parametrize("skipped", [[], [2]])
def test_clean_features_are_an_array_whatever_was_skipped(tmp_path: Path, skipped: list[int]) -> None:
    cache = finished(tmp_path / "cache.h5", dict.fromkeys(skipped, "broken"))
    train = cache.features("train")
    rows = [row for row in range(7) if row not in skipped]
    for view in (0, 2):
        x = train.view(view)
        assert isinstance(x, np.ndarray)
        np.testing.assert_array_equal(x, values(rows)[:, view].astype(np.float16))
        assert x.astype(np.float32).mean() == pytest.approx(values(rows)[:, view].mean())
    assert isinstance(train.clean(), np.ndarray)
    assert isinstance(train.lazy_view(0), LazyRows if skipped else np.ndarray)
