"""Reuse rows of an older cache, matched by content, so that names, labels and splits may differ."""

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

from featcache._utils.blockwise import iter_blocks
from featcache._utils.formatting import printable
from featcache.cache.checksums import damaged_rows
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.format import lock
from featcache.cache.paths import partial_path
from featcache.cache.writer import CacheWriter
from featcache.core.samples import Samples
from featcache.core.specs import ExtractSpec
from featcache.data.manifest import Manifest
from featcache.errors import CacheMismatchError, NotACacheError

MAX_LOST_SHARE = 0.25
"""Fraction of the images with features that may be dropped without confirmation."""

_BLOCK_BYTES = 2**24
_STASHED = ".partial.old"


@dataclass(frozen=True)
class RowMatches:
    """For each row of a new cache, the row of an older cache with equal content.

    Attributes
    ----------
    row : ndarray, shape (n,), int64
        Row of the older cache.
    views : ndarray, shape (n,), uint16
        Views that it provides; 0 for new content.
    """

    row: NDArray[np.int64]
    views: NDArray[np.uint16]


def match_rows(
    old: FeatureCache, samples: Samples, expected: NDArray[np.uint16], damaged: NDArray[np.int64]
) -> RowMatches:
    """Match rows by content. Damaged rows provide no views.

    expected : views of each sample in the new cache, shape (n,). damaged : rows of the older cache.
    """
    present = old.done.copy()
    present[damaged] = 0
    # Of rows with equal content, the one with the most views comes last and stays in the dict.
    best = {old.samples.sha256[row].tobytes(): int(row) for row in np.argsort(present, kind="stable")}
    row = np.array([best.get(content.tobytes(), -1) for content in samples.sha256], dtype=np.int64)
    views = np.where(row < 0, 0, np.minimum(present[row], expected)).astype(np.uint16)
    return RowMatches(row, views)


def copy_rows(writer: CacheWriter, old: FeatureCache, matches: RowMatches) -> None:
    """Copy the views that the older cache has and the new one lacks, with the number of those that a device made.

    Where only the first views of a row are copied, at most these count as made by a device, and each as long to make.
    """
    on_device = old.layout.on_device.view(old.layout.data) if old.layout.on_device else np.zeros_like(old.done)
    seconds = old.layout.extract_s.view(old.layout.data) if old.layout.extract_s else np.zeros(len(old.done))
    layers = {name: location.view(old.layout.data) for name, location in old.layout.layers.items()}
    row_bytes = sum(location.stride for location in old.layout.layers.values())
    for views in np.unique(matches.views[matches.views > 0]).tolist():
        rows = np.flatnonzero((matches.views == views) & (writer.done < views))
        for block in iter_blocks(len(rows), row_bytes, _BLOCK_BYTES):
            source = matches.row[rows[block]]
            features = {name: values[source, :views] for name, values in layers.items()}
            extract_s = (seconds[source] * views / old.done[source]).astype(np.float32)
            writer.write(rows[block], features, 0, np.minimum(on_device[source], views), extract_s)


def keep_unread(old: FeatureCache, manifest: Manifest) -> tuple[Manifest, list[str]]:
    """Treat images that cannot be read now, and that have features, as unchanged.

    A lost mount or permission may come back; dropped features do not come back without the images.

    Parameters
    ----------
    old : FeatureCache
        The cache that has the features.
    manifest : Manifest
        The images now. An image that cannot be read has the hash of its name.

    Returns
    -------
    Manifest
        With the old hashes of these images.
    list of str
        Their ids.
    """
    rows = {name: row for row, name in enumerate(old.samples.ids) if old.done[row] > 0}
    unread = [row for row in manifest.unread() if manifest.samples.ids[row] in rows]
    if not unread:
        return manifest, []
    ids, sha256 = [manifest.samples.ids[row] for row in unread], manifest.samples.sha256.copy()
    sha256[unread] = old.samples.sha256[[rows[name] for name in ids]]
    keys = manifest.samples.content_keys
    if keys is not None:
        keys = keys.copy()
        keys[unread] = old.samples.contents[[rows[name] for name in ids]]
    return replace(manifest, samples=replace(manifest.samples, sha256=sha256, content_keys=keys)), ids


