"""A CRC-32 for each row, over its features in all layers, its number of views and its reason for being skipped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zlib_ng.zlib_ng import crc32

from featcache._utils.blockwise import iter_blocks
from featcache.cache.format.layout import Layout
from featcache.cache.lazy_arrays import as_slice

_BLOCK_BYTES = 2**24


def checksums(
    layers: Mapping[str, NDArray[Any]], done: NDArray[np.uint16], skipped: NDArray[np.bytes_]
) -> NDArray[np.uint32]:
    """CRC-32 of rows, shape (b,).

    Parameters
    ----------
    layers : mapping of str to ndarray, shape (b, 1 + K, d)
        Features of each layer, as stored: zero for missing views.
    done : ndarray, shape (b,)
        Views present in each row.
    skipped : ndarray, shape (b,), fixed-length bytes
        Reasons for being skipped, or empty.
    """
    values = [0] * len(done)
    for part in (*map(_as_bytes, layers.values()), np.hstack([_as_bytes(done.astype("<u2")), _as_bytes(skipped)])):
        values = [crc32(row, value) for row, value in zip(part, values, strict=True)]
    return np.array(values, dtype=np.uint32)


def damaged_rows(
    layout: Layout, rows: NDArray[np.int64], on_progress: Callable[[int], None] | None = None
) -> NDArray[np.int64]:
    """The rows whose bytes do not match their checksum, ascending.

    Parameters
    ----------
    layout : Layout
        The cache file.
    rows : ndarray, shape (m,), int64
        Row numbers, ascending.
    on_progress : callable, optional
        Called with the number of rows read so far.
    """
    layers = {name: location.view(layout.data) for name, location in layout.layers.items()}
    done, expected, skipped = (location.view(layout.data) for location in (layout.done, layout.crc32, layout.skipped))
    row_bytes = sum(location.stride for location in layout.layers.values())
    damaged = []
    for block in iter_blocks(len(rows), row_bytes, _BLOCK_BYTES):
        key = as_slice(rows[block])
        actual = checksums({name: values[key] for name, values in layers.items()}, done[key], skipped[key])
        damaged.append(rows[block][actual != expected[key]])
        if on_progress:
            on_progress(block.stop)
    return np.concatenate([np.empty(0, np.int64), *damaged])


def _as_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)
