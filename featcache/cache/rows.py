"""`select_splits` and `iter_features`: the rows of a cache that a name of a split selects, a block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featcache._utils.blockwise import iter_blocks
from featcache.core.samples import SPLITS, split_index
from featcache.core.split_names import ALL as ALL
from featcache.errors import CacheIncompleteError

if TYPE_CHECKING:
    from featcache.cache.feature_cache import FeatureCache
    from featcache.cache.features import Features
    from featcache.cache.joined_cache import JoinedCache

_BLOCK_BYTES = 2**26  # of features as float32, which a head computes with
_BLOCK_ROWS = 8192


def select_splits(cache: FeatureCache | JoinedCache, split: str) -> list[str]:
    """The splits that have rows, among those that a name selects: "all", or one split.

    Raises
    ------
    SpecError
        There is no such split.
    CacheIncompleteError
        It has no rows in this cache.
    """
    if split != ALL:
        split_index(split)
    counts = {name: len(cache.samples.rows(name)) for name in SPLITS}
    present = [name for name in SPLITS if counts[name]]
    if split not in (ALL, *present):
        numbers = ", ".join(f"{counts[name]} {name}" for name in present)
        raise CacheIncompleteError(f"{cache.path} has no {cache.spec.modality}s of {split}; it has {numbers}.")
    return present if split == ALL else [split]


def iter_features(
    cache: FeatureCache | JoinedCache, split: str, layer: str, views: int = 1
) -> Iterator[tuple[NDArray[np.int64], Features]]:
    """All rows of a split in blocks, in the order of the rows, with their features.

    Each block is compared with its checksums when it is read, so memory does not grow with the number of rows.

    Parameters
    ----------
    cache : FeatureCache or JoinedCache
    split : str
        One split.
    layer : str
        See `FeatureCache.features`.
    views : int, default 1
        How many views of each sample will be used, for the size of a block.

    Yields
    ------
    rows : ndarray, shape (b,), int64
        Row numbers, those of skipped samples included.
    features : Features
        Of the rows that are not of skipped samples, in the same order.

    Raises
    ------
    CacheDamagedError
        A row does not match its checksum.
    """
    rows, start = cache.samples.rows(split), 0
    row_bytes = 4 * views * sum(cache.dims[name] for name in cache.layers(layer))
    for block in iter_blocks(len(rows), max(row_bytes, _BLOCK_BYTES // _BLOCK_ROWS), _BLOCK_BYTES):
        stop = start + int(np.count_nonzero(cache.done[rows[block]]))
        yield rows[block], cache.features(split, layer, images=slice(start, stop))
        start = stop
