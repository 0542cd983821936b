"""`extract`: run the frozen network once over every image and view, into a cache."""

from __future__ import annotations

import os
import platform
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.backbones import Backbone, load_backbone
from featcache.cache import FeatureCache
from featcache.carrying import set_aside, take_over
from featcache.engines import EngineName, Features
from featcache.errors import EmptyFolderError, UnreadableImageError
from featcache.files import Progress
from featcache.images import MAX_PIXELS
from featcache.layers import grid_side, parse_layer
from featcache.layout import size_needed, wanted_views
from featcache.loader import Batch, ViewLoader
from featcache.manifest import Manifest, read_manifest
from featcache.report import Report, Stopwatch, human_bytes, notes, versions
from featcache.spec import EMBEDDED, PENULTIMATE, Augment, StorageDtype
from featcache.writer import CacheWriter


@dataclass(frozen=True)
class Extraction:
    """What `extract` returns.

    cache : the finished cache. extracted : images run through the network by this call, 0 where the cache was
    there already; shown : their views. skipped : pairs (id, reason). ignored : files that are no images, by reason.
    conflicts : pairs of ids with equal bytes and different labels.
    note : what the user should know of the network's engine.
    """

    cache: FeatureCache
    extracted: int
    shown: int
    skipped: list[tuple[str, str]]
    ignored: dict[str, int]
    conflicts: list[tuple[str, str]]
    report: Report
    note: str = ""

    def __str__(self) -> str:
        """What was done, for people."""
        seconds, cache = self.report.seconds, self.cache
        views = int(cache.done.sum())
        lines = [f"{cache.path}: {len(cache.samples)} images, {views} views, {human_bytes(cache.size_bytes)}"]
        if self.extracted:
            shown = self.shown / seconds["wall"]
            lines.append(
                f"extracted {self.extracted} images ({self.shown} views) in {seconds['wall']:.1f} s: "
                f"{self.extracted / seconds['wall']:.0f} images/s, {shown:.0f} views/s"
            )
        else:
            lines.append("nothing to extract: the cache was complete")
        lines += [self.note] if self.note else []
        if cache.samples.multilabel:
            without = len(cache.samples) - int(cache.samples.labels.any(axis=1).sum())
            lines.append(f"an image can have several labels; {without} images have none")
        return "\n".join(lines + notes(self.ignored, self.conflicts, self.skipped))

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            **self.report.to_dict(),
            "cache": str(self.cache.path),
            "extracted": self.extracted,
            "shown": self.shown,
            "skipped": [{"path": name, "reason": reason} for name, reason in self.skipped],
            "ignored": self.ignored,
            "conflicts": [list(pair) for pair in self.conflicts],
            "note": self.note,
        }


