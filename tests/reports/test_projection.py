"""Maps of points whose map is known."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from featcache.errors import MissingExtraError, PictureError
from featcache.reports import projection
from featcache.reports.projection import Method, misplaced, project

UMAP = pytest.param(
    "umap", marks=pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="umap-learn is not installed")
)


def line(n: int = 12, d: int = 5) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points on a line in d dimensions, and their places on it from the middle, with a unit of one."""
    direction = np.arange(1, d + 1) / np.linalg.norm(np.arange(1, d + 1))
    positions = np.linspace(-3, 4, n) ** 3
    return 7 + positions[:, None] * direction, positions - positions.mean()


def clusters(n: int = 20, d: int = 6, apart: float = 50.0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Two far clouds of n points each, in directions of their own."""
    rng = np.random.default_rng(3)
    y = np.arange(2 * n) % 2
    return (rng.normal(size=(2 * n, d)) + apart * np.eye(2, d)[y]).astype(np.float32), y


@pytest.mark.parametrize("d", [1, 2, 5])
def test_a_line_lies_on_the_first_axis(d: int) -> None:
    x, positions = line(d=d)
    points = project(x)
    assert points.shape == (12, 2)
    np.testing.assert_allclose(points[:, 0] * np.sign(points[0, 0] * positions[0]), positions, atol=1e-9)
    np.testing.assert_allclose(points[:, 1], 0, atol=1e-9)


@pytest.mark.parametrize(("n", "d"), [(3, 7), (40, 2), (60, 30), (300, 80)])
def test_pca_is_scikit_learns_up_to_the_signs(n: int, d: int) -> None:
    x = np.random.default_rng(n).normal(size=(n, d)) * 0.7 ** np.arange(d)
    points, expected = project(x), PCA(2, svd_solver="full").fit_transform(x)
    signs = np.sign((points * expected).sum(axis=0))
    np.testing.assert_allclose(points * signs, expected, atol=1e-6)


def test_half_precision_is_worked_with_in_double() -> None:
    x = (np.random.default_rng(0).normal(size=(50, 4)) * 300).astype(np.float16)
    np.testing.assert_array_equal(project(x), project(x.astype(np.float64)))


@pytest.mark.parametrize("method", ["tsne", UMAP])
def test_far_clusters_stay_apart_and_the_seed_decides(method: Method) -> None:
    x, y = clusters()
    points = project(x, method, 1)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (y[distance.argmin(axis=1)] == y).all()
    centres = [points[y == kind].mean(axis=0) for kind in (0, 1)]
    spread = max(np.linalg.norm(points[y == kind] - centres[kind], axis=1).max() for kind in (0, 1))
    assert np.linalg.norm(centres[0] - centres[1]) > 1.5 * spread
    np.testing.assert_array_equal(points, project(x, method, 1))


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_three_rows_are_enough(method: Method) -> None:
    points = project(np.eye(3), method)
    assert points.shape == (3, 2)
    assert np.isfinite(points).all()


def test_features_of_one_number_have_a_map_by_neighbours_too() -> None:
    points = project(np.arange(12.0)[:, None], "tsne")
    assert points.shape == (12, 2)
    assert np.isfinite(points).all()


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_equal_features_are_no_warning(method: Method) -> None:
    points = project(np.ones((12, 4)), method)
    assert np.isfinite(points).all()
    if method == "pca":
        np.testing.assert_array_equal(points, 0)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_two_images_are_no_map(n: int) -> None:
    with pytest.raises(PictureError) as caught:
        project(np.zeros((n, 4)))
    assert str(caught.value) == f"a map needs three samples or more; there are {n}"


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(PictureError) as caught:
        project(np.eye(4), "isomap")  # type: ignore[arg-type]
    assert str(caught.value) == "there is no method 'isomap'; use pca, tsne, umap"


def test_without_umap_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        project(np.eye(4), "umap")
    assert str(caught.value) == 'this needs UMAP, which is not installed: pip install -e ".[umap]" in the clone'


def test_in_clean_clusters_nothing_is_an_outlier() -> None:
    assert misplaced(*clusters(), 5).tolist() == []


def test_what_lies_among_others_is_found_the_farthest_from_its_own_first() -> None:
    x, y = clusters()
    x[7] = x[6]  # of class 1, with those of class 0
    x[12] = [20, 30, 0, 0, 0, 0]  # of class 0, nearer to class 1, on the way
    assert misplaced(x, y, 5).tolist() == [7, 12]
    assert misplaced(x, y, 1).tolist() == [7]
    assert misplaced(x, y, 0).tolist() == []


def test_nearness_is_of_directions_not_of_lengths() -> None:
    y = np.arange(24) % 2
    x = np.array([[1.0, 0], [100, 100]])[y]  # the products with the long ones are the largest
    assert misplaced(x, y, 5).tolist() == []


def test_half_of_the_neighbours_are_not_most_of_them() -> None:
    x = np.repeat(np.eye(2), (6, 6), axis=0)
    y = np.array([0] * 6 + [1] * 6)
    assert misplaced(x, y, 12).tolist() == []  # five of its own are nearest, then five of the others


def test_features_of_nothing_are_no_error() -> None:
    assert set(misplaced(np.zeros((12, 3)), np.arange(12) % 2, 12).tolist()) <= set(range(12))
