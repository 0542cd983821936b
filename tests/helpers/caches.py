"""A small cache with features that are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featcache.cache.feature_cache import FeatureCache
from featcache.cache.writer import CacheWriter
from featcache.core.samples import Samples
from featcache.core.specs import ExtractSpec, ViewSpec

SPEC = ExtractSpec("toy", "ab" * 32, ViewSpec(8, 10, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)), views=2)
DIMS = {"penultimate": 4}
PROVENANCE = {"device": "cpu"}
N = 10


def make_samples(ids: list[str] | None = None) -> Samples:
    """Seven training rows and three val rows."""
    ids = ids or [f"{'train' if row < 7 else 'val'}/{row}.png" for row in range(N)]
    n = len(ids)
    hashes = np.random.default_rng(1).integers(0, 256, (n, 32), dtype=np.uint8)
    labels = np.arange(n, dtype=np.int64) % 2
    split = np.array([0] * 7 + [1] * 3 + [0] * n, dtype=np.uint8)[:n]
    return Samples(tuple(ids), labels, split, hashes, ("ants", "bees"))


SAMPLES = make_samples()


def values(rows: NDArray[np.int64] | list[int], views: int = 3, dim: int = 4) -> NDArray[np.float32]:
    """Row r, view v, column c holds r + v / 4 + c / 64: exact in float16."""
    grid = np.arange(views)[:, None] / 4 + np.arange(dim) / 64
    return (np.asarray(rows)[:, None, None] + grid).astype(np.float32)


def writer(path: Path, spec: ExtractSpec = SPEC, samples: Samples = SAMPLES) -> CacheWriter:
    return CacheWriter(path, spec, samples, DIMS, PROVENANCE)


def write_rows(open_writer: CacheWriter, rows: list[int], views: int = 3) -> None:
    open_writer.write(np.array(rows, dtype=np.int64), {"penultimate": values(rows, views)})


def finished(path: Path, skipped: dict[int, str] | None = None) -> FeatureCache:
    skipped = skipped or {}
    with writer(path) as w:
        for rows, views in ((range(7), 3), (range(7, 10), 1)):
            write_rows(w, [row for row in rows if row not in skipped], views)
        return w.finish(skipped)


def cache_of(
    path: Path,
    train: tuple[NDArray[np.float32], NDArray[np.int64]],
    val: tuple[NDArray[np.float32], NDArray[np.int64]],
    sha256: NDArray[np.uint8] | None = None,
) -> FeatureCache:
    """A cache of features (n, v, d) with labels (n,) in train, and (m, d) with (m,) in val."""
    (x, y), (x_val, y_val) = train, val
    n, m = len(x), len(x_val)
    classes = tuple("abcdefghij"[: int(max(y.max(), y_val.max())) + 1])
    if sha256 is None:
        sha256 = np.random.default_rng(2).integers(0, 256, (n + m, 32), dtype=np.uint8)
    samples = Samples(
        tuple(f"{'train' if row < n else 'val'}/{classes[label]}/{row:04d}.png"
              for row, label in enumerate([*y.tolist(), *y_val.tolist()])),
        np.concatenate([y, y_val]), np.array([0] * n + [1] * m, np.uint8), sha256, classes,
    )  # fmt: skip
    spec = dataclasses.replace(SPEC, views=x.shape[1] - 1, dtype="float32")
    with CacheWriter(path, spec, samples, {"penultimate": x.shape[2]}, PROVENANCE) as w:
        w.write(np.arange(n), {"penultimate": x})
        w.write(np.arange(n, n + m), {"penultimate": x_val[:, None]})
        return w.finish({})


def clouds(
    n: int, classes: int, views: int = 1, d: int = 8, apart: float = 1.5, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Overlapping Gaussian clouds around fixed centres; views (n, views, d) lie near the first one."""
    centres = apart * np.random.default_rng(99).normal(size=(classes, d))
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    clean = centres[y] + rng.normal(size=(n, d))
    moved = clean[:, None] + 0.3 * rng.normal(size=(n, views, d))
    moved[:, 0] = clean
    return moved.astype(np.float32), y


def cache_of_layers(
    path: Path,
    train: tuple[Mapping[str, NDArray[np.float32]], NDArray[np.int64]],
    val: tuple[Mapping[str, NDArray[np.float32]], NDArray[np.int64]],
    classes: int | None = None,
) -> FeatureCache:
    """A cache of several layers: features (n, v, d) by layer, with labels (n,) or (n, c); val has one view."""
    (x, y), (x_val, y_val) = train, val
    n, m = len(y), len(y_val)
    labels = np.concatenate([y, y_val])
    names = tuple(f"c{number:03d}" for number in range(classes or (y.shape[1] if y.ndim == 2 else labels.max() + 1)))
    samples = Samples(
        tuple(f"{row:05d}.png" for row in range(n + m)),
        labels,
        np.repeat([0, 1], [n, m]).astype(np.uint8),
        np.random.default_rng(2).integers(0, 256, (n + m, 32), dtype=np.uint8),
        names,
    )
    views = next(iter(x.values())).shape[1] - 1
    spec = dataclasses.replace(SPEC, views=views, dtype="float32", layers=tuple(x))
    with CacheWriter(path, spec, samples, {name: part.shape[2] for name, part in x.items()}, PROVENANCE) as w:
        w.write(np.arange(n), dict(x))
        w.write(np.arange(n, n + m), dict(x_val))
        return w.finish({})
