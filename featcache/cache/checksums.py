"""A CRC-32 for each row: of its features in all layers, its count of views and the reason why it was skipped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zlib_ng.zlib_ng import crc32

from featcache.cache.format.layout import Layout
from featcache.cache.lazy_arrays import as_slice

_BLOCK_BYTES = 2**24


def checksums(
    layers: Mapping[str, NDArray[Any]], done: NDArray[np.uint16], skipped: NDArray[np.bytes_]
) -> NDArray[np.uint32]:
    """CRC-32 of some rows, shape (b,).

    Parameters
    ----------
    layers : for each layer an ndarray of shape (b, 1 + K, d), as stored: zero where there is no view.
    done : shape (b,). skipped : shape (b,), fixed-length bytes.
    """
    found = [0] * len(done)
    for part in (*map(_as_bytes, layers.values()), np.hstack([_as_bytes(done.astype("<u2")), _as_bytes(skipped)])):
        found = [crc32(row, crc) for row, crc in zip(part, found, strict=True)]
    return np.array(found, dtype=np.uint32)


def damaged_rows(
    layout: Layout, rows: NDArray[np.int64], tick: Callable[[int], None] | None = None
) -> NDArray[np.int64]:
    """Those of the rows whose bytes do not have their checksum, ascending.

    Parameters
    ----------
    rows : shape (m,), int64, ascending. tick : gets how many rows are read.
    """
    mapped = {name: region.of(layout.data) for name, region in layout.layers.items()}
    done, expected, skipped = (region.of(layout.data) for region in (layout.done, layout.crc32, layout.skipped))
    block = max(1, _BLOCK_BYTES // sum(region.stride for region in layout.layers.values()))
    bad = []
    for start in range(0, len(rows), block):
        some = rows[start : start + block]
        here = as_slice(some)
        found = checksums({name: values[here] for name, values in mapped.items()}, done[here], skipped[here])
        bad.append(some[found != expected[here]])
        if tick:
            tick(start + len(some))
    return np.concatenate([np.empty(0, np.int64), *bad])


def _as_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)
