"""`FeatureCache`: a cache file, read. README.md specifies the format; tests/test_golden.py pins it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
        NotACacheError, CacheVersionError, CacheIncompleteError, CacheBusyError
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
        """The features of one split, memory-mapped; a split that skipped samples is a copy without them.

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


def open_file(path: Path, mode: str) -> h5py.File:
    """Open an HDF5 file. Raises CacheBusyError, NotACacheError."""
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
    with open_file(path, mode) as file:
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


def encode(text: str) -> bytes:
    """Text as stored: file names that are not UTF-8 keep their bytes."""
    return text.encode("utf-8", "surrogateescape")


def _decode(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