def extract(
    data: str | os.PathLike[str] | Manifest,
    out: str | os.PathLike[str],
    *,
    backbone: str | Backbone = EMBEDDED,
    weights: str = "pretrained",
    views: int = 4,
    val_views: int = 0,
    augment: Augment = "tutorial",
    image_size: int | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    dtype: StorageDtype = "float16",
    seed: int = 0,
    layers: Sequence[str] = (PENULTIMATE,),
    engine: EngineName = "auto",
    val_fraction: float = 0.2,
    split_seed: int = 0,
    allow_leak: bool = False,
    max_pixels: int = MAX_PIXELS,
    strict: bool = False,
    progress: Progress | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Extraction:
    """Extract features of all images of `data` into the cache `out`.

    Training images get the clean view and `views` augmented ones, val and test images the clean view and `val_views`
    augmented ones, which test-time augmentation averages over. A run that was killed goes on where it stopped; a cache
    that is there and fits is left as it is.

    Parameters
    ----------
    data : folder or CSV manifest, see `read_manifest`, or a Manifest.
    backbone : a name, see `load_backbone`, or a Backbone; then weights, device, precision, layers and engine are
        its own.
    engine : what runs the network: "pytorch", "compiled", "openvino", or "auto", see `Backbone.accelerate`.
    image_size : pixels; None takes the network's own.
    batch_size : views, not images, in one forward pass; None takes 32, on a GPU 256.
    seed : of the augmentation, and of the weights where they are drawn. val_fraction, split_seed, allow_leak : see
        `read_manifest`; the split does not change with `seed`. max_pixels : larger images count as unreadable.
    strict : make the first unreadable image an error instead of skipping and listing it.
    precision : "auto", "fp32", "bf16", "fp16": in what the network computes. dtype : in what features are stored.
    on_note : called, before the work, with what is good to know then: how large a cache of grids will be.

    Raises
    ------
    ImageError, BackboneError, CacheMismatchError, CacheBusyError
    """
    watch = Stopwatch()
    out = Path(out)
    with watch.phase("hash"):
        manifest = read_manifest(
            data, val_fraction=val_fraction, seed=split_seed, allow_leak=allow_leak, progress=progress
        )
    own = isinstance(backbone, str)
    if isinstance(backbone, str):
        with watch.phase("start"):
            backbone = load_backbone(
                backbone, weights=weights, layers=layers, device=device, precision=precision, seed=seed, lazy=True
            )
    spec = backbone.extract_spec(
        image_size=image_size, augment=augment, seed=seed, views=views, dtype=dtype, val_views=val_views
    )
    if out.exists():
        cache = FeatureCache.open(out)
        cache.check_matches(spec, manifest.samples)
        if strict:
            refuse_unreadable(manifest, cache.skipped)
        extracted = shown = 0
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        grids = [layer for layer in spec.layers if grid_side(parse_layer(layer)[1])]
        if grids and on_note:
            size = human_bytes(size_needed(spec, manifest.samples, backbone.dims))
            on_note(f"{out} will take about {size}: grids keep every place ({', '.join(grids)})")
        with closing(ViewLoader(manifest, spec.view, workers=workers, max_pixels=max_pixels, watch=watch)) as loader:
            wanted = wanted_views(spec, manifest.samples)
            loader.begin(*next(_like_each_other(wanted, np.zeros_like(wanted))))
            if own:
                with watch.phase("convert"):
                    backbone.accelerate(spec.view.image_size, engine, int(wanted.sum()))
            split = {"val_fraction": val_fraction, "split_seed": split_seed, "allow_leak": allow_leak}
            provenance = {**describe(backbone), **split}
            aside = set_aside(out, spec, manifest.samples)
            with CacheWriter(out, spec, manifest.samples, backbone.dims, provenance, progress) as writer:
                if aside:
                    take_over(writer, aside, manifest.samples)
                before = writer.done
                skipped = fill(writer, loader, backbone, batch_size, watch, progress, strict)
                loader.close()  # where nothing was missing, what it has begun need not be decoded
                cache = writer.finish(skipped)
        extracted = int(np.count_nonzero(cache.done > before))
        shown = int((cache.done - before).sum())
    report = Report(
        method="extract",
        seconds=watch.seconds(),
        images=extracted,
        size_bytes=cache.size_bytes,
        spec_digest=spec.digest(),
        seed=seed,
        device=backbone.device_name,
        precision=backbone.precision,
    )
    return Extraction(
        cache, extracted, shown, cache.skipped, manifest.ignored, manifest.conflicts(), report, backbone.note
    )


def fill(
    writer: CacheWriter,
    loader: ViewLoader,
    backbone: Backbone,
    batch_size: int | None,
    watch: Stopwatch,
    progress: Progress | None = None,
    strict: bool = False,
) -> dict[int, str]:
    """Extract all pending views; returns row -> reason of the images that could not be read.

    Raises
    ------
    EmptyFolderError : none of them can be read. UnreadableImageError : one cannot, if `strict`. CacheSpaceError
    """
    manifest = loader.manifest
    total = len(manifest.samples)
    left = len(writer.pending())
    for rows, features, first_view in _embedded(writer, loader, backbone, batch_size or backbone.batch_size, watch):
        with watch.phase("write"):
            loader.skipped.update(writer.write(rows, features, first_view))
        left -= len(rows)
        if strict:
            refuse_unreadable(manifest, _named(loader))
        if progress:
            progress("extract", total - left, total)
    if strict:
        refuse_unreadable(manifest, _named(loader))
    if progress and loader.skipped:
        progress("extract", total, total)
    if len(loader.skipped) == total:
        row, reason = next(iter(loader.skipped.items()))
        raise EmptyFolderError(
            f"none of the {total} images of {manifest.root} could be read; {manifest.samples.ids[row]}: {reason}"
        )
    return loader.skipped


def _embedded(
    writer: CacheWriter, loader: ViewLoader, backbone: Backbone, batch_size: int, watch: Stopwatch
) -> Iterator[tuple[NDArray[np.int64], dict[str, NDArray[np.float32]], int]]:
    """Rows, the features (b, v, d) of each layer, and their first view; the network has more to do already."""
    under_way: deque[tuple[Batch, Features, int]] = deque()
    appetite = backbone.appetite(loader.spec.image_size)
    for rows, numbers in _like_each_other(writer.wanted, writer.done):
        for batch in loader.batches(rows, numbers, max(1, batch_size // len(numbers))):
            with watch.phase("forward"):
                features = backbone.submit(batch.pixels.reshape(-1, *batch.pixels.shape[2:]))
            under_way.append((batch, features, numbers[0]))
            while under_way and sum(later.views for later, _, _ in islice(under_way, 1, None)) >= appetite:
                yield _taken(backbone, watch, *under_way.popleft())
    while under_way:
        yield _taken(backbone, watch, *under_way.popleft())


def _taken(
    backbone: Backbone, watch: Stopwatch, batch: Batch, features: Features, first_view: int
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float32]], int]:
    with watch.phase("forward"):
        flat = dict(zip(backbone.layers, features(), strict=True))
    b, v = batch.pixels.shape[:2]
    return batch.rows, {layer: values.reshape(b, v, -1) for layer, values in flat.items()}, first_view


def _like_each_other(wanted: NDArray[np.uint16], done: NDArray[np.uint16]) -> Iterator[tuple[NDArray[np.int64], range]]:
    """The rows that lack views, in groups that lack the same ones. wanted, done : views, shape (n,)."""
    rows = np.flatnonzero(done < wanted)
    lacks = np.stack([done[rows], wanted[rows]], axis=1)
    for first, last in np.unique(lacks, axis=0)[::-1].tolist():
        yield rows[np.all(lacks == (first, last), axis=1)], range(first, last)


def _named(loader: ViewLoader) -> list[tuple[str, str]]:
    return [(loader.manifest.samples.ids[row], reason) for row, reason in loader.skipped.items()]


def refuse_unreadable(manifest: Manifest, skipped: Sequence[tuple[str, str]]) -> None:
    """Raise UnreadableImageError for the first of the skipped images, pairs (id, reason), if there is one."""
    for name, reason in skipped:
        raise UnreadableImageError(
            f"{manifest.root / name} cannot be read: {reason}. Mend or remove it, or extract without --strict, which "
            "skips and lists such images. What was extracted so far is kept."
        )


def describe(backbone: Backbone) -> dict[str, Any]:
    """Where, when and with what features are made: shown, not compared."""
    return {
        "weights": backbone.weights,
        "device": backbone.device_name,
        "engine": backbone.engine,
        "versions": versions(),
        "host": platform.node(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
