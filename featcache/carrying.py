"""Rows of an older cache in a new one: matched by content, so that names, labels and splits may differ."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featcache import lock
from featcache.cache import FeatureCache, partial_path
from featcache.checksums import damaged_rows
from featcache.samples import Samples
from featcache.spec import ExtractSpec
from featcache.writer import CacheWriter

_BLOCK_BYTES = 2**24


@dataclass(frozen=True)
class Origins:
    """For each row of a cache to be: which row of an older cache has its content, and how many views it gives.

    row : ndarray, shape (n,), int64. views : ndarray, shape (n,), uint16, 0 where the content is new.
    """

    row: NDArray[np.int64]
    views: NDArray[np.uint16]


def find_origins(
    old: FeatureCache, samples: Samples, wanted: NDArray[np.uint16], damaged: NDArray[np.int64]
) -> Origins:
    """Match rows by content: names and labels may differ. Damaged rows give nothing."""
    there = old.done.copy()
    there[damaged] = 0
    # Of copies, the row with the most views serves: it comes last and so stays.
    best = {old.samples.sha256[row].tobytes(): int(row) for row in np.argsort(there, kind="stable")}
    row = np.array([best.get(content.tobytes(), -1) for content in samples.sha256], dtype=np.int64)
    views = np.where(row < 0, 0, np.minimum(there[row], wanted)).astype(np.uint16)
    return Origins(row, views)


def carry(writer: CacheWriter, old: FeatureCache, origins: Origins) -> None:
    """Copy what the older cache has and the new one lacks."""
    mapped = {name: region.of(old.layout.data) for name, region in old.layout.layers.items()}
    block = max(1, _BLOCK_BYTES // sum(region.stride for region in old.layout.layers.values()))
    for views in np.unique(origins.views[origins.views > 0]).tolist():
        rows = np.flatnonzero((origins.views == views) & (writer.done < views))
        for start in range(0, len(rows), block):
            some = rows[start : start + block]
            writer.write(some, {name: values[origins.row[some], :views] for name, values in mapped.items()})


def set_aside(path: Path, spec: ExtractSpec, samples: Samples) -> FeatureCache | None:
    """The unfinished cache of a run with these settings and other images, moved to NAME.h5.partial.old.

    Images come and go between a kill and the next run; what was extracted is not lost. Raises CacheBusyError.
    """
    at, aside = partial_path(path), Path(f"{path}.partial.old")
    if at.exists():
        cache = FeatureCache(at)
        if cache.spec == spec and cache.samples.differences(samples):
            with at.open("r+b", buffering=0) as file:
                lock.take(at, file, cache.layout.owner_offset)
                os.replace(at, aside)
                lock.give_back(file, cache.layout.owner_offset)
    if not aside.exists():
        return None
    cache = FeatureCache(aside)
    return cache if cache.spec == spec else None


def take_over(writer: CacheWriter, aside: FeatureCache, samples: Samples) -> None:
    """Carry over what `set_aside` gave and remove it."""
    damaged = damaged_rows(aside.layout, np.flatnonzero(aside.done))
    carry(writer, aside, find_origins(aside, samples, writer.wanted, damaged))
    aside.path.unlink()
