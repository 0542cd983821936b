"""The nearest neighbours of all pairs; in groups nearly the same ones, with a bounded number of comparisons."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from featcache._utils import blockwise
from featcache.analysis.doctor import neighbors
from featcache.analysis.doctor.duplicates import find_outliers, near_duplicates
from featcache.analysis.doctor.neighbors import comparisons, find_near


def noise(n: int = 200, d: int = 30, seed: int = 0) -> NDArray[np.float32]:
    return (3 + np.random.default_rng(seed).normal(size=(n, d))).astype(np.float32)


def test_neighbours_are_those_of_all_pairs_in_any_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = noise(40, 5)
    centered = x - x.mean(axis=0)
    directions = centered / np.linalg.norm(centered, axis=1, keepdims=True)
    chords = np.linalg.norm(directions[:, None] - directions, axis=2)
    apart = np.linalg.norm(x[:, None] - x, axis=2)
    np.fill_diagonal(chords, np.inf)
    np.fill_diagonal(apart, np.inf)
    for size in (2**25, 1, 4 * 40 * 7):
        monkeypatch.setattr(neighbors, "_BLOCK_BYTES", size)
        near = find_near(x, 3)
        assert_array_equal(near.row, np.argsort(chords, axis=1)[:, :3])
        assert_allclose(near.chord, np.sort(chords, axis=1)[:, :3], atol=1e-3)
        assert_allclose(near.distance, np.sort(apart, axis=1)[:, :3].mean(axis=1), rtol=1e-3)
        assert_allclose(near.far_chord, np.sort(chords, axis=1)[:, 38], atol=1e-3)  # of forty there are 39 others
        assert_allclose(near.norm, np.linalg.norm(x, axis=1), rtol=1e-5)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all blocks of similarities that are computed."""
    sizes: list[int] = []

    def count(
        x: NDArray[np.float32], rows: NDArray[np.int64], block_bytes: int
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        for block, similarities in blockwise.iter_similarities(x, rows, block_bytes):
            sizes.append(similarities.size)
            yield block, similarities

    monkeypatch.setattr(neighbors, "iter_similarities", count)
    return sizes


@pytest.mark.parametrize(("n", "most"), [(6000, 6000), (6001, 2048), (20_000, 2048)])
def test_the_number_of_comparisons_of_an_image_is_bounded(n: int, most: int, counted: list[int]) -> None:
    near = find_near(noise(n, 4))
    assert sum(counted) <= comparisons(n) == n * most
    assert near.compared < most
    assert (near.row != np.arange(n)[:, None]).all()


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of a hundred rows or fewer."""
    monkeypatch.setattr(neighbors, "_MOST_EXACT", 100)
    monkeypatch.setattr(neighbors, "_GROUP_ROWS", 100)


def test_groups_have_nearly_the_neighbours_of_all_pairs(request: pytest.FixtureRequest) -> None:
    x = noise(2000, 8) @ noise(8, 64, 1)  # of eight dimensions
    exact = find_near(x)
    request.getfixturevalue("small_groups")
    near = find_near(x)
    assert exact.compared == 1999
    assert near.compared < 400
    same = [len({*a} & {*b}) / 10 for a, b in zip(exact.row.tolist(), near.row.tolist(), strict=True)]
    assert np.mean(same) > 0.8
    assert (near.chord >= exact.chord - 1e-3).all()
    assert all(len({*row}) == 10 for row in near.row.tolist())  # a row that is met again counts once


@pytest.mark.usefixtures("small_groups")
def test_planted_duplicates_and_outliers_are_found_in_groups() -> None:
    x, rng = noise(3000), np.random.default_rng(3)
    for row in range(0, 200, 2):
        x[row] = x[2000 + row] + 0.1 * rng.normal(size=30)
    x[999] += 20
    near = find_near(x)
    assert {(a, b) for a, b, _ in near_duplicates(near)} == {(row, 2000 + row) for row in range(0, 200, 2)}
    _, far, low_norm = find_outliers(near)
    assert np.flatnonzero(far | low_norm).tolist() == [999]
