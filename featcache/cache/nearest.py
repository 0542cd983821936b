"""`nearest_rows`: the rows of a cache whose features are the most similar to given ones. All rows are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache._utils.blockwise import iter_similarities, nearest_columns, unit_rows
from featcache._utils.progress_bar import Progress
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.features import Features
from featcache.cache.rows import iter_features

_BLOCK_BYTES = 2**25  # of similarities


class NearestRows(NamedTuple):
    """The k most similar rows of a cache for each of q queries, the most similar first.

    row : (q, k), int64; -1 where there are fewer rows. cosine : (q, k), float32; -inf there. compared : how many rows
    each query was compared with, those that were left out included.
    """

    row: NDArray[np.int64]
    cosine: NDArray[np.float32]
    compared: int


def nearest_rows(
    cache: FeatureCache,
    queries: Sequence[NDArray[np.floating]],
    k: int,
    splits: Sequence[str],
    layer: str,
    left_out: Sequence[NDArray[np.int64]],
    progress: Progress | None = None,
) -> NearestRows:
    """Compare queries with the clean features of a cache, a block of rows at a time.

    Parameters
    ----------
    cache : FeatureCache
    queries : sequence of ndarray, shape (q, d)
        Features of each layer. The similarity is the cosine, of several layers the mean of their cosines.
    k : int
        Rows for each query.
    splits : sequence of str
        Whose rows are compared.
    layer : str
        See `FeatureCache.features`.
    left_out : sequence of ndarray
        For each query the rows that are not its neighbors.
    progress : callable, optional
        Called after each block as progress("compare", rows, all rows).

    Raises
    ------
    CacheDamagedError
        A row does not match its checksum.
    """
    x = _join(queries)
    numbers = np.arange(len(x))
    pairs = np.array([(query, row) for query, rows in enumerate(left_out) for row in rows], np.int64).reshape(-1, 2)
    best = NearestRows(np.full((len(x), k), -1), np.full((len(x), k), -np.inf, np.float32), 0)
    total, seen, compared = sum(len(cache.samples.rows(split)) for split in splits), 0, 0
    for split in splits:
        for rows, features in iter_features(cache, split, layer):
            readable = rows[cache.done[rows] > 0]
            for block, cosine in iter_similarities(x, numbers, _BLOCK_BYTES, _join(_layers(features))):
                own = pairs[(pairs[:, 0] >= block.start) & (pairs[:, 0] < block.stop) & np.isin(pairs[:, 1], readable)]
                cosine[own[:, 0] - block.start, np.searchsorted(readable, own[:, 1])] = -np.inf
                _keep_best(best, block, readable, cosine)
            seen, compared = seen + len(rows), compared + len(readable)
            if progress:
                progress("compare", seen, total)
    return best._replace(row=np.where(np.isfinite(best.cosine), best.row, -1), compared=compared)


def _keep_best(best: NearestRows, block: slice, rows: NDArray[np.int64], cosine: NDArray[np.float32]) -> None:
    """Keep the most similar of the rows so far and of these rows; cosine : of the queries of the block, (b, n)."""
    cosine = np.where(np.isnan(cosine), -np.inf, cosine)  # features that are not finite are similar to nothing
    if len(rows) > best.row.shape[1]:
        nearest = nearest_columns(cosine, best.row.shape[1])
        rows, cosine = rows[nearest], np.take_along_axis(cosine, nearest, axis=1)
    else:
        rows = np.broadcast_to(rows, cosine.shape)
    all_rows, all_cosines = np.hstack([best.row[block], rows]), np.hstack([best.cosine[block], cosine])
    order = np.lexsort((all_rows, -all_cosines), axis=1)[:, : best.row.shape[1]]
    best.row[block] = np.take_along_axis(all_rows, order, axis=1)
    best.cosine[block] = np.take_along_axis(all_cosines, order, axis=1)


def _layers(features: Features) -> list[NDArray[np.float32]]:
    """The clean features of each layer."""
    x = np.asarray(features.lazy_view(0), np.float32)
    return np.split(x, np.cumsum(features.concatenated.widths)[:-1], axis=1) if features.concatenated else [x]


def _join(layers: Sequence[NDArray[np.floating]]) -> NDArray[np.float32]:
    """Layers side by side, scaled so that inner products of rows are the mean of the cosines of the layers."""
    with np.errstate(invalid="ignore", over="ignore"):  # features that are not finite
        return np.hstack([unit_rows(x) for x in layers]) / np.float32(np.sqrt(len(layers)))
