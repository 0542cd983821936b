"""A small cache with features that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featcache.cache import FeatureCache
from featcache.samples import Samples
from featcache.spec import ExtractSpec, ViewSpec
from featcache.writer import CacheWriter

SPEC = ExtractSpec("toy", "ab" * 32, ViewSpec(8, 10), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), views=2)
DIMS = {"penultimate": 4}
PROVENANCE = {"device": "cpu"}
N = 10


def make_samples(ids: list[str] | None = None) -> Samples:
    """Seven training rows and three val rows."""
    ids = ids or [f"{'train' if row < 7 else 'val'}/{row}.png" for row in range(N)]
    n = len(ids)
    hashes = np.random.default_rng(1).integers(0, 256, (n, 32), dtype=np.uint8)
    labels = np.arange(n, dtype=np.int64) % 2
    split = np.array([0] * 7 + [1] * 3 + [0] * n, dtype=np.uint8)[:n]
    return Samples(tuple(ids), labels, split, hashes, ("ants", "bees"))


SAMPLES = make_samples()


def values(rows: NDArray[np.int64] | list[int], views: int = 3, dim: int = 4) -> NDArray[np.float32]:
    """Row r, view v, column c holds r + v / 4 + c / 64: exact in float16."""
    grid = np.arange(views)[:, None] / 4 + np.arange(dim) / 64
    return (np.asarray(rows)[:, None, None] + grid).astype(np.float32)


def writer(path: Path, spec: ExtractSpec = SPEC, samples: Samples = SAMPLES) -> CacheWriter:
    return CacheWriter(path, spec, samples, DIMS, PROVENANCE)


def write_rows(open_writer: CacheWriter, rows: list[int], views: int = 3) -> None:
    open_writer.write(np.array(rows, dtype=np.int64), {"penultimate": values(rows, views)})


def finished(path: Path, skipped: dict[int, str] | None = None) -> FeatureCache:
    skipped = skipped or {}
    with writer(path) as w:
        for rows, views in ((range(7), 3), (range(7, 10), 1)):
            write_rows(w, [row for row in rows if row not in skipped], views)
        return w.finish(skipped)
