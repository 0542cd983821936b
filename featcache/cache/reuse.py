"""Rows of an older cache in a new one: matched by content, so that names, labels and splits may differ."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from featcache._utils.formatting import printable
from featcache.cache.checksums import damaged_rows
from featcache.cache.feature_cache import FeatureCache, partial_path
from featcache.cache.format import lock
from featcache.cache.writer import CacheWriter
from featcache.core.samples import Samples
from featcache.core.specs import ExtractSpec
from featcache.data.manifest import Manifest
from featcache.errors import CacheMismatchError, NotACacheError

MAX_LOST_SHARE = 0.25
"""Of the images with features: the share that may be dropped without a question."""

_BLOCK_BYTES = 2**24
_ASIDE = ".partial.old"


@dataclass(frozen=True)
class RowMatches:
    """For each row of a cache to be: which row of an older cache has its content, and how many views it gives.

    row : ndarray, shape (n,), int64. views : ndarray, shape (n,), uint16, 0 where the content is new.
    """

    row: NDArray[np.int64]
    views: NDArray[np.uint16]


def match_rows(
    old: FeatureCache, samples: Samples, wanted: NDArray[np.uint16], damaged: NDArray[np.int64]
) -> RowMatches:
    """Match rows by content: names and labels may differ. Damaged rows give nothing."""
    there = old.done.copy()
    there[damaged] = 0
    # Of copies, the row with the most views serves: it comes last and so stays.
    best = {old.samples.sha256[row].tobytes(): int(row) for row in np.argsort(there, kind="stable")}
    row = np.array([best.get(content.tobytes(), -1) for content in samples.sha256], dtype=np.int64)
    views = np.where(row < 0, 0, np.minimum(there[row], wanted)).astype(np.uint16)
    return RowMatches(row, views)


def copy_rows(writer: CacheWriter, old: FeatureCache, origins: RowMatches) -> None:
    """Copy what the older cache has and the new one lacks."""
    mapped = {name: region.of(old.layout.data) for name, region in old.layout.layers.items()}
    block = max(1, _BLOCK_BYTES // sum(region.stride for region in old.layout.layers.values()))
    for views in np.unique(origins.views[origins.views > 0]).tolist():
        rows = np.flatnonzero((origins.views == views) & (writer.done < views))
        for start in range(0, len(rows), block):
            some = rows[start : start + block]
            writer.write(some, {name: values[origins.row[some], :views] for name, values in mapped.items()})


def keep_unread(old: FeatureCache, manifest: Manifest) -> tuple[Manifest, list[str]]:
    """Images that cannot be read now, and whose features are there, count as unchanged.

    A lost mount and a lost permission pass; features that are dropped do not come back without the images.

    Parameters
    ----------
    old : FeatureCache
        The cache that has the features.
    manifest : Manifest
        The images now. One that cannot be read has the hash of its name.

    Returns
    -------
    Manifest
        With the old hashes of these images.
    list of str
        Their ids.
    """
    rows = {name: row for row, name in enumerate(old.samples.ids) if old.done[row] > 0}
    kept = [row for row in manifest.unread() if manifest.samples.ids[row] in rows]
    if not kept:
        return manifest, []
    ids, sha256 = [manifest.samples.ids[row] for row in kept], manifest.samples.sha256.copy()
    sha256[kept] = old.samples.sha256[[rows[name] for name in ids]]
    return replace(manifest, samples=replace(manifest.samples, sha256=sha256)), ids


@dataclass(frozen=True)
class Loss:
    """Images whose features are not carried over, as their content is not among the images any more.

    lost : int. Images. of : int. All that have features. example : str. An id, or "".
    """

    lost: int
    of: int
    example: str = ""

    @classmethod
    def between(cls, old: FeatureCache, samples: Samples) -> Self:
        """From an older cache to new samples."""
        contents = {content.tobytes() for content in samples.sha256}
        there = np.flatnonzero(old.done)
        lost = [row for row in there.tolist() if old.samples.sha256[row].tobytes() not in contents]
        return cls(len(lost), len(there), old.samples.ids[lost[0]] if lost else "")

    @property
    def is_large(self) -> bool:
        """Whether it is more than `MAX_LOST_SHARE`, as of a wrong folder or a disk that is not mounted."""
        return self.lost > MAX_LOST_SHARE * self.of

    def __str__(self) -> str:
        """What is lost, for people."""
        share = f"{self.lost / self.of:.0%}".replace("%", " %")
        return f"{self.lost} of {self.of} images with features ({share}), for example {printable(self.example)}"


def engine_of_unfinished(path: Path) -> str:
    """The engine that made the rows of an unfinished cache of this name; "" where there is none, or it is not known."""
    at = partial_path(path)
    return str(FeatureCache(at).provenance.get("engine", "")) if at.exists() else ""


def stash_partial(path: Path, spec: ExtractSpec, samples: Samples) -> list[FeatureCache]:
    """Unfinished caches of runs with these settings and other images, moved to NAME.h5.partial.old, .old2, ...

    Images come and go between a kill and the next run; what was extracted is not lost. Raises CacheBusyError.
    """
    at, cache = partial_path(path), _unfinished(path)
    if cache and cache.spec == spec and cache.samples.differences(samples):
        with suppress(FileNotFoundError), at.open("r+b", buffering=0) as file:  # it may be finished meanwhile
            lock.acquire(at, file, cache.layout.owner_offset)
            os.replace(at, _free_name(path))
            lock.release(at, file, cache.layout.owner_offset)
    asides = (FeatureCache(aside) for aside in sorted(path.parent.glob(f"{glob.escape(path.name)}{_ASIDE}*")))
    return [cache for cache in asides if cache.spec == spec]


def _unfinished(path: Path) -> FeatureCache | None:
    """The unfinished cache that will have this name; None where there is none, or none any more."""
    at = partial_path(path)
    try:
        return FeatureCache(at) if at.exists() else None
    except (FileNotFoundError, NotACacheError):
        if at.exists():
            raise
        return None


def _free_name(path: Path) -> Path:
    """The first of NAME.h5.partial.old, .old2, .old3, ... that is not taken."""
    names = (Path(f"{path}{_ASIDE}{number if number > 1 else ''}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())


def check_loss(path: Path, spec: ExtractSpec, samples: Samples) -> None:
    """Raise CacheMismatchError where an unfinished cache has mainly other images: it is another extraction."""
    at, cache = partial_path(path), _unfinished(path)
    if not cache:
        return
    loss = Loss.between(cache, samples)
    if cache.spec == spec and loss.is_large:
        raise CacheMismatchError(
            f"{at} is an unfinished extraction of other images: {loss}, would be lost. Finish it with the command that "
            f"began it, give another name with -o, or remove {at.name} if nobody wants it."
        )


def import_stashed(writer: CacheWriter, asides: Sequence[FeatureCache], samples: Samples) -> list[str]:
    """Carry over what `stash_partial` gave and remove it. Returns what was not carried over, a line each."""
    notes = []
    for aside in asides:
        damaged = damaged_rows(aside.layout, np.flatnonzero(aside.done))
        copy_rows(writer, aside, match_rows(aside, samples, writer.wanted, damaged))
        loss = Loss.between(aside, samples)
        if loss.lost:
            notes.append(f"of an unfinished run, {loss}, are not among the images any more: dropped")
    for aside in asides:
        aside.path.unlink()
    return notes
