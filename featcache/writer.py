"""`CacheWriter`: a cache file in the making.

The number of samples is known before the first one is extracted, so the feature datasets are allocated whole at
creation (contiguous, early, unfilled) and rows land by index. A write then touches no metadata, a killed writer
leaves a file that opens, and finished features can be memory-mapped. Work goes to NAME.h5.partial: rows first,
then /done, each flushed; `complete`, fsync and the rename come last.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from featcache.cache import FORMAT, VERSION, FeatureCache, encode, open_file, partial_path
from featcache.errors import CacheIncompleteError
from featcache.samples import SPLITS, Samples
from featcache.spec import ExtractSpec

_TEXT = h5py.string_dtype("utf-8")
_SPLIT_DTYPE = h5py.enum_dtype({name: code for code, name in enumerate(SPLITS)}, basetype="u1")


class CacheWriter:
    """A cache in the making: creates NAME.h5.partial or goes on with it. A context manager.

    Parameters
    ----------
    path : where the finished cache shall lie.
    dims : width d of each layer of spec.layers.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        spec: ExtractSpec,
        samples: Samples,
        dims: Mapping[str, int],
        provenance: Mapping[str, Any],
    ) -> None:
        self.path = Path(path)
        self._partial = partial_path(path)
        if self._partial.exists():
            FeatureCache.open(self._partial, partial=True).check_matches(spec, samples)
        else:
            _create(self._partial, spec, samples, dims, provenance)
        self._samples = samples
        self._file = open_file(self._partial, "r+")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def pending(self) -> NDArray[np.int64]:
        """Rows that are not extracted yet, ascending, int64."""
        return np.flatnonzero(self._file["done"][:] == 0)

    def write(self, rows: NDArray[np.int64], features: Mapping[str, NDArray[Any]]) -> None:
        """Store whole rows: the features first, then the mark that they are there.

        Parameters
        ----------
        rows : shape (b,), int64, ascending.
        features : for each layer an ndarray of shape (b, v, d), v <= 1 + K.
        """
        for start, stop in _runs(rows):
            first, last = int(rows[start]), int(rows[stop - 1]) + 1
            for layer, values in features.items():
                self._file["features"][layer][first:last, : values.shape[1]] = values[start:stop]
        self._file.flush()
        for start, stop in _runs(rows):
            views = next(iter(features.values())).shape[1]
            self._file["done"][int(rows[start]) : int(rows[stop - 1]) + 1] = views
        self._file.flush()

    def finish(self, skipped: Mapping[int, str]) -> FeatureCache:
        """Record the skipped rows with their reasons, mark the file complete and move it into place."""
        missing = [int(row) for row in self.pending() if int(row) not in skipped]
        if missing:
            raise CacheIncompleteError(
                f"{self._partial}: {len(missing)} rows are neither extracted nor skipped, "
                f"for example {self._samples.ids[missing[0]]}. Run the same command again."
            )
        for layer in self._file["features"].values():
            for row in skipped:
                layer[row] = np.nan
        table = self._file["skipped"]
        table.resize((len(skipped), 2))
        for place, (row, reason) in enumerate(sorted(skipped.items())):
            table[place] = [encode(self._samples.ids[row]), encode(reason)]
        self._file.attrs["complete"] = True
        self._file.close()
        _fsync(self._partial)
        os.replace(self._partial, self.path)
        _fsync(self.path.parent)
        return FeatureCache.open(self.path)


def _create(
    path: Path,
    spec: ExtractSpec,
    samples: Samples,
    dims: Mapping[str, int],
    provenance: Mapping[str, Any],
) -> None:
    """Write the whole skeleton under a name of its own, then give it its name: half a skeleton never shows."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    n = len(samples)
    try:
        with h5py.File(draft, "w") as file:
            for layer in spec.layers:
                shape = (n, 1 + spec.views, dims[layer])
                _allocate(file.require_group("features"), layer, shape, np.dtype(spec.dtype))
            _allocate(file, "done", (n,), np.dtype(np.uint16), fill=True)
            file.create_dataset("labels", data=samples.labels)
            file.create_dataset("split", data=samples.split, dtype=_SPLIT_DTYPE)
            file.create_dataset("sha256", data=samples.sha256)
            file.create_dataset("ids", data=[encode(name) for name in samples.ids], dtype=_TEXT)
            file.create_dataset("classes", data=[encode(name) for name in samples.classes], dtype=_TEXT)
            file.create_dataset("skipped", shape=(0, 2), maxshape=(None, 2), dtype=_TEXT)
            file.attrs.update(
                format=FORMAT,
                version=VERSION,
                spec=spec.to_json(),
                digest=spec.digest(),
                provenance=json.dumps(dict(provenance)),
                complete=False,
            )
        _fsync(draft)
        try:
            os.link(draft, path)
        except FileExistsError:  # another process was first; opening its file says so
            pass
        except OSError:  # a file system without hard links
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _allocate(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], fill: bool = False) -> None:
    """A contiguous dataset whose bytes have their place in the file from the start."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.CONTIGUOUS)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_ALLOC if fill else h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(group.id, name.encode(), h5py.h5t.py_create(dtype), space, plist)


def _runs(rows: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Ascending rows as slices [start, stop) of consecutive numbers."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    edges: Sequence[int] = [0, *breaks.tolist(), len(rows)]
    return list(pairwise(edges)) if len(rows) else []


def _fsync(path: Path) -> None:
    """Ask the system to put a file, or a folder's names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
