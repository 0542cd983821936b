"""`FeatureCache`: a cache file, read."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache._utils import remote
from featcache._utils.formatting import human_bytes, printable
from featcache._utils.notebook import NotebookResult
from featcache.cache.checksums import damaged_rows
from featcache.cache.features import Features
from featcache.cache.format import layout, lock
from featcache.cache.from_arrays import write_arrays
from featcache.cache.lazy_arrays import ConcatenatedFeatures, LazyRows, as_slice
from featcache.core.data_summary import DataSummary, summarize
from featcache.core.layer_names import choose_layers
from featcache.core.samples import SPLITS, UNLABELLED, Samples, count_images
from featcache.core.specs import PENULTIMATE, ExtractSpec, is_arrays, no_network
from featcache.data.input_notes import SHOWN, list_inputs, write_list
from featcache.data.manifest import manifest_keywords
from featcache.errors import (
    CacheDamagedError,
    CacheError,
    CacheIncompleteError,
    CacheMismatchError,
    NotACacheError,
    SpecError,
)


def partial_path(path: str | os.PathLike[str]) -> Path:
    """Where a cache lies while it is being made."""
    return Path(f"{os.fspath(path)}.partial")


class FeatureCache(NotebookResult):
    """A finished cache, read.

    Attributes
    ----------
    path : Path
    layout : Layout. Where what lies in the file.
    spec : ExtractSpec. What decided the features.
    samples : Samples. One row each.
    done : ndarray, shape (n,), uint16. How many leading views of a row are there; 0 for a skipped sample.
    skipped : pairs (id, reason) of the samples that could not be read.
    complete : whether every row is there or skipped. finished : whether it has its final name.
    problem : what contradicts itself in the marks of what is there; empty in a sound cache.
    provenance : dict. Device, versions, host, date, where the weights came from.
    dims : dict. Width d of each layer.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.layout = layout.read(path)
        self.spec, self.samples, self.provenance = self.layout.spec, self.layout.samples, self.layout.provenance
        self.dims = self.layout.dims
        self.done: NDArray[np.uint16] = np.array(self.layout.done.of(self.layout.data))
        reasons = self.layout.skipped.of(self.layout.data)
        told = np.flatnonzero(reasons != b"")
        self.problem = ""
        if np.any(self.done > self.layout.wanted):
            self.problem = "it has more views than there can be"
        elif np.any(self.done[told]):
            self.problem = "rows are there and skipped at once"
        self.skipped = [(self.samples.ids[row], layout.decode(bytes(reasons[row]))) for row in told]
        self.complete = int(np.count_nonzero(self.done == self.layout.wanted)) + len(told) == len(self.samples)
        self.finished = path.suffix != ".partial"
        if self.finished and not self.problem:
            if not self.complete:
                self.problem = "rows are missing"
            elif self.layout.owner:
                self.problem = "its header names a writer"

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, partial: bool = False, damaged: bool = False) -> FeatureCache:
        """Open a cache for reading; one at a URL is copied into the user's cache folder first.

        What is read stays that of this file, whatever gets its name later.

        Parameters
        ----------
        partial : also take an unfinished file, by its own name (NAME.h5.partial) or that of the cache to be, and
            one that is being written.
        damaged : also take one whose marks of what is there contradict each other; checksums tell which rows.

        Raises
        ------
        NotACacheError, CacheVersionError, CacheIncompleteError, CacheBusyError, CacheDamagedError
        """
        if remote.is_url(path):
            return cls._open_remote(os.fspath(path))
        path = Path(path)
        unfinished = partial_path(path)
        if not path.exists() and not unfinished.exists():
            raise NotACacheError(f"{path} does not exist. Make it with `featcache extract DATA -o {path}`.")
        if path.is_dir():
            raise NotACacheError(
                f"{path} is a folder, not a feature cache. A folder of images becomes one with "
                f"`featcache extract {shlex.quote(str(path))} -o cache.h5`."
            )
        try:
            cache = cls(path if path.exists() else unfinished)
        except (FileNotFoundError, NotACacheError):
            if unfinished.exists() or not path.exists():
                raise
            cache = cls(path)  # it was finished meanwhile
        if not partial and not cache.finished:
            if lock.is_held(cache.path):
                raise lock.busy_error(cache.path, cache.layout.owner_offset)
            raise CacheIncompleteError(
                f"{path} is not finished: {np.count_nonzero(cache.done)} of {len(cache.samples)} rows are in "
                f"{cache.path}. Run the command that makes it again; it goes on where it stopped."
            )
        if cache.finished and cache.problem and not (partial or damaged):
            raise CacheDamagedError(
                f"{path} is damaged: {cache.problem}. Mend it with `featcache verify {path} --repair DATA`."
            )
        return cache

    @classmethod
    def from_arrays(
        cls,
        x: ArrayLike,
        y: ArrayLike | Sequence[Any],
        out: str | os.PathLike[str] | None = None,
        *,
        classes: Sequence[str] | None = None,
        split: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        groups: Sequence[Any] | None = None,
        name: str = "",
        val_fraction: float = 0.2,
        seed: int = 0,
        overwrite: bool = False,
    ) -> FeatureCache:
        """Make a cache of your own features (CLIP, DINO, text, tables) for every head, comparison, curve and `doctor`.

        What needs images or the network that made the features is refused.

        Parameters
        ----------
        x : array-like, shape (n, d) or (n, v, d). Finite numbers; of v views the first is the clean one. float16 is
            stored as it is, all else as float32. PyTorch tensors are taken, too.
        y : array-like, shape (n,). Class names, or integers that index `classes`; -1, None, NaN and "" stand for no
            label. Of samples with several labels shape (n, c), 0 or 1.
        out : path of the cache file; None keeps a temporary one as long as this object lives.
        classes : names of the classes that integers in y, or the columns of y, stand for; None takes the numbers.
        split : "train", "val" or "test" of each sample; None holds out a stratified `val_fraction` as val.
        ids : a name of each sample; None numbers them.
        groups : of each sample what it has in common with others (a patient, a document); splits and folds keep
            groups together. None or "" for a sample without.
        name : what the features are, for reports.
        val_fraction : float, default 0.2. Share that is held out where split has no val.
        seed : int, default 0. Of that split.
        overwrite : bool, default False. Whether a file at `out` is replaced.

        Returns
        -------
        FeatureCache : rows of train first, then val, test, and those without a label.

        Raises
        ------
        DataLayoutError : shapes, labels or splits that do not fit. CacheError : `out` exists.

        Examples
        --------
        >>> import numpy as np
        >>> from featcache import FeatureCache, fit_head
        >>> rng = np.random.default_rng(0)
        >>> y = np.array(["cat", "dog"] * 50)
        >>> x = rng.normal(size=(100, 8)) + 3 * (y == "dog")[:, None]
        >>> cache = FeatureCache.from_arrays(x, y, name="my encoder")
        >>> fit_head(cache).accuracy.accuracy
        1.0
        """
        given = {"classes": classes, "split": split, "ids": ids, "groups": groups, "name": name}
        settings: dict[str, Any] = {**given, "val_fraction": val_fraction, "seed": seed, "overwrite": overwrite}
        if out is not None:
            path = on_disk(out)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_arrays(path, x, y, **settings)
            return cls.open(path)
        folder = tempfile.mkdtemp(prefix="featcache-")
        try:
            write_arrays(Path(folder, "arrays.h5"), x, y, **settings)
            cache = cls.open(Path(folder, "arrays.h5"))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        weakref.finalize(cache, shutil.rmtree, folder, ignore_errors=True)
        return cache

    @classmethod
    def _open_remote(cls, url: str) -> FeatureCache:
        """Open the local copy of a remote cache. A copy that does not open is downloaded again."""
        try:
            copy = remote.cached_copy(url)
            try:
                return cls.open(copy)
            except (NotACacheError, CacheDamagedError):
                copy = remote.cached_copy(url, refresh=True)
            try:
                return cls.open(copy)
            except CacheError as error:
                raise type(error)(str(error).replace(str(copy), url)) from error
        except FileNotFoundError as error:
            raise NotACacheError(
                f"{url} does not exist. Put a cache there with `featcache push CACHE {url}`."
            ) from error

    def features(
        self, split: str = "train", layer: str = PENULTIMATE, *, images: slice = slice(None), check: bool = True
    ) -> Features:
        """The features of one split, memory-mapped, after a look at their checksums; without skipped samples.

        layer : one, several joined by commas, or "all", which then lie side by side. images : some of the split's.
        check : whether to look at the checksums.

        Returns
        -------
        Features with x of shape (m, v, d): v = 1 + K, or fewer where a split was extracted with fewer views
        (val and test hold the clean view alone). x is a memory-mapped ndarray, or `LazyRows` of one where samples
        were skipped, or of several layers.

        Raises
        ------
        CacheDamagedError : a row does not have its checksum. CacheIncompleteError : there is no such layer.
        """
        names = self.layers(layer)
        rows = self.readable_rows(split)
        views = int(self.done[rows].min()) if len(rows) else 1
        rows = rows[images]
        damaged = damaged_rows(self.layout, rows) if check else rows[:0]
        if len(damaged):
            raise CacheDamagedError(
                f"{self.path} is damaged: {len(damaged)} images of {split} do not have the checksums of their "
                f"features, for example {self.samples.ids[damaged[0]]}. Extract those again with `featcache verify "
                f"{self.path} --repair DATA`."
            )
        parts = [self.layout.layers[name].of(self.layout.data)[:, :views] for name in names]
        if len(parts) > 1:
            return Features(LazyRows(ConcatenatedFeatures(tuple(parts)), rows), self.samples.take(rows))
        x, here = parts[0], as_slice(rows)
        return Features(x[here] if isinstance(here, slice) else LazyRows(x, rows), self.samples.take(rows))

    def summary(self) -> DataSummary:
        """What it was made of; images that could not be read are not counted."""
        seed = self.provenance.get("split_seed", 0) if self.provenance.get("val_is_held_out") else None
        return summarize(str(self.path), self.samples, held_out_seed=seed, readable=self.done > 0)

    def readable_rows(self, split: str) -> NDArray[np.int64]:
        """The row numbers of a split without those of images that could not be read; shape (m,), int64."""
        rows = self.samples.rows(split)
        return rows[self.done[rows] > 0]

    def layers(self, asked: str) -> tuple[str, ...]:
        """The layers that a text names, see `choose_layers`. Raises CacheIncompleteError."""
        try:
            return choose_layers(asked, tuple(self.dims))
        except SpecError as error:
            raise CacheIncompleteError(
                f"{self.path} has no layer {asked!r}; it has {', '.join(self.dims)}. "
                f"Extract again to another file with --layers {asked}."
            ) from error

    def require_images(self, what: str) -> None:
        """Raise CacheMismatchError where the cache was made from arrays, which `what` has no use for."""
        if is_arrays(self.spec.backbone):
            raise CacheMismatchError(f"{what} is not possible: {no_network(self.spec.backbone)}.")

    @property
    def split_options(self) -> dict[str, Any]:
        """How its images were split: arguments of `read_manifest`."""
        return manifest_keywords(self.provenance)

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size

    def to_dict(self) -> dict[str, Any]:
        """What the cache holds, as JSON values."""
        samples = self.samples
        rows_of = {split: samples.rows(split) for split in SPLITS}
        if not len(rows_of[UNLABELLED]):
            del rows_of[UNLABELLED]
        counts = {
            split: {
                name: int(count)
                for name, count in zip(
                    samples.classes, count_images(samples.labels[rows], len(samples.classes)), strict=True
                )
            }
            for split, rows in rows_of.items()
            if split != UNLABELLED
        }
        return {
            "cache": str(self.path),
            "complete": self.complete,
            "images": len(samples),
            "extracted": int(np.count_nonzero(self.done)),
            "classes": list(samples.classes),
            "multilabel": samples.multilabel,
            "images_by_split": {split: len(rows) for split, rows in rows_of.items()},
            "images_by_class": counts,
            "layers": self.dims,
            "views": self.spec.views,
            "size_bytes": self.size_bytes,
            "digest": self.spec.digest(),
            "spec": self.spec.flat(),
            "provenance": self.provenance,
            "skipped": [{"path": name, "reason": reason} for name, reason in self.skipped],
        }

    def write_list(self, path: str | os.PathLike[str]) -> None:
        """All skipped images as CSV: kind, image, other, reason; whole or not at all."""
        write_list(path, list_inputs([], self.skipped, {}))

    def __str__(self) -> str:
        """What the cache holds, for people."""
        samples, spec = self.samples, self.spec.flat()
        state = "complete" if self.complete else f"NOT FINISHED, {np.count_nonzero(self.done)} rows are there"
        state = f"DAMAGED: {self.problem}" if self.problem else state
        splits = ", ".join(f"{len(rows)} {split}" for split in SPLITS if len(rows := samples.rows(split)))
        names = ", ".join(map(printable, samples.classes[:8])) + (", ..." if len(samples.classes) > 8 else "")
        layers = ", ".join(f"{layer} (width {dim})" for layer, dim in self.dims.items())
        lines = [
            f"{self.path}: feature cache, format {layout.CACHE.version}, {human_bytes(self.size_bytes)}, {state}",
            f"images      {len(samples)} ({splits}), {len(self.skipped)} skipped",
            f"classes     {len(samples.classes)} ({names}){', several an image' if samples.multilabel else ''}",
            f"views       1 clean + {self.spec.views} augmented of each training image",
            f"layers      {layers}",
            f"digest      {self.spec.digest()}",
        ]
        if samples.groups:
            lines.insert(3, f"groups      {samples.n_groups}, each kept in one split and one fold")
        hidden = {"views", "layers"} | ({*spec} - {"backbone", "dtype"} if is_arrays(self.spec.backbone) else set())
        lines += [f"  {name:15} {printable(_brief(value))}" for name, value in spec.items() if name not in hidden]
        lines += [
            f"made by     {printable(name)}: {printable(_brief(value))}" for name, value in self.provenance.items()
        ]
        lines += [f"skipped     {printable(name)}: {printable(reason)}" for name, reason in self.skipped[:SHOWN]]
        if len(self.skipped) > SHOWN:
            lines.append(f"            and {len(self.skipped) - SHOWN} more: --list FILE.csv names them all")
        return "\n".join(lines)

    def check_matches(self, spec: ExtractSpec, samples: Samples, data: str = "DATA") -> None:
        """Raise CacheMismatchError unless the cache was made with this spec from these samples.

        data : what the message calls the images.
        """
        check_spec(self.path, self.spec, spec, data)
        check_samples(self.path, self.samples, samples, data)


