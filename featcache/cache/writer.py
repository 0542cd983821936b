"""`CacheWriter`: a cache file in the making.

Work goes to NAME.h5.partial: features first, then their checksum, then the mark that they are there, each at its
place in the file. A killed writer leaves whole rows and rows that do not count; what a power cut took back is found
by its checksum. fsync and the rename come last.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featcache._utils.files import FULL, fsync_folder, identity, remove_stale_drafts
from featcache._utils.locks import lock_folder
from featcache._utils.progress_bar import Progress
from featcache.cache.checksums import checksums, damaged_rows
from featcache.cache.feature_cache import FeatureCache, check_samples, check_spec, partial_path
from featcache.cache.format import lock
from featcache.cache.format.container import ArrayLocation, write_at
from featcache.cache.format.create import create_atomically, write_cache
from featcache.cache.format.layout import REASON_BYTES, encode, read, size_needed
from featcache.cache.lazy_arrays import as_slice
from featcache.core.samples import Samples
from featcache.core.specs import ExtractSpec
from featcache.errors import CacheBusyError, CacheIncompleteError, CacheSpaceError, NotACacheError

_EXPONENTS = {"<f2": ("<u2", 0x7C00), "<f4": ("<u4", 0x7F800000)}


class CacheWriter:
    """A cache in the making: creates NAME.h5.partial or goes on with it. A context manager.

    Parameters
    ----------
    path : where the finished cache shall lie.
    dims : width d of each layer of spec.layers. progress : of the look at what is there already.
    fresh : whether no file is replaced: one that another process has put there meanwhile is a CacheBusyError.

    Raises
    ------
    CacheMismatchError, CacheBusyError, CacheSpaceError
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        spec: ExtractSpec,
        samples: Samples,
        dims: Mapping[str, int],
        provenance: Mapping[str, Any],
        progress: Progress | None = None,
        fresh: bool = False,
    ) -> None:
        self.path, self._at = Path(path), partial_path(path)
        self._before = None if fresh else identity(self.path)
        remove_stale_drafts(self._at)
        if not self._at.exists():
            needed = size_needed(spec, samples, dims)
            create_atomically(self._at, needed, lambda draft: write_cache(draft, spec, samples, dims, provenance))
        try:
            self._layout = layout = read(self._at)
            self._file = self._at.open("r+b", buffering=0)
        except (FileNotFoundError, NotACacheError) as error:
            if self._at.exists():
                raise
            raise lock.finished_error(self._at) from error
        try:
            lock.acquire(self._at, self._file, layout.owner_offset)
        except BaseException:
            self._file.close()
            raise
        try:
            check_spec(self._at, layout.spec, spec)
            check_samples(self._at, layout.samples, samples)
            self._done: NDArray[np.uint16] = np.array(layout.done.of(layout.data))
            there = np.flatnonzero(self._done)
            if identity(self.path) != self._before:
                if not len(there):
                    self._at.unlink()
                raise lock.finished_error(self.path)
            tick = (lambda done: progress("verify", done, len(there))) if progress else None
            self._forget(damaged_rows(layout, there, tick))
            # A run that was killed while it finished: what could not be read then may be mended now.
            self._forget(np.flatnonzero(layout.skipped.of(layout.data) != b""))
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._file.closed:
            lock.release(self._at, self._file, self._layout.owner_offset)
            self._file.close()

    @property
    def spec(self) -> ExtractSpec:
        """What decides the features."""
        return self._layout.spec

    @property
    def wanted(self) -> NDArray[np.uint16]:
        """How many views each row shall have, shape (n,)."""
        return self._layout.wanted

    @property
    def done(self) -> NDArray[np.uint16]:
        """How many leading views of each row are there, shape (n,)."""
        return self._done.copy()

    def pending(self) -> NDArray[np.int64]:
        """Rows that lack views, ascending, int64."""
        return np.flatnonzero(self._done < self._layout.wanted)

    def write(
        self, rows: NDArray[np.int64], features: Mapping[str, NDArray[Any]], first_view: int = 0
    ) -> dict[int, str]:
        """Store views of some rows: the features, then the checksums, then the marks that they are there.

        Parameters
        ----------
        rows : shape (b,), int64, ascending; each with first_view views there.
        features : for each layer an ndarray of shape (b, v, d): views first_view, first_view + 1, ...

        Returns
        -------
        refused : row -> reason of those that hold infinities or NaN, which are not stored.
        """
        layers = {}
        with np.errstate(over="ignore"):
            for name, region in self._layout.layers.items():
                layers[name] = np.ascontiguousarray(features[name], region.dtype)
        finite = np.logical_and.reduce([_are_finite(values) for values in layers.values()])
        if not finite.all():
            layers = {name: values[finite] for name, values in layers.items()}
        good = rows[finite]
        if len(good):
            self._store(good, layers, first_view)
        reason = f"its features are not finite in {self._layout.spec.dtype}"
        return {int(row): reason for row in rows[~finite]}

    def finish(self, skipped: Mapping[int, str]) -> FeatureCache:
        """Record the skipped rows with their reasons and move the file into place. Raises CacheBusyError."""
        missing = [int(row) for row in self.pending() if int(row) not in skipped]
        if missing:
            raise CacheIncompleteError(
                f"{self._at}: {len(missing)} rows are neither extracted nor skipped, "
                f"for example {self._layout.samples.ids[missing[0]]}. Run the same command again."
            )
        for row, reason in skipped.items():
            self._skip(row, reason)
        lock.release(self._at, self._file, self._layout.owner_offset)
        self._guarded(os.fsync, self._file.fileno())
        with lock_folder(self.path.parent):  # nothing comes between the look and the rename
            if identity(self.path) != self._before:
                raise CacheBusyError(
                    f"another process has put another file at {self.path} meanwhile. It is unchanged, and this work is "
                    f"in {self._at}. Move {self.path.name} away, then run the same command again."
                )
            os.replace(self._at, self.path)
            self._file.close()
            fsync_folder(self.path.parent)
            return FeatureCache.open(self.path)

    def _store(self, rows: NDArray[np.int64], layers: dict[str, NDArray[Any]], first_view: int) -> None:
        """The order is the safety: until its mark is there, a row does not count."""
        views = next(iter(layers.values())).shape[1]
        whole = {}
        for name, values in layers.items():
            region = self._layout.layers[name]
            if values.shape[1:] == region.shape[1:]:
                whole[name] = values
                continue
            whole[name] = np.zeros((len(rows), *region.shape[1:]), region.dtype)
            if first_view:
                whole[name][:, :first_view] = region.of(self._layout.data)[rows, :first_view]
            whole[name][:, first_view : first_view + views] = values
        done = np.full(len(rows), first_view + views, np.uint16)
        crc32 = checksums(whole, done, np.zeros(len(rows), f"S{REASON_BYTES}"))
        runs = _runs(rows)
        for name, values in whole.items():
            self._put(self._layout.layers[name], runs, values)
        self._put(self._layout.crc32, runs, crc32)
        self._mark(rows, runs, first_view + views)

    def _skip(self, row: int, reason: str) -> None:
        nan = {
            name: np.full((1, *region.shape[1:]), np.nan, region.dtype) for name, region in self._layout.layers.items()
        }
        text = np.array([_shortened(reason)], dtype=f"S{REASON_BYTES}")
        here = [(row, row + 1)]
        self._mark(np.array([row]), here, 0)
        for name, values in nan.items():
            self._put(self._layout.layers[name], here, values)
        self._put(self._layout.crc32, here, checksums(nan, np.zeros(1, np.uint16), text))
        self._put(self._layout.skipped, here, text)

    def _forget(self, rows: NDArray[np.int64]) -> None:
        """Take rows for not extracted."""
        runs = _runs(rows)
        self._mark(rows, runs, 0)
        self._put(self._layout.skipped, runs, np.zeros(len(rows), f"S{REASON_BYTES}"))

    def _mark(self, rows: NDArray[np.int64], runs: Sequence[tuple[int, int]], views: int) -> None:
        self._put(self._layout.done, runs, np.full(len(rows), views, np.uint16))
        self._done[rows] = views

    def _put(self, region: ArrayLocation, runs: Sequence[tuple[int, int]], values: NDArray[Any]) -> None:
        """Values (b, ...) to the places of ascending rows."""
        rest = np.ascontiguousarray(values, region.dtype).reshape(-1).view(np.uint8).data
        for start, stop in runs:
            size = (stop - start) * region.stride
            self._guarded(write_at, self._file, region.offset + start * region.stride, rest[:size])
            rest = rest[size:]

    def _guarded(self, call: Any, *arguments: Any) -> None:
        try:
            call(*arguments)
        except OSError as error:
            if error.errno not in FULL:
                raise
            there = np.count_nonzero(self._done == self._layout.wanted)
            raise CacheSpaceError(
                f"{self._at} cannot be written: {error.strerror}. {there} of {len(self._done)} rows are there. "
                "Make room, then run the same command again: it goes on where it stopped."
            ) from error


def _shortened(reason: str) -> bytes:
    """A reason that fits its place, cut between characters."""
    text = encode(reason)
    return text if len(text) <= REASON_BYTES else text[:REASON_BYTES].decode("utf-8", "ignore").encode()


def _runs(rows: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Ascending rows as ranges [start, stop) of consecutive numbers."""
    if not len(rows):
        return []
    here = as_slice(rows)
    if isinstance(here, slice):  # nearly always
        return [(here.start, here.stop)]
    last = np.flatnonzero(rows[1:] - rows[:-1] != 1)
    return list(zip(rows[[0, *(last + 1)]].tolist(), (rows[[*last, -1]] + 1).tolist(), strict=True))


def _are_finite(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows (b, ...) hold neither infinities nor NaN: their exponents are all ones.

    A quarter of the time of np.isfinite.
    """
    bits, exponent = _EXPONENTS[values.dtype.str]
    return np.asarray((values.view(bits) & exponent).max((1, 2)) != exponent)
