"""`FeatureCache` and `CacheWriter`: the file format. README.md specifies it; tests/test_golden.py pins it.

The number of samples is known before the first one is extracted, so the feature datasets are allocated whole at
creation (contiguous, early, unfilled) and rows land by index. A write then touches no metadata, a killed writer
leaves a file that opens, and finished features can be memory-mapped. Work goes to NAME.h5.partial: rows first,
then /done, each flushed; `complete`, fsync and the rename come last.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from featcache.errors import (
    CacheBusyError,
    CacheError,
    CacheIncompleteError,
    CacheMismatchError,
    CacheVersionError,
    NotACacheError,
)
from featcache.features import Features
from featcache.report import human_bytes
from featcache.samples import SPLITS, Samples
from featcache.spec import PENULTIMATE, ExtractSpec

FORMAT = "featcache"
VERSION = 1

_TEXT = h5py.string_dtype("utf-8")
_SPLIT_DTYPE = h5py.enum_dtype({name: code for code, name in enumerate(SPLITS)}, basetype="u1")


def partial_path(path: str | os.PathLike[str]) -> Path:
    """Where a cache lies while it is being made."""
    return Path(f"{os.fspath(path)}.partial")


class FeatureCache:
    """A finished cache, read.

    Attributes
    ----------
    path : Path
    spec : ExtractSpec. What decided the features.
    samples : Samples. One row each.
    done : ndarray, shape (n,), uint16. How many leading views of a row are there; 0 for a skipped sample.
    skipped : pairs (id, reason) of the samples that could not be read.
    provenance : dict. Device, versions, host, date, where the weights came from.
    dims : dict. Width d of each layer.
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        self.spec, self.provenance = _read_spec(path, file)
        self.samples = _read_samples(path, file)
        self.done: NDArray[np.uint16] = file["done"][:]
        self.skipped = [(_decode(row[0]), _decode(row[1])) for row in file["skipped"][:]]
        self.complete = bool(file.attrs["complete"])
        # Where each dataset's bytes lie, so that features are mapped without HDF5 in between.
        self._layout = {
            name: _layout(path, file["features"][name], len(self.samples), self.spec) for name in self.spec.layers
        }
        self.dims = {name: shape[2] for name, (_, shape, _) in self._layout.items()}

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, partial: bool = False) -> FeatureCache:
        """Open a cache for reading; nothing stays open.

        Parameters
        ----------
        partial : also take an unfinished file, by its own name (NAME.h5.partial) or that of the cache to be.

        Raises
        ------
        NotACacheError, CacheVersionError, CacheIncompleteError, CacheBusyError, FileNotFoundError
        """
        path = Path(path)
        if partial and not path.exists() and partial_path(path).exists():
            path = partial_path(path)
        if not path.exists():
            if partial_path(path).exists():
                raise CacheIncompleteError(
                    f"{path} is not finished: {partial_path(path)} is there. "
                    "Run the same `featcache extract` again; it goes on where it stopped."
                )
            raise NotACacheError(f"{path} does not exist. Make it with `featcache extract DATA -o {path}`.")
        with _opened(path, "r") as file:
            cache = cls(path, file)
        if not (cache.complete or partial):
            raise CacheIncompleteError(
                f"{path} is not finished: {np.count_nonzero(cache.done)} of {len(cache.samples)} rows are there. "
                "Run the same `featcache extract` again; it goes on where it stopped."
            )
        return cache

    def features(self, split: str = "train", layer: str = PENULTIMATE) -> Features:
        """The features of one split, memory-mapped; skipped samples are left out.

        Returns
        -------
        Features with x of shape (m, v, d): v = 1 + K, or fewer where a split was extracted with fewer views
        (val and test hold the clean view alone).
        """
        if layer not in self._layout:
            raise CacheIncompleteError(
                f"{self.path} has no layer {layer!r}; it has {', '.join(self._layout)}. "
                f"Extract again to another file with --layers {layer}."
            )
        offset, shape, dtype = self._layout[layer]
        rows = self.samples.rows(split)
        rows = rows[self.done[rows] > 0]
        views = int(self.done[rows].min()) if len(rows) else 1
        mapped = np.memmap(self.path, dtype=dtype, mode="r", offset=offset, shape=shape)
        whole = len(rows) > 0 and rows[-1] - rows[0] + 1 == len(rows)
        x = mapped[rows[0] : rows[-1] + 1, :views] if whole else mapped[rows, :views]
        return Features(x, self.samples.take(rows))

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size

    def to_dict(self) -> dict[str, Any]:
        """What the cache holds, as JSON values."""
        samples = self.samples
        counts = {
            split: {
                name: int(np.count_nonzero(samples.labels[samples.rows(split)] == label))
                for label, name in enumerate(samples.classes)
            }
            for split in SPLITS
        }
        return {
            "path": str(self.path),
            "complete": self.complete,
            "images": len(samples),
            "extracted": int(np.count_nonzero(self.done)),
            "classes": list(samples.classes),
            "images_by_split": {split: sum(found.values()) for split, found in counts.items()},
            "images_by_class": counts,
            "layers": self.dims,
            "views": self.spec.views,
            "size_bytes": self.size_bytes,
            "digest": self.spec.digest(),
            "spec": self.spec.flat(),
            "provenance": self.provenance,
            "skipped": [{"path": name, "reason": reason} for name, reason in self.skipped],
        }

    def __str__(self) -> str:
        """What the cache holds, for people."""
        samples, spec = self.samples, self.spec.flat()
        state = "complete" if self.complete else f"NOT FINISHED, {np.count_nonzero(self.done)} rows are there"
        splits = ", ".join(f"{len(rows)} {split}" for split in SPLITS if len(rows := samples.rows(split)))
        names = ", ".join(samples.classes[:8]) + (", ..." if len(samples.classes) > 8 else "")
        layers = ", ".join(f"{layer} (width {dim})" for layer, dim in self.dims.items())
        lines = [
            f"{self.path}: feature cache, format {VERSION}, {human_bytes(self.size_bytes)}, {state}",
            f"images      {len(samples)} ({splits}), {len(self.skipped)} skipped",
            f"classes     {len(samples.classes)} ({names})",
            f"views       1 clean + {self.spec.views} augmented of each training image",
            f"layers      {layers}",
            f"digest      {self.spec.digest()}",
        ]
        lines += [f"  {name:15} {_brief(value)}" for name, value in spec.items() if name not in ("views", "layers")]
        lines += [f"made by     {name}: {_brief(value)}" for name, value in self.provenance.items()]
        lines += [f"skipped     {name}: {reason}" for name, reason in self.skipped]
        return "\n".join(lines)

    def check_matches(self, spec: ExtractSpec, samples: Samples) -> None:
        """Raise CacheMismatchError unless the cache was made with this spec from these samples."""
        check_spec(self.path, self.spec, spec)
        check_samples(self.path, self.samples, samples)


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
        self._file = _open(self._partial, "r+")

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
            table[place] = [_encode(self._samples.ids[row]), _encode(reason)]
        self._file.attrs["complete"] = True
        self._file.close()
        _fsync(self._partial)
        os.replace(self._partial, self.path)
        _fsync(self.path.parent)
        return FeatureCache.open(self.path)


