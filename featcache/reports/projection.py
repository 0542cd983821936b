"""`project`: features in two dimensions; `misplaced`: the images that lie among those of another class."""

from __future__ import annotations

import importlib.util
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from featcache._utils.blockwise import iter_similarities, nearest_columns, unit_rows
from featcache.errors import MissingExtraError, PictureError

Method = Literal["pca", "tsne", "umap"]
NAMES: dict[Method, str] = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}

_COMPONENTS = 50  # principal components that t-SNE and UMAP start from, as their authors advise
_NEIGHBOURS = 10
_BLOCK_BYTES = 2**26  # of similarities
_MIN_GAP = 0.1  # between two small images, as a fraction of the side of the map


def project(x: NDArray[Any], method: Method = "pca", seed: int = 0) -> NDArray[np.float64]:
    """Project rows to two dimensions, (n, 2).

    Parameters
    ----------
    x : NDArray
        Features, (n, d).
    method : "pca", "tsne" or "umap"
        Principal components; t-SNE (van der Maaten and Hinton 2008); UMAP (McInnes et al. 2018).
    seed : int, default 0

    Raises
    ------
    PictureError
        There are fewer than three rows, or the method is unknown.
    MissingExtraError
        UMAP is not installed.
    """
    if method not in get_args(Method):
        raise PictureError(f"there is no method {method!r}; use {', '.join(get_args(Method))}")
    if len(x) < 3:
        raise PictureError(f"a map needs three samples or more; there are {len(x)}")
    from sklearn.decomposition import PCA

    x = np.asarray(x, np.float64)
    components = min(2 if method == "pca" else _COMPONENTS, *x.shape)
    solver = "full" if min(x.shape) <= 4 * components else "randomized"
    with np.errstate(invalid="ignore"):  # scikit-learn divides by the variance, which is 0 for equal features
        reduced = np.asarray(PCA(components, svd_solver=solver, random_state=seed).fit_transform(x))
    plane = np.pad(reduced[:, :2], ((0, 0), (0, max(0, 2 - components))))
    if method == "pca":
        return plane
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(x) - 1) / 3)
        start = 1e-4 * plane / max(float(plane[:, 0].std()), np.finfo(float).tiny)  # as scikit-learn's init="pca"
        return np.asarray(TSNE(perplexity=perplexity, init=start, random_state=seed).fit_transform(reduced))
    if importlib.util.find_spec("umap") is None:
        raise MissingExtraError.for_package("UMAP", "umap")
    return _umap(reduced, seed)


def misplaced(x: NDArray[Any], labels: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most so many rows whose ten nearest neighbours, by cosine, mostly have another class.

    The rows that are farthest from their own class come first. If a class has fewer other images, as many neighbours
    are counted; the single image of a class is never misplaced.

    x : (n, d). labels : (n,), 0 or more.
    """
    counted = np.minimum(_NEIGHBOURS, np.bincount(labels)[labels] - 1)
    foreign, own_similarity = np.zeros(len(x)), np.zeros(len(x))
    k = int(counted.max(initial=0))
    all_rows = np.arange(len(x) if k else 0)
    for rows, similarity in iter_similarities(unit_rows(x), all_rows, _BLOCK_BYTES):
        similarity[np.arange(len(similarity)), all_rows[rows]] = -np.inf
        differs = labels[nearest_columns(similarity, k)] != labels[rows, None]
        is_counted = np.arange(k) < counted[rows, None]
        foreign[rows] = (differs & is_counted).sum(axis=1) / np.maximum(counted[rows], 1)
        own_similarity[rows] = np.where(labels[rows, None] == labels, similarity, -np.inf).max(axis=1)
    order = np.lexsort((own_similarity, -foreign))
    return order[foreign[order] > 0.5][:most]


def spread_out(points: NDArray[np.float64], rows: NDArray[np.int64], most: int) -> list[int]:
    """At most so many of the rows, in their order, whose points (n, 2) are far enough apart for a small image each."""
    span = np.ptp(points, axis=0)
    scaled = points / np.where(span > 0, span, 1)
    chosen: list[int] = []
    for row in rows.tolist():
        if len(chosen) < most and all(np.abs(scaled[row] - scaled[other]).max() >= _MIN_GAP for other in chosen):
            chosen.append(row)
    return chosen


def _umap(x: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from numba, and because a seed limits UMAP to one core
        from umap import UMAP

        neighbours = min(15, len(x) - 1)
        return np.asarray(UMAP(n_neighbors=neighbours, random_state=seed).fit_transform(x), np.float64)
