"""`CacheWriter`: write a cache file.

Rows go to NAME.h5.partial: first the features, then their checksum, then the number of views that are present. If the
writer is killed, each row is either complete or does not count. Rows that a power cut damaged are found by their
checksum. fsync and the rename come last.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featcache._utils.files import FULL, fsync_folder, identity, remove_stale_drafts
from featcache._utils.locks import lock_folder
from featcache._utils.progress_bar import Progress
from featcache.cache.checksums import checksums, damaged_rows
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.format import lock
from featcache.cache.format.container import ArrayLocation, write_at
from featcache.cache.format.create import create_atomically, write_cache
from featcache.cache.format.layout import EXTRACT_S, ON_DEVICE, REASON_BYTES, encode, read, size_needed
from featcache.cache.lazy_arrays import as_slice
from featcache.cache.mismatch import check_samples, check_spec
from featcache.cache.paths import partial_path
from featcache.core.samples import Samples
from featcache.core.specs import ExtractSpec
from featcache.errors import CacheBusyError, CacheIncompleteError, CacheSpaceError, NotACacheError

_EXPONENTS = {"<f2": ("<u2", 0x7C00), "<f4": ("<u4", 0x7F800000)}


class CacheWriter:
    """Writes a cache: creates NAME.h5.partial or continues it. A context manager.

    Parameters
    ----------
    path : path-like
        Name of the finished cache.
    spec : ExtractSpec
        What decides the features.
    samples : Samples
        The n samples, one for each row.
    dims : mapping of str to int
        Width d of each layer of spec.layers.
    provenance : mapping
        Device, versions, date and the like, as JSON values.
    progress : callable, optional
        Called as progress("verify", done, total) while existing rows are checked.
    fresh : bool, default False
        Never replace a file: raise CacheBusyError if another process creates one of this name meanwhile.
    optional : collection of str, default ()
        Arrays that a new file has besides, see `layout.OPTIONAL`.

    Raises
    ------
    CacheMismatchError
        The unfinished cache of this name has another spec or other samples.
    CacheBusyError
        Another process writes it.
    CacheSpaceError
        There is too little space on the disk.
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
        optional: Collection[str] = (),
    ) -> None:
        self.path, self._partial = Path(path), partial_path(path)
        self._replaced = None if fresh else identity(self.path)
        remove_stale_drafts(self._partial)
        if not self._partial.exists():
            needed = size_needed(spec, samples, dims)
            create_atomically(
                self._partial,
                needed,
                lambda draft: write_cache(draft, spec, samples, dims, provenance, optional),
            )
        try:
            self._layout = layout = read(self._partial)
            self._file = self._partial.open("r+b", buffering=0)
        except (FileNotFoundError, NotACacheError) as error:
            if self._partial.exists():
                raise
            raise lock.finished_error(self._partial) from error
        try:
            lock.acquire(self._partial, self._file, layout.owner_offset)
        except BaseException:
            self._file.close()
            raise
        try:
            check_spec(self._partial, layout.spec, spec)
            check_samples(self._partial, layout.samples, samples)
            self._done: NDArray[np.uint16] = np.array(layout.done.view(layout.data))
            present = np.flatnonzero(self._done)
            if identity(self.path) != self._replaced:
                if not len(present):
                    self._partial.unlink()
                raise lock.finished_error(self.path)
            report = (lambda done: progress("verify", done, len(present))) if progress else None
            self._mark_missing(damaged_rows(layout, present, report))
            # After a kill during `finish`: samples that could not be read then may be readable now.
            self._mark_missing(np.flatnonzero(layout.skipped.view(layout.data) != b""))
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._file.closed:
            lock.release(self._partial, self._file, self._layout.owner_offset)
            self._file.close()

    @property
    def spec(self) -> ExtractSpec:
        """What decides the features."""
        return self._layout.spec

    @property
    def expected_views(self) -> NDArray[np.uint16]:
        """Views that each row has in a finished cache, shape (n,)."""
        return self._layout.expected_views

    @property
    def done(self) -> NDArray[np.uint16]:
        """Views of each row that are present, shape (n,): views 0 to done - 1."""
        return self._done.copy()

    def pending(self) -> NDArray[np.int64]:
        """Rows that lack views, ascending, int64."""
        return np.flatnonzero(self._done < self._layout.expected_views)

    def write(
        self,
        rows: NDArray[np.int64],
        features: Mapping[str, NDArray[Any]],
        first_view: int = 0,
        on_device: NDArray[np.uint16] | None = None,
        extract_s: NDArray[np.float32] | None = None,
    ) -> dict[int, str]:
        """Store views of rows: the features, then the checksums, then the number of views present.

        Parameters
        ----------
        rows : ndarray, shape (b,), int64
            Row numbers, ascending. Each row has first_view views already.
        features : mapping of str to ndarray, shape (b, v, d)
            Views first_view, first_view + 1, ... of each layer.
        first_view : int, default 0
            Number of the first view.
        on_device : ndarray, shape (b,), uint16, optional
            Number of these views that a device made. None: the CPU made all.
        extract_s : ndarray, shape (b,), float32, optional
            Seconds that these views took. None: unknown.

        Returns
        -------
        dict of int to str
            Rows that hold infinities or NaN, with the reason. They are not stored.
        """
        layers = {}
        with np.errstate(over="ignore"):
            for name, location in self._layout.layers.items():
                layers[name] = np.ascontiguousarray(features[name], location.dtype)
        finite = np.logical_and.reduce([_are_finite(values) for values in layers.values()])
        if not finite.all():
            layers = {name: values[finite] for name, values in layers.items()}
        if finite.any():
            given = {ON_DEVICE: on_device, EXTRACT_S: extract_s}
            optional = {name: values[finite] for name, values in given.items() if values is not None}
            self._store(rows[finite], layers, first_view, optional)
        reason = f"its features are not finite in {self._layout.spec.dtype}"
        return {int(row): reason for row in rows[~finite]}

    def finish(self, skipped: Mapping[int, str]) -> FeatureCache:
        """Record the skipped rows with their reasons and give the file its name.

        Parameters
        ----------
        skipped : mapping of int to str
            Row numbers and reasons.

        Returns
        -------
        FeatureCache
            The finished cache.

        Raises
        ------
        CacheIncompleteError
            Rows are missing.
        CacheBusyError
            Another file has got the name meanwhile.
        """
        missing = [int(row) for row in self.pending() if int(row) not in skipped]
        if missing:
            raise CacheIncompleteError(
                f"{self._partial}: {len(missing)} rows are neither extracted nor skipped, "
                f"for example {self._layout.samples.ids[missing[0]]}. Run the same command again."
            )
        for row, reason in skipped.items():
            self._mark_skipped(row, reason)
        lock.release(self._partial, self._file, self._layout.owner_offset)
        self._translate_enospc(os.fsync, self._file.fileno())
        with lock_folder(self.path.parent):  # no other process renames between the check and the rename
            if identity(self.path) != self._replaced:
                raise CacheBusyError(
                    f"another process has put another file at {self.path} meanwhile. It is unchanged, and this work is "
                    f"in {self._partial}. Move {self.path.name} away, then run the same command again."
                )
            os.replace(self._partial, self.path)
            self._file.close()
            fsync_folder(self.path.parent)
            return FeatureCache.open(self.path)

    def _store(
        self,
        rows: NDArray[np.int64],
        layers: dict[str, NDArray[Any]],
        first_view: int,
        optional: Mapping[str, NDArray[Any]],
    ) -> None:
        """Write complete rows. `done` comes last: until then a row does not count."""
        views = next(iter(layers.values())).shape[1]
        complete = {}
        for name, values in layers.items():
            location = self._layout.layers[name]
            if values.shape[1:] == location.shape[1:]:
                complete[name] = values
                continue
            complete[name] = np.zeros((len(rows), *location.shape[1:]), location.dtype)
            if first_view:
                complete[name][:, :first_view] = location.view(self._layout.data)[rows, :first_view]
            complete[name][:, first_view : first_view + views] = values
        done = np.full(len(rows), first_view + views, np.uint16)
        crc32 = checksums(complete, done, np.zeros(len(rows), f"S{REASON_BYTES}"))
        runs = _runs(rows)
        for name, values in complete.items():
            self._write_rows(self._layout.layers[name], runs, values)
        self._write_rows(self._layout.crc32, runs, crc32)
        for name, array in ((ON_DEVICE, self._layout.on_device), (EXTRACT_S, self._layout.extract_s)):
            if array:
                before = array.view(self._layout.data)[rows] if first_view else np.zeros(len(rows), array.dtype)
                self._write_rows(array, runs, before + optional.get(name, 0))
        self._set_done(rows, runs, first_view + views)

    def _mark_skipped(self, row: int, reason: str) -> None:
        nan = {
            name: np.full((1, *location.shape[1:]), np.nan, location.dtype)
            for name, location in self._layout.layers.items()
        }
        text = np.array([_shorten(reason)], dtype=f"S{REASON_BYTES}")
        runs = [(row, row + 1)]
        self._set_done(np.array([row]), runs, 0)
        for name, values in nan.items():
            self._write_rows(self._layout.layers[name], runs, values)
        self._write_rows(self._layout.crc32, runs, checksums(nan, np.zeros(1, np.uint16), text))
        self._write_rows(self._layout.skipped, runs, text)

    def _mark_missing(self, rows: NDArray[np.int64]) -> None:
        """Record that rows have no views."""
        runs = _runs(rows)
        self._set_done(rows, runs, 0)
        self._write_rows(self._layout.skipped, runs, np.zeros(len(rows), f"S{REASON_BYTES}"))

    def _set_done(self, rows: NDArray[np.int64], runs: Sequence[tuple[int, int]], views: int) -> None:
        self._write_rows(self._layout.done, runs, np.full(len(rows), views, np.uint16))
        self._done[rows] = views

    def _write_rows(self, location: ArrayLocation, runs: Sequence[tuple[int, int]], values: NDArray[Any]) -> None:
        """Write values, shape (b, ...), of ascending rows, given as ranges."""
        rest = np.ascontiguousarray(values, location.dtype).reshape(-1).view(np.uint8).data
        for start, stop in runs:
            size = (stop - start) * location.stride
            self._translate_enospc(write_at, self._file, location.offset + start * location.stride, rest[:size])
            rest = rest[size:]

    def _translate_enospc(self, call: Any, *arguments: Any) -> None:
        """Call a function; a full disk becomes CacheSpaceError."""
        try:
            call(*arguments)
        except OSError as error:
            if error.errno not in FULL:
                raise
            present = np.count_nonzero(self._done == self._layout.expected_views)
            raise CacheSpaceError(
                f"{self._partial} cannot be written: {error.strerror}. {present} of {len(self._done)} rows are there. "
                "Free some space, then run the same command again: it resumes."
            ) from error


def _shorten(reason: str) -> bytes:
    """A reason cut to `REASON_BYTES`, between characters."""
    text = encode(reason)
    return text if len(text) <= REASON_BYTES else text[:REASON_BYTES].decode("utf-8", "ignore").encode()


def _runs(rows: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Ascending rows as ranges [start, stop) of consecutive numbers."""
    if not len(rows):
        return []
    consecutive = as_slice(rows)
    if isinstance(consecutive, slice):  # nearly always
        return [(consecutive.start, consecutive.stop)]
    last = np.flatnonzero(rows[1:] - rows[:-1] != 1)
    return list(zip(rows[[0, *(last + 1)]].tolist(), (rows[[*last, -1]] + 1).tolist(), strict=True))


def _are_finite(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows, shape (b, ...), hold no infinity and no NaN, whose exponents are all ones.

    It takes a quarter of the time of np.isfinite.
    """
    bits, exponent = _EXPONENTS[values.dtype.str]
    return np.asarray((values.view(bits) & exponent).max((1, 2)) != exponent)