def check_spec(path: Path, found: ExtractSpec, asked: ExtractSpec) -> None:
    """Raise CacheMismatchError naming each differing field, both values and the way out."""
    fields = [f"{name}={_brief(here)}, you asked for {_brief(there)}" for name, here, there in found.differences(asked)]
    if fields:
        raise CacheMismatchError(
            f"{path} was made with {'; '.join(fields)}. Extract again to another file, or ask for what the cache has."
        )


def check_samples(path: Path, found: Samples, asked: Samples) -> None:
    """Raise CacheMismatchError saying how the images differ from those of the cache."""
    changes = found.differences(asked)
    if changes:
        raise CacheMismatchError(
            f"{path} was made from other images: {'; '.join(changes)}. Extract again to another file, "
            f"or remove {path.name}."
        )


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{text[:12]}..." if len(text) == 64 else text


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
            file.create_dataset("ids", data=[_encode(name) for name in samples.ids], dtype=_TEXT)
            file.create_dataset("classes", data=[_encode(name) for name in samples.classes], dtype=_TEXT)
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
        with suppress(FileExistsError):  # another process was first; opening its file says so
            os.link(draft, path)
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


def _open(path: Path, mode: str) -> h5py.File:
    try:
        return h5py.File(path, mode)
    except BlockingIOError as error:
        raise CacheBusyError(
            f"{path} is open in another process. Wait until it ends, or stop it; nothing is lost."
        ) from error
    except OSError as error:
        raise NotACacheError(f"{path} is not a feature cache: it cannot be read as HDF5 ({error}).") from error


@contextmanager
def _opened(path: Path, mode: str) -> Iterator[h5py.File]:
    """An open cache; whatever is wrong inside comes out as a CacheError."""
    with _open(path, mode) as file:
        try:
            if file.attrs.get("format") != FORMAT:
                raise NotACacheError(f"{path} is HDF5, but not a feature cache (attribute format is not 'featcache').")
            version = int(file.attrs["version"])
            if version != VERSION:
                raise CacheVersionError(
                    f"{path} has format version {version}; this featcache reads version {VERSION}. "
                    "Use the featcache that wrote it, or extract again."
                )
            yield file
        except CacheError:
            raise
        except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
            raise _damaged(path, str(error)) from error


def _damaged(path: Path, reason: str) -> NotACacheError:
    return NotACacheError(f"{path} is a damaged feature cache: {reason}. Extract again.")


def _read_spec(path: Path, file: h5py.File) -> tuple[ExtractSpec, dict[str, Any]]:
    spec = ExtractSpec.from_json(file.attrs["spec"])
    if spec.digest() != file.attrs["digest"]:
        raise _damaged(path, "its spec does not have its digest")
    return spec, json.loads(file.attrs["provenance"])


def _read_samples(path: Path, file: h5py.File) -> Samples:
    samples = Samples(
        tuple(_decode(name) for name in file["ids"][:]),
        file["labels"][:],
        file["split"][:],
        file["sha256"][:],
        tuple(_decode(name) for name in file["classes"][:]),
    )
    n = len(samples)
    if not (len(samples.labels) == len(samples.split) == len(samples.sha256) == file["done"].shape[0] == n):
        raise _damaged(path, "its tables differ in length")
    if n and not 0 <= samples.labels.min() <= samples.labels.max() < len(samples.classes):
        raise _damaged(path, "a label lies outside of its classes")
    return samples


def _layout(
    path: Path, dataset: h5py.Dataset, n: int, spec: ExtractSpec
) -> tuple[int, tuple[int, int, int], np.dtype[Any]]:
    """Offset in bytes, shape and dtype of a contiguous dataset inside its file."""
    if dataset.shape[:2] != (n, 1 + spec.views) or dataset.ndim != 3 or dataset.dtype != np.dtype(spec.dtype):
        raise _damaged(path, f"{dataset.name} has shape {dataset.shape} and dtype {dataset.dtype}")
    offset = dataset.id.get_offset()
    if offset is None or offset + dataset.size * dataset.dtype.itemsize > path.stat().st_size:
        raise _damaged(path, f"{dataset.name} does not lie whole in the file")
    return offset, dataset.shape, dataset.dtype


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


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _decode(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
