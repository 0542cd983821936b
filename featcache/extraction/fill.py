"""`fill_cache`: write the features of all missing views into a cache."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from featcache._utils.monitor import Monitor
from featcache.cache.writer import CacheWriter
from featcache.data.manifest import Manifest
from featcache.errors import EmptyFolderError, UnreadableImageError
from featcache.extraction.extractor import Extractor
from featcache.extraction.results import with_ids


def fill_cache(writer: CacheWriter, extractor: Extractor, monitor: Monitor, strict: bool = False) -> dict[int, str]:
    """Extract all missing views.

    Returns
    -------
    dict
        Row to reason, for images that could not be read.

    Raises
    ------
    EmptyFolderError
        No image can be read.
    UnreadableImageError
        An image cannot be read, with `strict`; or it cannot be read and the cache has some of its views.
    CacheSpaceError
    """
    manifest, skipped = extractor.manifest, extractor.skipped
    total, remaining = len(manifest.samples), len(writer.pending())
    before = time.perf_counter()
    for rows, features, first_view, on_device in extractor.extract(writer.expected_views, writer.done):
        with monitor.phase("write"):
            extract_s = np.full(len(rows), (time.perf_counter() - before) / max(1, len(rows)), np.float32)
            before = time.perf_counter()
            skipped.update(writer.write(rows, features, first_view, on_device, extract_s))
        remaining -= len(rows)
        if strict:
            reject_unreadable(manifest, with_ids(manifest.samples, skipped))
        monitor.report("extract", total - remaining, total)
    if strict:
        reject_unreadable(manifest, with_ids(manifest.samples, skipped))
    if skipped:
        monitor.report("extract", total, total)
    incomplete = sorted(row for row in skipped if writer.done[row] > 0)
    if incomplete:
        path, reason = manifest.where(manifest.samples.ids[incomplete[0]]), skipped[incomplete[0]]
        raise UnreadableImageError(
            f"{len(incomplete)} {manifest.modality.plural} that have features need more views and cannot be read now, "
            f"for example {path}: {reason}. What was extracted is kept. Make them readable, or remove them from the "
            "data, then run the same command again."
        )
    if len(skipped) == total:
        row, reason = next(iter(skipped.items()))
        raise EmptyFolderError(
            f"none of the {total} {manifest.modality.plural} of {manifest.source.name} could be read; "
            f"{manifest.samples.ids[row]}: {reason}"
        )
    return skipped


def reject_unreadable(manifest: Manifest, skipped: Sequence[tuple[str, str]]) -> None:
    """Raise UnreadableImageError for the first skipped image, a pair (id, reason), if there is one."""
    if skipped:
        name, reason = skipped[0]
        raise UnreadableImageError(
            f"{manifest.where(name)} cannot be read: {reason}. Fix or delete it, or extract without --strict, which "
            f"skips and lists such {manifest.modality.plural}. What was extracted so far is kept."
        )
