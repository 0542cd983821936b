"""Curves over labels and views: the draws, and that each point is what a single fit gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caches import cache_of, clouds
from featcache.analysis.curves import Point, curve, draw
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.features import Features
from featcache.core.samples import Samples
from featcache.errors import CacheIncompleteError, HeadError
from featcache.heads.fit_head import fit_head
from featcache.metrics.significance import wilson_interval


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    val, y = clouds(90, 3, seed=1)
    return cache_of(tmp_path / "c.h5", clouds(120, 3, views=5), (val[:, 0], y))


def features(counts: list[int], seed: int) -> Features:
    y = np.repeat(np.arange(len(counts)), counts)
    n = len(y)
    hashes = np.random.default_rng(seed).integers(0, 256, (n, 32), dtype=np.uint8)
    samples = Samples(tuple(map(str, range(n))), y, np.zeros(n, np.uint8), hashes, tuple("abcde"[: len(counts)]))
    return Features(np.arange(n, dtype=np.float32)[:, None, None], samples)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=5),
    st.floats(0.01, 1),
    st.floats(0.01, 1),
    st.integers(0, 2**32 - 1),
)
def test_a_draw_is_a_share_of_each_class_and_lies_within_a_larger_one(
    counts: list[int], first: float, second: float, seed: int
) -> None:
    train = features(counts, seed)
    small, large = (draw(train, share, seed) for share in sorted((first, second)))
    expected = [min(count, max(2, round(min(first, second) * count))) for count in counts]
    assert np.bincount(train.y[small], minlength=len(counts)).tolist() == expected
    assert set(small.tolist()) <= set(large.tolist())
    assert np.all(np.diff(small) > 0)
    assert draw(train, 1.0, seed).tolist() == list(range(len(train.y)))


def test_repeats_draw_other_images() -> None:
    train = features([50, 50], 0)
    assert draw(train, 0.2, 0).tolist() != draw(train, 0.2, 1).tolist()


def test_all_labels_are_what_fit_head_gives_and_more_labels_are_better(cache: FeatureCache) -> None:
    steps: list[tuple[str, int, int]] = []
    result = curve(cache, fractions=(0.05, 0.5, 1.0), repeats=3, progress=lambda *step: steps.append(step))
    assert [point.images for point in result.points] == [6, 60, 120]
    assert [len(point.accuracies) for point in result.points] == [3, 3, 1]
    last = result.points[-1]
    assert last.accuracy == fit_head(cache, head="linear").accuracy.accuracy
    assert last.interval == wilson_interval(round(last.accuracy * 90), 90)
    assert result.points[0].accuracy < last.accuracy
    assert len(set(result.points[0].accuracies)) > 1
    assert steps == [("labels", done, 3) for done in (1, 2, 3)]
    fields = result.to_dict()
    assert (fields["over"], fields["head"], fields["n"]) == ("labels", "linear", 90)
    assert fields["points"][2]["accuracy"] == last.accuracy
    assert "  100%     120      4" in str(result)


def test_shares_that_draw_the_same_are_one_point(cache: FeatureCache) -> None:
    result = curve(cache, fractions=(0.01, 0.02, 0.05), repeats=1, head="centroid")
    assert [point.images for point in result.points] == [6]


def test_views_go_from_none_to_all(cache: FeatureCache) -> None:
    result = curve(cache, over="views", head="ridge")
    assert [point.views for point in result.points] == [0, 1, 2, 4]
    assert result.points[-1].accuracy == fit_head(cache, head="ridge").accuracy.accuracy
    assert result.points[0].accuracy == fit_head(cache, head="ridge", use_views="clean").accuracy.accuracy


def test_the_accuracy_of_a_point_is_the_median() -> None:
    assert Point(0.1, 5, 0, (0.9, 0.5, 0.6), 1.0, (0.0, 1.0)).accuracy == 0.6


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_a_share_that_is_none_is_refused(share: float, cache: FeatureCache) -> None:
    with pytest.raises(HeadError, match=f"^a fraction of the labels must be above 0 and at most 1; got {share:g}$"):
        curve(cache, fractions=(share,))


def test_more_views_than_there_are_are_refused(cache: FeatureCache) -> None:
    with pytest.raises(CacheIncompleteError, match=r"^5 augmented views were asked for, but these features hold 4"):
        cache.features("train").with_views(5)


def test_a_curve_is_over_labels_or_views(cache: FeatureCache) -> None:
    with pytest.raises(HeadError, match=r"^a curve is over 'labels' or 'views'; got 'heads'$"):
        curve(cache, over="heads")  # type: ignore[arg-type]
