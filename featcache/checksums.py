"""A CRC-32 for each row: of its features in all layers, its count of views and the reason why it was skipped."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.layout import Layout

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
    b = len(done)
    marks = [np.ascontiguousarray(part).view(np.uint8).reshape(b, -1) for part in (done.astype("<u2"), skipped)]
    parts = [np.ascontiguousarray(values).view(np.uint8).reshape(b, -1).data for values in layers.values()]
    parts.append(np.hstack(marks).data)
    found = np.empty(b, dtype=np.uint32)
    for row in range(b):
        crc = 0
        for part in parts:
            crc = zlib.crc32(part[row : row + 1], crc)
        found[row] = crc
    return found


def damaged_rows(
    layout: Layout, rows: NDArray[np.int64], tick: Callable[[int], None] | None = None
) -> NDArray[np.int64]:
    """Those of the rows whose bytes do not have their checksum, ascending. tick : gets how many rows are read."""
    mapped = {name: region.of(layout.data) for name, region in layout.layers.items()}
    done, crc32, skipped = (region.of(layout.data) for region in (layout.done, layout.crc32, layout.skipped))
    block = max(1, _BLOCK_BYTES // sum(region.stride for region in layout.layers.values()))
    bad = []
    for start in range(0, len(rows), block):
        some = rows[start : start + block]
        found = checksums({name: values[some] for name, values in mapped.items()}, done[some], skipped[some])
        bad.append(some[found != crc32[some]])
        if tick:
            tick(start + len(some))
    return np.concatenate([np.empty(0, np.int64), *bad])
