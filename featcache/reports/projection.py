"""Features on a plane: `project`; and `misplaced`, the images that lie among those of another class."""

from __future__ import annotations

import importlib.util
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from featcache._utils.blockwise import iter_similarities, nearest_columns, unit_rows
from featcache.errors import MissingExtraError, PictureError

Method = Literal["pca", "tsne", "umap"]
NAMES: dict[Method, str] = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}

_COMPONENTS = 50  # that t-SNE and UMAP start from, as their authors advise
_NEIGHBOURS = 10
_BLOCK_BYTES = 2**26  # of similarities
_ROOM = 0.1  # of the map's sides, from one small picture to the next


def project(x: NDArray[Any], method: Method = "pca", seed: int = 0) -> NDArray[np.float64]:
    """Each row as a point of the plane, shape (n, 2).

    Parameters
    ----------
    x : shape (n, d). method : "pca"; "tsne" (van der Maaten and Hinton 2008); "umap" (McInnes et al. 2018).

    Raises
    ------
    PictureError : fewer than three rows, or an unknown method. MissingExtraError : UMAP is not installed.
    """
    if method not in get_args(Method):
        raise PictureError(f"there is no method {method!r}; use {', '.join(get_args(Method))}")
    if len(x) < 3:
        raise PictureError(f"a map needs three images or more; there are {len(x)}")
    from sklearn.decomposition import PCA

    x = np.asarray(x, np.float64)
    components = min(2 if method == "pca" else _COMPONENTS, *x.shape)
    solver = "full" if min(x.shape) <= 4 * components else "randomized"
    with np.errstate(invalid="ignore"):  # scikit-learn divides by the variance, which equal features do not have
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
        raise MissingExtraError.of("UMAP", "umap")
    return _umap(reduced, seed)


def misplaced(x: NDArray[Any], labels: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Rows of which most of the nearest ten, by cosine, are of another class; the farthest from their own first.

    Of a class with fewer images as many neighbours are looked at as it has others; one that is alone is no outlier.

    Parameters
    ----------
    x : shape (n, d). labels : shape (n,), 0 or more. most : of them.
    """
    looked_at = np.minimum(_NEIGHBOURS, np.bincount(labels)[labels] - 1)
    foreign, own = np.zeros(len(x)), np.zeros(len(x))
    k = int(looked_at.max(initial=0))
    all_rows = np.arange(len(x) if k else 0)
    for rows, near in iter_similarities(unit_rows(x), all_rows, _BLOCK_BYTES):
        near[np.arange(len(near)), all_rows[rows]] = -np.inf
        others = labels[nearest_columns(near, k)] != labels[rows, None]
        counted = np.arange(k) < looked_at[rows, None]
        foreign[rows] = (others & counted).sum(axis=1) / np.maximum(looked_at[rows], 1)
        own[rows] = np.where(labels[rows, None] == labels, near, -np.inf).max(axis=1)
    first = np.lexsort((own, -foreign))
    return first[foreign[first] > 0.5][:most]


def spread_out(points: NDArray[np.float64], rows: NDArray[np.int64], most: int) -> list[int]:
    """Of these rows, in their order, those whose points leave room for a small picture each; points of shape (n, 2)."""
    span = np.ptp(points, axis=0)
    scaled = points / np.where(span > 0, span, 1)
    kept: list[int] = []
    for row in rows.tolist():
        if len(kept) < most and all(np.abs(scaled[row] - scaled[other]).max() >= _ROOM for other in kept):
            kept.append(row)
    return kept


def _umap(x: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numba, and of one core where a seed is given
        from umap import UMAP

        neighbours = min(15, len(x) - 1)
        return np.asarray(UMAP(n_neighbors=neighbours, random_state=seed).fit_transform(x), np.float64)