def on_disk(path: str | os.PathLike[str]) -> Path:
    """Where a cache is to be written: a link stays one, what it leads to is written. Raises CacheError for a URL."""
    if remote.is_url(path):
        raise CacheError(
            f"{os.fspath(path)}: a cache is written on a disk. Give a file; `featcache push` copies it to a URL, and "
            "`featcache pull` from one."
        )
    return Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)


def check_spec(path: Path, found: ExtractSpec, asked: ExtractSpec, data: str = "DATA") -> None:
    """Raise CacheMismatchError naming each differing field, both values and the way out."""
    fields = [f"{name}={_brief(here)}, you asked for {_brief(there)}" for name, here, there in found.differences(asked)]
    if not fields:
        return
    cure = "Extract again to another file, or ask for what the cache has."
    if path.suffix == ".partial":
        cure = f"It is unfinished: go on with its settings, give another file, or remove {path.name}."
    if path.suffix != ".partial" and replace(found, views=asked.views) == asked:
        command = f"`featcache update {shlex.quote(str(path))} {shlex.quote(data)} --views {asked.views}`"
        cure = f"Extract the missing views with {command}."
        if asked.views < found.views:
            cure = f"The cache has these views and more: use it as it is, or drop the others with {command}."
    raise CacheMismatchError(f"{path} was made with {'; '.join(fields)}. {cure}")


def check_samples(path: Path, found: Samples, asked: Samples, data: str = "DATA") -> None:
    """Raise CacheMismatchError saying how the images differ from those of the cache."""
    changes = found.differences(asked)
    if changes:
        raise CacheMismatchError(
            f"{path} was made from other images: {'; '.join(changes)}. Extract again to another file, "
            + (
                f"or remove {path.name}."
                if path.suffix == ".partial"
                else f"or bring it up to date with `featcache update {shlex.quote(str(path))} {shlex.quote(data)}`."
            )
        )


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{text[:12]}..." if len(text) == 64 else text
