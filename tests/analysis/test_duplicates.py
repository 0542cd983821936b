"""Near duplicates and outliers: planted ones are pairs, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from featcache.analysis.doctor.duplicates import find_outliers, near_duplicates, robust_z
from featcache.analysis.doctor.neighbors import Neighbors, find_near


def noise(n: int = 200, d: int = 30, seed: int = 0) -> NDArray[np.float32]:
    return (3 + np.random.default_rng(seed).normal(size=(n, d))).astype(np.float32)


@pytest.mark.parametrize("d", [3, 10, 40, 300])
@pytest.mark.parametrize("classes", [1, 7])
def test_a_set_without_duplicates_has_none(d: int, classes: int) -> None:
    x = noise(500, d) + 3 * noise(classes, d, 1)[np.arange(500) % classes]
    assert near_duplicates(find_near(x)) == []


@pytest.mark.parametrize("alike", [1.0, 0.01])  # of a set of pictures that are all alike, too
def test_planted_duplicates_are_found_in_pairs_and_in_groups(alike: float) -> None:
    x = 5 + alike * noise()
    rng = np.random.default_rng(3)
    for copy, of in ((7, 150), (20, 30), (21, 30), (22, 30)):
        x[copy] = x[of] + alike * 0.1 * rng.normal(size=30)
    pairs = near_duplicates(find_near(x))
    group = {(a, b) for a in (20, 21, 22, 30) for b in (20, 21, 22, 30) if a < b}
    assert {(a, b) for a, b, _ in pairs} == {(7, 150), *group}
    cosines = [cosine for _, _, cosine in pairs]
    assert cosines == sorted(cosines, reverse=True)
    assert min(cosines) > 0.97


@pytest.mark.parametrize("group", [11, 12, 20, 45])
def test_groups_larger_than_the_neighbours_that_are_looked_at_are_found(group: int) -> None:
    x = noise(400)
    frames = np.arange(100, 100 + group)
    x[frames] = x[100] + 0.1 * np.random.default_rng(3).normal(size=(group, 30)).astype(np.float32)
    pairs = near_duplicates(find_near(x))
    rows = {row for a, b, _ in pairs for row in (a, b)}
    assert rows <= set(frames.tolist())
    assert len(rows) >= group - 1
    assert len(pairs) >= 3 * group


def test_a_kind_of_picture_that_is_denser_than_the_rest_is_no_group() -> None:
    """As digits among photos: sixty that lie within a third of the usual distance."""
    x = noise(400)
    x[:60] = 5 + 0.3 * noise(60, 30, 1)
    near = find_near(x)
    assert np.median(near.chord[:60, -1]) < 0.4 * np.median(near.chord[:, -1])
    assert near_duplicates(near) == []


def test_a_row_that_is_far_from_many_equal_ones_overflows_nothing() -> None:
    """As of texts that were cut to a few words: their distances say a dimension of 1,000, and 10**1000 is no float."""
    chord = np.full((100, 10), 0.1)
    chord[7] = 1.0
    rows = np.stack([np.roll(np.arange(100), -1 - rank) for rank in range(10)], axis=1)
    near = Neighbors(rows, chord, chord[:, -1], chord[:, -1], np.ones(100), 10_000)
    assert near_duplicates(near) == []


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_the_images_changes_nothing(seed: int) -> None:
    x = noise(80, 12)
    x[3] = x[50] + 0.02
    x[10] *= 6
    order = np.random.default_rng(seed).permutation(80)
    original, permuted = near_duplicates(find_near(x)), near_duplicates(find_near(x[order]))
    assert [{a, b} for a, b, _ in original] == [{int(order[a]), int(order[b])} for a, b, _ in permuted] == [{3, 50}]
    _, far, low_norm = find_outliers(find_near(x[order]))
    assert order[far].tolist() == [10]
    assert not low_norm.any()


def test_what_is_far_from_all_and_what_has_no_features_is_told() -> None:
    x = np.abs(noise())
    assert [part.sum() for part in find_outliers(find_near(x))[1:]] == [0, 0]
    x[5] += 20
    x[9] *= 0.001
    _, far, low_norm = find_outliers(find_near(x))
    assert np.flatnonzero(far).tolist() == [5, 9]
    assert np.flatnonzero(low_norm).tolist() == [9]


def test_robust_z_is_in_standard_deviations_whatever_the_outliers() -> None:
    values = np.random.default_rng(0).normal(5, 2, 20_000)
    values[:100] = 1e6
    assert_allclose(robust_z(values)[100:], (values[100:] - 5) / 2, atol=0.15)