@dataclass(frozen=True)
class Loss:
    """Samples whose features are not reused, because their content is no longer among the samples.

    Attributes
    ----------
    lost : int
        Such samples.
    total : int
        All samples that have features.
    example : str
        An id, or "".
    modality : str
        What the samples are, "image" or "text".
    """

    lost: int
    total: int
    example: str = ""
    modality: str = "image"

    @classmethod
    def between(cls, old: FeatureCache, samples: Samples) -> Self:
        """The loss from an older cache to new samples."""
        contents = {content.tobytes() for content in samples.sha256}
        present = np.flatnonzero(old.done)
        lost = [row for row in present.tolist() if old.samples.sha256[row].tobytes() not in contents]
        return cls(len(lost), len(present), old.samples.ids[lost[0]] if lost else "", old.spec.modality)

    @property
    def is_large(self) -> bool:
        """Whether it exceeds `MAX_LOST_SHARE`, as with a wrong folder or a disk that is not mounted."""
        return self.lost > MAX_LOST_SHARE * self.total

    def __str__(self) -> str:
        """The loss, for people."""
        percent = f"{self.lost / self.total:.0%}".replace("%", " %")
        samples = f"{self.modality}s with features ({percent})"
        return f"{self.lost} of {self.total} {samples}, for example {printable(self.example)}"


def engine_of_unfinished(path: Path) -> str:
    """The engine that made the rows of an unfinished cache of this name; "" without one, or if not recorded."""
    partial = partial_path(path)
    return str(FeatureCache(partial).provenance.get("engine", "")) if partial.exists() else ""


def stash_partial(path: Path, spec: ExtractSpec, samples: Samples) -> list[FeatureCache]:
    """Move an unfinished cache of other images to NAME.h5.partial.old, .old2, ...; returns all with this spec.

    Images may come and go between a kill and the next run; extracted features are not lost. Raises CacheBusyError.
    """
    partial, cache = partial_path(path), _unfinished(path)
    if cache and not cache.spec.differences(spec) and cache.samples.differences(samples):
        with suppress(FileNotFoundError), partial.open("r+b", buffering=0) as file:  # it may be finished meanwhile
            lock.acquire(partial, file, cache.layout.owner_offset)
            os.replace(partial, _free_name(path))
            lock.release(partial, file, cache.layout.owner_offset)
    stashed = (FeatureCache(file) for file in sorted(path.parent.glob(f"{glob.escape(path.name)}{_STASHED}*")))
    return [cache for cache in stashed if not cache.spec.differences(spec)]


def _unfinished(path: Path) -> FeatureCache | None:
    """The unfinished cache that will have this name; None if there is none."""
    partial = partial_path(path)
    try:
        return FeatureCache(partial) if partial.exists() else None
    except (FileNotFoundError, NotACacheError):
        if partial.exists():
            raise
        return None


def _free_name(path: Path) -> Path:
    """The first of NAME.h5.partial.old, .old2, .old3, ... that is not taken."""
    names = (Path(f"{path}{_STASHED}{number if number > 1 else ''}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())


def check_loss(path: Path, spec: ExtractSpec, samples: Samples) -> None:
    """Raise CacheMismatchError if an unfinished cache has mostly other images: it is another extraction."""
    partial, cache = partial_path(path), _unfinished(path)
    if not cache:
        return
    loss = Loss.between(cache, samples)
    if loss.is_large and not cache.spec.differences(spec):
        raise CacheMismatchError(
            f"{partial} is an unfinished extraction of other {spec.modality}s: {loss}, would be lost. Finish it with "
            f"the command that began it, give another name with -o, or remove {partial.name}."
        )


def import_stashed(writer: CacheWriter, stashed: Sequence[FeatureCache], samples: Samples) -> list[str]:
    """Reuse and delete the caches that `stash_partial` returned. Returns what was lost, a line each."""
    notes = []
    for cache in stashed:
        damaged = damaged_rows(cache.layout, np.flatnonzero(cache.done))
        copy_rows(writer, cache, match_rows(cache, samples, writer.expected_views, damaged))
        loss = Loss.between(cache, samples)
        if loss.lost:
            notes.append(f"of an unfinished run, {loss}, are not among the {cache.spec.modality}s any more: dropped")
    for cache in stashed:
        cache.path.unlink()
    return notes
