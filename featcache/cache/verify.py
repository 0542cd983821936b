"""`verify` and `diff`: check the rows of a cache, and compare it with its images or with another cache."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featcache._utils.formatting import printable
from featcache._utils.progress_bar import Progress, ProgressOption, as_callback
from featcache._utils.results import NotebookResult, Result
from featcache.cache.checksums import damaged_rows
from featcache.cache.feature_cache import FeatureCache
from featcache.data.input_notes import first_few, input_notes, list_inputs, name_changes, write_list
from featcache.data.manifest import Manifest, read_manifest
from featcache.data.sources.registry import names_samples


@dataclass(frozen=True, repr=False)
class Verification(Result, NotebookResult):
    """Result of `verify`.

    Attributes
    ----------
    path : Path
        The cache.
    rows : int
        Rows read.
    damaged : list of str
        Ids of the rows that do not match their checksum.
    problem : str
        A contradiction in the records of the rows present, or empty.
    changes : dict of str to list of str, optional
        How the images differ, see `Samples.changes`. None if images were not compared.
    ignored : dict of str to int
        Files and folders of the images that were not used, by reason.
    """

    path: Path
    rows: int
    damaged: list[str]
    problem: str
    changes: dict[str, list[str]] | None
    ignored: dict[str, int] = field(default_factory=dict)

    def write_list(self, path: str | os.PathLike[str]) -> None:
        """Write all damaged and changed images to a CSV file: kind, image, other, reason."""
        damaged = {"damaged": self.damaged} if self.damaged else {}
        write_list(path, list_inputs([], [], {**damaged, **(self.changes or {})}))

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged and no image differs."""
        return not self.damaged and not self.problem and not self.changes

    def __str__(self) -> str:
        """For people."""
        lines = first_few([f"damaged {printable(name)}" for name in self.damaged], "damaged samples")
        lines += name_changes(self.changes or {})
        state = f"{len(self.damaged)} damaged" if self.damaged else "every row has its checksum"
        images = "" if self.changes is None else f"; samples: {_counts(self.changes)}"
        lines.append(f"{self.path}: {self.rows} rows read, {state}{images}")
        lines += input_notes(self.ignored, [], [])
        if self.problem:
            lines.append(f"damaged: {self.problem}")
        if self.damaged or self.problem:
            lines.append(f"Extract the damaged rows again with `featcache verify {self.path} --repair DATA`.")
        return "\n".join(lines)

    def _json_fields(self) -> dict[str, Any]:
        fields = super()._json_fields()
        return {"cache": fields.pop("path"), "ok": self.ok, **fields}


@dataclass(frozen=True, repr=False)
class Difference(Result, NotebookResult):
    """What `diff` found: fields of the spec as (name, value in a, value in b), and changes from a's samples to b's.

    ignored : files and folders of b that were passed over, by reason.
    """

    a: str
    b: str
    spec: list[tuple[str, Any, Any]]
    changes: dict[str, list[str]]
    ignored: dict[str, int] = field(default_factory=dict)

    def write_list(self, path: str | os.PathLike[str]) -> None:
        """Write all images that differ to a CSV file: kind, image, other, reason."""
        write_list(path, list_inputs([], [], self.changes))

    @property
    def same(self) -> bool:
        """Whether there is no difference."""
        return not self.spec and not self.changes

    def __str__(self) -> str:
        """For people."""
        lines = [f"{name}: {a} in {self.a}, {b} in {self.b}" for name, a, b in self.spec]
        lines += name_changes(self.changes)
        lines = lines or [f"{self.a} and {self.b} hold the same"]
        return "\n".join([*lines, *input_notes(self.ignored, [], [])])

    def _json_fields(self) -> dict[str, Any]:
        return {
            "a": self.a,
            "b": self.b,
            "same": self.same,
            "spec": {name: (a, b) for name, a, b in self.spec},
            "changes": self.changes,
            "ignored": self.ignored,
        }


def verify(
    path: str | os.PathLike[str], images: str | os.PathLike[str] | None = None, *, progress: ProgressOption = None
) -> Verification:
    """Read every row of a cache and compare it with its checksum. The tables are checked on opening.

    Parameters
    ----------
    path : path-like or str
        The cache, a file or a URL.
    images : path-like or str, optional
        The data that the cache was made from, to compare it with the cache by content.
    progress : callable or bool, optional
        Called as progress(what, done, total); True shows a progress bar.

    Returns
    -------
    Verification

    Raises
    ------
    CacheError
        The cache cannot be opened.
    ImageError
        The images cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from featcache import FeatureCache, verify
    >>> path = f"{tempfile.mkdtemp()}/cache.h5"
    >>> _ = FeatureCache.from_arrays([[float(i)] for i in range(16)], ["cat", "dog"] * 8, path)
    >>> verify(path).ok
    True
    """
    progress = as_callback(progress)
    cache = FeatureCache.open(path, damaged=True)
    if images is not None:
        cache.require_images("a comparison with images")
    n = len(cache.samples)
    report = (lambda done: progress("verify", done, n)) if progress else None
    damaged = damaged_rows(cache.layout, np.arange(n), report)
    names = [cache.samples.ids[row] for row in damaged]
    if images is None:
        return Verification(cache.path, n, names, cache.problem, None)
    manifest = _images(cache, images, progress)
    return Verification(cache.path, n, names, cache.problem, cache.samples.changes(manifest.samples), manifest.ignored)


def diff(a: str | os.PathLike[str], b: str | os.PathLike[str], *, progress: ProgressOption = None) -> Difference:
    """Compare a cache with another cache, or with a folder or a manifest of images.

    Parameters
    ----------
    a : path-like or str
        A cache, a file or a URL.
    b : path-like or str
        Another cache; or a folder, a table or a URL of images.
    progress : callable or bool, optional
        Called as progress(what, done, total); True shows a progress bar.

    Returns
    -------
    Difference

    Raises
    ------
    CacheError
        A cache cannot be opened.
    ImageError
        The images cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from featcache import FeatureCache, diff
    >>> folder = tempfile.mkdtemp()
    >>> x = [[float(i)] for i in range(16)]
    >>> _ = FeatureCache.from_arrays(x, ["cat", "dog"] * 8, f"{folder}/a.h5", name="a")
    >>> _ = FeatureCache.from_arrays(x, ["cat", "dog"] * 8, f"{folder}/b.h5", name="b")
    >>> diff(f"{folder}/a.h5", f"{folder}/b.h5").spec
    [('backbone', 'arrays:a', 'arrays:b')]
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
    """The images in the data now, split like those of the cache."""
    return read_manifest(data, **{**cache.split_options, "allow_leak": True}, progress=progress)


def _counts(changes: dict[str, list[str]]) -> str:
    return ", ".join(f"{len(names)} {kind}" for kind, names in changes.items()) or "as they were"
