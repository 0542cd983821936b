"""`write_arrays`: write a cache file of features that the user computed, without a network and images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache._utils.files import move
from featcache.cache.checksums import checksums
from featcache.cache.format.container import write_at
from featcache.cache.format.create import create_atomically, write_cache
from featcache.cache.format.layout import REASON_BYTES, Layout, read, size_needed
from featcache.core.samples import SPLITS, UNLABELED, Labels, Samples, join_groups, split_index
from featcache.core.specs import ARRAYS, PENULTIMATE, ExtractSpec, ViewSpec
from featcache.core.splitting import hold_out
from featcache.errors import CacheBusyError, CacheError, DataLayoutError

_BLOCK_BYTES = 2**24
_NAMED = 5


def write_arrays(
    path: Path,
    x: ArrayLike,
    y: ArrayLike | Sequence[Any] | None,
    *,
    classes: Sequence[str] | None,
    split: Sequence[str] | None,
    ids: Sequence[str] | None,
    groups: Sequence[Any] | None,
    name: str,
    val_fraction: float,
    seed: int,
    overwrite: bool,
    sha256: NDArray[np.uint8] | None = None,
) -> None:
    """Write features as a finished cache. For the parameters see `FeatureCache.from_arrays`.

    sha256 : of the bytes of the samples, shape (n, 32); None uses those of their features.
    """
    partial = path.with_name(f"{path.name}.partial")
    if path.exists() and not overwrite:
        raise CacheError(f"{path} exists. Give another name, or overwrite=True.")
    if partial.exists():
        raise CacheBusyError(f"{partial} exists: another cache of this name is being made. Give another name.")
    values = _features(x)
    of_values = _hashes(values)
    hashes = of_values if sha256 is None else sha256
    samples = _samples(hashes, y, classes, split, ids, groups, val_fraction, seed)
    order = np.argsort(samples.split, kind="stable")  # rows are grouped by split
    values, samples = values[order], samples.take(order)
    spec = ExtractSpec(
        backbone=ARRAYS if not name else f"{ARRAYS}:{name}",
        weights_sha256=hashlib.sha256(of_values[order].tobytes()).hexdigest(),
        view=ViewSpec(augment="none", seed=seed, mean=(0, 0, 0), std=(1, 1, 1)),
        views=values.shape[1] - 1,
        dtype="float16" if values.dtype == np.float16 else "float32",
        val_views=values.shape[1] - 1,
    )
    dims = {PENULTIMATE: values.shape[2]}
    provenance = {"weights": "none", "val_fraction": float(val_fraction), "split_seed": seed}

    def write(draft: Path) -> None:
        write_cache(draft, spec, samples, dims, provenance)
        _write_rows(draft, read(draft), values)

    create_atomically(partial, size_needed(spec, samples, dims), write)
    move(partial, path)


def _write_rows(path: Path, layout: Layout, values: NDArray[Any]) -> None:
    """Write all rows, their checksums and their numbers of finished views."""
    region = layout.layers[PENULTIMATE]
    step = max(1, _BLOCK_BYTES // region.stride)
    done = layout.expected_views
    with path.open("r+b", buffering=0) as file:
        for start in range(0, len(values), step):
            block = np.ascontiguousarray(values[start : start + step], region.dtype)
            views = done[start : start + step]
            crc32 = checksums({PENULTIMATE: block}, views, np.zeros(len(block), f"S{REASON_BYTES}"))
            for array, rows in ((region, block), (layout.crc32, crc32), (layout.done, views),
                                (layout.skipped, np.zeros(len(block), f"S{REASON_BYTES}"))):  # fmt: skip
                data = np.ascontiguousarray(rows, array.dtype).reshape(-1).view(np.uint8).data
                write_at(file, array.offset + start * array.stride, data)
        os.fsync(file.fileno())


def _features(x: Any) -> NDArray[Any]:
    """Check the features and convert them to finite float16 or float32, (n, v, d)."""
    if hasattr(x, "detach"):  # a PyTorch tensor
        x = x.detach().cpu().numpy()
    values = np.asarray(x)
    if values.dtype.kind not in "fiu":
        raise DataLayoutError(f"x is of type {values.dtype}; give numbers.")
    if values.ndim == 2:
        values = values[:, None]
    if values.ndim != 3 or 0 in values.shape:
        raise DataLayoutError(
            f"x has shape {np.shape(x)}; give (n, d), or (n, v, d) with the clean view of each sample first."
        )
    if values.dtype != np.float16:
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=(1, 2)))
    if len(bad):
        named = ", ".join(map(str, bad[:_NAMED])) + (", ..." if len(bad) > _NAMED else "")
        raise DataLayoutError(
            f"{len(bad)} of {len(values)} rows of x hold NaN or numbers that float32 does not have: rows {named}. "
            "Leave those samples out, or correct them."
        )
    return values


def _hashes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Of the features of each sample, shape (n, 32)."""
    return np.frombuffer(b"".join(hashlib.sha256(row.tobytes()).digest() for row in values), np.uint8).reshape(-1, 32)


