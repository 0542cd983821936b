"""`verify` and `diff`: whether a cache holds what was written, and how it differs from its images or another cache."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featcache._utils.formatting import printable
from featcache._utils.notebook import NotebookResult
from featcache._utils.progress_bar import Progress, ProgressOption, as_callback
from featcache.cache.checksums import damaged_rows
from featcache.cache.feature_cache import FeatureCache
from featcache.data.input_notes import first_few, input_notes, list_inputs, name_changes, write_list
from featcache.data.manifest import Manifest, read_manifest
from featcache.data.sources.registry import names_samples


@dataclass(frozen=True, repr=False)
class Verification(NotebookResult):
    """What `verify` found.

    rows : how many were read. damaged : ids of the rows without their checksum. problem : of the marks of what is
    there, empty where there is none. changes : how the images differ, see `Samples.changes`; None where they were
    not asked for. ignored : files and folders of the images that were passed over, by reason.
    """

    path: Path
    rows: int
    damaged: list[str]
    problem: str
    changes: dict[str, list[str]] | None
    ignored: dict[str, int] = field(default_factory=dict)

    def write_list(self, path: str | os.PathLike[str]) -> None:
        """All damaged and changed images as CSV: kind, image, other, reason; whole or not at all."""
        damaged = {"damaged": self.damaged} if self.damaged else {}
        write_list(path, list_inputs([], [], {**damaged, **(self.changes or {})}))

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged and no image differs."""
        return not self.damaged and not self.problem and not self.changes

    def __str__(self) -> str:
        """For people."""
        lines = first_few([f"damaged {printable(name)}" for name in self.damaged], "damaged images")
        lines += name_changes(self.changes or {})
        state = f"{len(self.damaged)} damaged" if self.damaged else "every row has its checksum"
        images = "" if self.changes is None else f"; images: {_counts(self.changes)}"
        lines.append(f"{self.path}: {self.rows} rows read, {state}{images}")
        lines += input_notes(self.ignored, [], [])
        if self.problem:
            lines.append(f"damaged: {self.problem}")
        if self.damaged or self.problem:
            lines.append(f"Extract the damaged rows again with `featcache verify {self.path} --repair DATA`.")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "cache": str(self.path),
            "ok": self.ok,
            "rows": self.rows,
            "damaged": self.damaged,
            "problem": self.problem,
            "changes": self.changes,
            "ignored": self.ignored,
        }


@dataclass(frozen=True, repr=False)
class Difference(NotebookResult):
    """What `diff` found: fields of the spec as (name, value in a, value in b), and changes from a's samples to b's.

    ignored : files and folders of b that were passed over, by reason.
    """

    a: str
    b: str
    spec: list[tuple[str, Any, Any]]
    changes: dict[str, list[str]]
    ignored: dict[str, int] = field(default_factory=dict)

    def write_list(self, path: str | os.PathLike[str]) -> None:
        """All images that differ as CSV: kind, image, other, reason; whole or not at all."""
        write_list(path, list_inputs([], [], self.changes))

    @property
    def same(self) -> bool:
        """Whether there is no difference."""
        return not self.spec and not self.changes

    def __str__(self) -> str:
        """For people."""
        lines = [f"{name}: {here} in {self.a}, {there} in {self.b}" for name, here, there in self.spec]
        lines += name_changes(self.changes)
        lines = lines or [f"{self.a} and {self.b} hold the same"]
        return "\n".join([*lines, *input_notes(self.ignored, [], [])])

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "a": self.a,
            "b": self.b,
            "same": self.same,
            "spec": {name: [here, there] for name, here, there in self.spec},
            "changes": self.changes,
            "ignored": self.ignored,
        }


def verify(
    path: str | os.PathLike[str], images: str | os.PathLike[str] | None = None, *, progress: ProgressOption = None
) -> Verification:
    """Read every row of a cache and compare it with its checksum; the tables are checked on opening.

    Parameters
    ----------
    images : the data that the cache was made from, to be compared with it by content.

    Raises
    ------
    CacheError, ImageError
    """
    progress = as_callback(progress)
    cache = FeatureCache.open(path, damaged=True)
    if images is not None:
        cache.require_images("a comparison with images")
    n = len(cache.samples)
    tick = (lambda done: progress("verify", done, n)) if progress else None
    damaged = damaged_rows(cache.layout, np.arange(n), tick)
    names = [cache.samples.ids[row] for row in damaged]
    if images is None:
        return Verification(cache.path, n, names, cache.problem, None)
    manifest = _images(cache, images, progress)
    return Verification(cache.path, n, names, cache.problem, cache.samples.changes(manifest.samples), manifest.ignored)


def diff(a: str | os.PathLike[str], b: str | os.PathLike[str], *, progress: ProgressOption = None) -> Difference:
    """Compare a cache with another one, or with a folder or CSV manifest of images.

    Raises
    ------
    CacheError, ImageError
    """
    progress = as_callback(progress)
    first = FeatureCache.open(a)
    if names_samples(b):
        first.require_images("a comparison with images")
        manifest = _images(first, b, progress)
        return Difference(str(a), str(b), [], first.samples.changes(manifest.samples), manifest.ignored)
    second = FeatureCache.open(b)
    return Difference(str(a), str(b), first.spec.differences(second.spec), first.samples.changes(second.samples))


def _images(cache: FeatureCache, data: str | os.PathLike[str], progress: Progress | None) -> Manifest:
    """What data gives now, split as the cache's."""
    return read_manifest(data, **{**cache.split_options, "allow_leak": True}, progress=progress)


def _counts(changes: dict[str, list[str]]) -> str:
    return ", ".join(f"{len(names)} {kind}" for kind, names in changes.items()) or "as they were"
