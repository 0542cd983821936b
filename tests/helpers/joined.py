"""Caches of the same samples from several networks, with features that are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from caches import PROVENANCE, SPEC
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.writer import CacheWriter
from featcache.core.samples import Samples
from featcache.core.specs import ExtractSpec, ViewSpec

N = 180  # samples; the last third is val
CLASSES = ("ants", "bees", "cats")
Y = np.arange(N) % 3
SHA = np.random.default_rng(5).integers(0, 256, (N, 32), dtype=np.uint8)


def signal(apart: float, d: int = 8, seed: int = 0, views: int = 1) -> NDArray[np.float32]:
    """Features, (N, views, d), in which classes are so far apart; 0 is noise."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(seed + 50).normal(size=(3, d))
    x = apart * centres[Y] + rng.normal(size=(N, d))
    return (x[:, None] + 0.1 * rng.normal(size=(N, views, d)) * (np.arange(views)[:, None] > 0)).astype(np.float32)


def spec_of(network: str, views: int = 0, **view: object) -> ExtractSpec:
    shown = {**dataclasses.asdict(SPEC.view), **view}
    return dataclasses.replace(
        SPEC, backbone=network, weights_sha256=(network.encode().hex() * 64)[:64], views=views, val_views=views,
        dtype="float32", view=ViewSpec(**shown),
    )  # fmt: skip


def network_cache(
    path: Path,
    x: NDArray[np.float32] | dict[str, NDArray[np.float32]],
    order: Sequence[int] | NDArray[np.int64] | None = None,
    *,
    ids: Sequence[str] | None = None,
    labels: NDArray[np.int64] | None = None,
    split: NDArray[np.uint8] | None = None,
    sha256: NDArray[np.uint8] | None = None,
    skipped: dict[int, str] | None = None,
    extract_s: float | None = None,
    **view: object,
) -> FeatureCache:
    """A cache named after its network, with the rows of `order`; layers (N, v, d) by name, or the penultimate one.

    skipped : row of the file -> reason.
    """
    layers = x if isinstance(x, dict) else {"penultimate": x}
    rows = np.arange(N) if order is None else np.asarray(order)
    labels, sha256 = Y if labels is None else labels, SHA if sha256 is None else sha256
    split = np.repeat([0, 1], [120, N - 120]).astype(np.uint8) if split is None else split
    names = [f"{row:04d}.png" for row in range(N)] if ids is None else list(ids)
    samples = Samples(tuple(names[row] for row in rows), labels[rows], split[rows], sha256[rows], CLASSES)
    spec = spec_of(path.stem, next(iter(layers.values())).shape[1] - 1, **view)
    spec = dataclasses.replace(spec, layers=tuple(layers))
    optional = () if extract_s is None else ("extract_s",)
    dims = {name: part.shape[2] for name, part in layers.items()}
    with CacheWriter(path, spec, samples, dims, PROVENANCE, optional=optional) as writer:
        kept = np.array([row for row in range(len(rows)) if row not in (skipped or {})])
        seconds = None if extract_s is None else np.full(len(kept), extract_s, np.float32)
        writer.write(kept, {name: part[rows[kept]] for name, part in layers.items()}, extract_s=seconds)
        return writer.finish(skipped or {})
