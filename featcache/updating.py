"""`update`: bring a cache up to date with its images; what it holds already is carried over, not extracted again."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.backbones import Backbone, load_backbone
from featcache.cache import FeatureCache
from featcache.checksums import damaged_rows
from featcache.engines import EngineName
from featcache.errors import CacheMismatchError
from featcache.estimating import Estimate, measure
from featcache.extraction import describe, fill
from featcache.files import Progress
from featcache.images import MAX_PIXELS
from featcache.layout import wanted_views
from featcache.loader import ViewLoader
from featcache.manifest import read_manifest
from featcache.report import Stopwatch, human_bytes
from featcache.samples import Samples
from featcache.writer import CacheWriter

_BLOCK_BYTES = 2**24


@dataclass(frozen=True)
class Update:
    """What `update` did, or would do.

    changes : ids by kind of change, see `Samples.changes`. damaged : ids of rows without their checksum.
    views : K before and after. carried : images whose features are taken over. extracted : images that need the
    network, for shown views. cache : the new cache; None in a dry run. estimate : of a dry run that would extract.
    """

    path: Path
    changes: dict[str, list[str]]
    damaged: list[str]
    views: tuple[int, int]
    carried: int
    extracted: int
    shown: int
    cache: FeatureCache | None = None
    estimate: Estimate | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def nothing(self) -> bool:
        """Whether the cache was up to date."""
        return not self.changes and not self.damaged and self.views[0] == self.views[1]

    def __str__(self) -> str:
        """For people."""
        if self.nothing:
            return f"{self.path} is up to date"
        lines = [f"{len(names)} {kind} (for example {names[0]})" for kind, names in self.changes.items()]
        lines += [f"{len(self.damaged)} damaged (for example {self.damaged[0]})"] if self.damaged else []
        lines += [f"views: {self.views[0]} before, {self.views[1]} now"] if self.views[0] != self.views[1] else []
        will = "would be " if self.cache is None else ""
        lines.append(f"{self.carried} images {will}carried over, {self.extracted} {will}extracted ({self.shown} views)")
        lines += [str(self.estimate)] if self.estimate else []
        lines += [f"skipped {name}: {reason}" for name, reason in self.skipped]
        if self.cache:
            lines.append(f"{self.path}: {len(self.cache.samples)} images, {human_bytes(self.cache.size_bytes)}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "cache": str(self.path),
            "changes": self.changes,
            "damaged": self.damaged,
            "views": list(self.views),
            "carried": self.carried,
            "extracted": self.extracted,
            "shown": self.shown,
            "dry_run": self.cache is None and not self.nothing,
            "estimate": self.estimate.to_dict() if self.estimate else None,
            "skipped": [{"path": name, "reason": reason} for name, reason in self.skipped],
            "seconds": self.seconds,
        }


def update(
    path: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    views: int | None = None,
    weights: str | None = None,
    batch_size: int = 32,
    workers: int | None = None,
    device: str = "auto",
    engine: EngineName = "auto",
    max_pixels: int = MAX_PIXELS,
    strict: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Update:
    """Make a cache that fits `data` now, and put it in the place of the old one.

    New and changed images, told by content, are extracted; removed ones are dropped; renamed, relabelled and
    moved ones are carried over; of more views only the missing ones are extracted. Damaged rows are extracted
    again. Until the new cache is whole the old one stays; a run that was killed goes on.

    Parameters
    ----------
    views : K; None keeps it. weights : where the network's weights lie now, if they have moved.
    dry_run : change nothing; say what would be done, and measure what it would cost.
    Others : as in `extract`; all that decides a feature is the cache's own.

    Raises
    ------
    CacheError, ImageError, BackboneError
    """
    watch = Stopwatch()
    old = FeatureCache.open(path)
    with watch.phase("hash"):
        manifest = read_manifest(data, **old.split_options, progress=progress)
    samples = manifest.samples
    spec = replace(old.spec, views=old.spec.views if views is None else views)
    with watch.phase("verify"):
        damaged = damaged_rows(old.path, old.layout, np.arange(len(old.samples)))
    source = find_source(old, samples, wanted_views(spec, samples), damaged)
    missing = wanted_views(spec, samples) - source.views
    result = Update(
        path=old.path,
        changes=old.samples.changes(samples),
        damaged=[old.samples.ids[row] for row in damaged],
        views=(old.spec.views, spec.views),
        carried=int(np.count_nonzero(source.views)),
        extracted=int(np.count_nonzero(missing)),
        shown=int(missing.sum()),
    )
    if result.nothing:
        return replace(result, extracted=0, shown=0, skipped=old.skipped, seconds=watch.seconds())
    backbone = _backbone(old, weights, device) if missing.any() else None
    if backbone:
        backbone.accelerate(spec.view.image_size, engine, int(missing.sum()))
    if dry_run:
        if backbone:
            cost = measure(old.path, manifest, backbone, spec, missing, batch_size, workers, max_pixels)
            result = replace(result, estimate=cost)
        return replace(result, seconds=watch.seconds())
    provenance = {**old.provenance, **(describe(backbone) if backbone else {})}
    with CacheWriter(old.path, spec, samples, old.dims, provenance) as writer:
        with watch.phase("carry"):
            carry(writer, old, source)
        skipped: dict[int, str] = {}
        if backbone:
            loader = ViewLoader(manifest, spec.view, workers=workers, max_pixels=max_pixels, watch=watch)
            skipped = fill(writer, loader, backbone, batch_size, watch, progress, strict)
        cache = writer.finish(skipped)
    return replace(result, cache=cache, skipped=cache.skipped, seconds=watch.seconds())


def _backbone(old: FeatureCache, weights: str | None, device: str) -> Backbone:
    """The network that made a cache."""
    spec = old.spec
    backbone = load_backbone(
        spec.backbone,
        weights=weights or old.provenance["weights"],
        layers=spec.layers,
        device=device,
        precision=spec.precision,
        seed=spec.view.seed,
    )
    if backbone.weights_sha256 != spec.weights_sha256:
        raise CacheMismatchError(
            f"{old.path} was made with weights {spec.weights_sha256[:12]}..., those of {backbone.weights} are "
            f"{backbone.weights_sha256[:12]}.... Give the right file with --weights, or extract again to another file."
        )
    return backbone


@dataclass(frozen=True)
class Source:
    """For each row of a cache to be: which row of an older cache has its content, and how many views it gives.

    row : ndarray, shape (n,), int64. views : ndarray, shape (n,), uint16, 0 where the content is new.
    """

    row: NDArray[np.int64]
    views: NDArray[np.uint16]


def find_source(old: FeatureCache, samples: Samples, wanted: NDArray[np.uint16], damaged: NDArray[np.int64]) -> Source:
    """Match rows by content: names and labels may differ. Damaged rows give nothing."""
    there = old.done.copy()
    there[damaged] = 0
    # Of copies, the row with the most views serves: it comes last and so stays.
    best = {old.samples.sha256[row].tobytes(): int(row) for row in np.argsort(there, kind="stable")}
    row = np.array([best.get(content.tobytes(), -1) for content in samples.sha256], dtype=np.int64)
    views = np.where(row < 0, 0, np.minimum(there[row], wanted)).astype(np.uint16)
    return Source(row, views)


def carry(writer: CacheWriter, old: FeatureCache, source: Source) -> None:
    """Copy what the older cache has and the new one lacks."""
    mapped = {name: region.map(old.path) for name, region in old.layout.layers.items()}
    block = max(1, _BLOCK_BYTES // sum(region.stride for region in old.layout.layers.values()))
    for views in np.unique(source.views[source.views > 0]).tolist():
        rows = np.flatnonzero((source.views == views) & (writer.done < views))
        for start in range(0, len(rows), block):
            some = rows[start : start + block]
            writer.write(some, {name: values[source.row[some], :views] for name, values in mapped.items()})