def _samples(
    sha256: NDArray[np.uint8],
    y: Any,
    classes: Sequence[str] | None,
    split: Sequence[str] | None,
    ids: Sequence[str] | None,
    groups: Sequence[Any] | None,
    val_fraction: float,
    seed: int,
) -> Samples:
    n = len(sha256)
    labels, names, unlabeled = _labels([None] * n if y is None else y, n, classes)
    for what, values_of_samples in (("split", split), ("ids", ids), ("groups", groups)):
        if values_of_samples is not None and len(values_of_samples) != n:
            raise DataLayoutError(f"{what} has {len(values_of_samples)} entries, and x has {n} rows.")
    keys = tuple(map(str, ids)) if ids is not None else tuple(f"{row:0{len(str(n - 1))}d}" for row in range(n))
    if len(set(keys)) != n:
        raise DataLayoutError("ids must be different from each other.")
    texts = tuple("" if group is None else str(group) for group in groups) if groups is not None else ()
    texts = texts if any(texts) else ()
    codes = np.zeros(n, np.uint8) if split is None else np.array([split_index(str(name)) for name in split], np.uint8)
    codes[unlabeled] = SPLITS.index(UNLABELED)
    train, some_wait = np.flatnonzero(codes == SPLITS.index("train")), bool(unlabeled.any())
    if not len(train) and not some_wait:
        raise DataLayoutError("no sample with a label is in train.")
    if SPLITS.index("val") not in codes:
        keys_of_groups = join_groups(sha256, texts)[train]
        held = hold_out(labels[train], keys_of_groups, val_fraction, seed, may_be_empty=some_wait)
        codes[train[held]] = SPLITS.index("val")
    train = codes == SPLITS.index("train")
    if labels.ndim == 1 and not some_wait:
        lacking = [names[label] for label in np.unique(labels[~train]) if label not in labels[train]]
        if lacking:
            raise DataLayoutError(f"train has no sample of {', '.join(lacking[:_NAMED])}, which val or test has.")
    return Samples(keys, labels, codes, sha256, names, texts)


def _labels(y: Any, n: int, classes: Sequence[str] | None) -> tuple[Labels, tuple[str, ...], NDArray[np.bool_]]:
    """Labels as in `Samples`, the sorted class names, and which samples have no label."""
    if hasattr(y, "detach"):
        y = y.detach().cpu().numpy()
    values = np.asarray(y, dtype=object if isinstance(y, (list, tuple)) and None in y else None)
    if len(values) != n:
        raise DataLayoutError(f"y has {len(values)} labels, and x has {n} rows.")
    if values.dtype.kind == "f" and np.isinf(values).any():
        raise DataLayoutError("y holds an infinite number, which names no class. NaN and -1 stand for no label.")
    if values.ndim == 2 and values.shape[1] == 1:
        raise DataLayoutError(
            f"y has shape {values.shape}; give (n,): y[:, 0]. Several labels need two columns or more."
        )
    if values.ndim == 2:
        return _multilabel_targets(values, classes)
    if values.ndim != 1:
        raise DataLayoutError(f"y has shape {values.shape}; give (n,), or (n, c) of 0 and 1 for several labels.")
    if classes is not None and values.dtype.kind == "f" and (np.isnan(values) | (values == np.rint(values))).all():
        values = np.where(np.isnan(values), -1, values).astype(np.int64)  # integers with NaN are stored as floats
    if classes is not None and values.dtype.kind in "iu":
        if values.max(initial=0) >= len(classes):
            raise DataLayoutError(f"y names class {values.max()}, and classes has {len(classes)} names.")
        texts = [str(classes[label]) if label >= 0 else None for label in values]
    else:
        texts = [_text(label) for label in values]
        if classes is not None and (others := sorted({text for text in texts if text} - set(classes))):
            raise DataLayoutError(f"y has the class {others[0]!r}, which classes does not name.")
    present = {text for text in texts if text is not None}
    names = tuple(sorted(present if classes is None else set(map(str, classes))))
    if len(present) < 2 and None not in texts:
        raise DataLayoutError(f"y has {len(present)} class; a classifier needs two or more.")
    index: Mapping[str, int] = {name: number for number, name in enumerate(names)}
    labels = np.array([-1 if text is None else index[text] for text in texts], np.int64)
    return labels, names, labels < 0


def _text(label: Any) -> str | None:
    """The class name; None for a missing label: None, NaN, "" or a negative number."""
    if label is None or label == "" or label != label:
        return None
    if isinstance(label, (int, np.integer)) and not isinstance(label, bool):
        return None if label < 0 else str(int(label))
    if isinstance(label, (float, np.floating)):
        return None if label < 0 else str(int(label)) if label == int(label) else str(label)
    return str(label)


def _multilabel_targets(
    labels: NDArray[Any], classes: Sequence[str] | None
) -> tuple[Labels, tuple[str, ...], NDArray[np.bool_]]:
    unlabeled = ((labels == -1) | (labels != labels)).all(axis=1)
    labels = np.where(unlabeled[:, None], 0, labels)
    if not np.isin(labels, (0, 1)).all():
        raise DataLayoutError("y of shape (n, c) must hold 0 and 1, or a row of -1 or NaN for a sample without labels.")
    c = labels.shape[1]
    names = (
        tuple(map(str, classes)) if classes is not None else tuple(f"{label:0{len(str(c - 1))}d}" for label in range(c))
    )
    if len(set(names)) != c:
        raise DataLayoutError(f"y has {c} columns, and classes names {len(set(names))} labels.")
    order = np.argsort(np.array(names))
    return labels[:, order].astype(np.uint8), tuple(names[label] for label in order), unlabeled
