"""`extract`: run the frozen network once over every image and view, into a cache."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from featcache._utils.environment import check_writable
from featcache._utils.formatting import human_bytes, printable
from featcache._utils.progress_bar import Progress, ProgressOption, as_callback
from featcache._utils.results import NotebookResult
from featcache._utils.timing import PhaseTimer
from featcache.backbones.backbone import Backbone
from featcache.backbones.engines.base import EngineName
from featcache.backbones.load import load_backbone
from featcache.backbones.sources.registry import check_name
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.format.layout import expected_views, size_needed
from featcache.cache.paths import on_disk
from featcache.cache.reuse import check_loss, engine_of_unfinished, import_stashed, keep_unread, stash_partial
from featcache.cache.writer import CacheWriter
from featcache.core.bit_depth import ValueRange
from featcache.core.data_summary import DataSummary
from featcache.core.layer_names import grid_side, parse_layer
from featcache.core.ray_cluster import Cluster
from featcache.core.samples import SPLITS, UNLABELLED
from featcache.core.specs import EMBEDDED, MAX_PIXELS, PENULTIMATE, Augment, StorageDtype
from featcache.data.input_notes import input_notes, list_inputs, remark_notes, write_list
from featcache.data.manifest import Manifest, read_manifest
from featcache.errors import EmptyFolderError, UnreadableImageError
from featcache.extraction.extractor import Extractor, LocalExtractor, Views
from featcache.extraction.ray_coordinator import RayExtractor
from featcache.extraction.ray_worker import WorkerConfig
from featcache.metrics.run_report import Report
from featcache.vision.value_range import choose_value_range, describe_value_range


@dataclass(frozen=True, repr=False)
class Extraction(NotebookResult):
    """What `extract` returns.

    cache : the finished cache. extracted : images run through the network by this call, 0 where the cache was
    there already; shown : their views. skipped : pairs (id, reason). ignored : files that are no images, by reason.
    conflicts : pairs of ids with equal bytes and different labels.
    note : what the user should know of the network's engine.
    data_notes, data_name : how the data was read, and what it is called.
    remarks : pairs (id, what is odd about the image), of those extracted by this call.
    """

    cache: FeatureCache
    extracted: int
    shown: int
    skipped: list[tuple[str, str]]
    ignored: dict[str, int]
    conflicts: list[tuple[str, str]]
    report: Report
    note: str = ""
    data_notes: tuple[str, ...] = ()
    remarks: list[tuple[str, str]] = field(default_factory=list)
    data_name: str = ""

    @property
    def data(self) -> DataSummary:
        """What was understood of the data, as far as it could be read."""
        return replace(self.cache.summary(), name=self.data_name or str(self.cache.path), notes=self.data_notes)

    def write_list(self, path: str | os.PathLike[str]) -> None:
        """All skipped images, conflicts and remarks as CSV: kind, image, other, reason; whole or not at all."""
        write_list(path, list_inputs(self.conflicts, self.skipped, {}, self.remarks))

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
            is_known = cache.samples.split != SPLITS.index(UNLABELLED)
            without = int(np.count_nonzero(~cache.samples.labels[is_known].any(axis=1)))
            lines.append(f"an image can have several labels; {without} images have none")
        lines += [*input_notes(self.ignored, self.conflicts, self.skipped), *remark_notes(self.remarks)]
        return "\n".join([*lines, *([self.data.missing] if self.data.missing else [])])

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
            "value_range": self.cache.spec.flat().get("value_range"),
            "remarks": [{"path": name, "remark": remark} for name, remark in self.remarks],
            "data": self.data.to_dict(),
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
    label_column: str | None = None,
    skip_missing: bool = False,
    max_pixels: int = MAX_PIXELS,
    value_range: ValueRange | None = None,
    strict: bool = False,
    cluster: Cluster | None = None,
    progress: ProgressOption = None,
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
    engine : what runs the network: "pytorch", "compiled", "openvino", or "auto", see `Backbone.select_engine`.
    image_size : pixels; None takes the network's own.
    batch_size : views, not images, in one forward pass; None takes 32, on a GPU 256.
    seed : of the augmentation, and of the weights where they are drawn. max_pixels : larger images count as unreadable.
    val_fraction, split_seed, allow_leak, label_column, skip_missing : see `read_manifest`; the split does not change
        with `seed`.
    value_range : low and high value of pixels with more than 8 bits a channel, which become black and white; None
        takes that of a cache that is there, else finds it, see `find_value_range`.
    strict : make the first unreadable image an error instead of skipping and listing it.
    precision : "auto", "fp32", "bf16", "fp16": in what the network computes. dtype : in what features are stored.
    cluster : machines to do it, see `Cluster`; then device and workers are those of each, None or "auto" of its
        own; a worker without GPUs computes on its cores.
    on_note : called with what was understood of the data, before the work starts, and with what is good to know: how
        large a cache of grids will be, what became of a worker that died.

    Raises
    ------
    ImageError, BackboneError, CacheMismatchError, CacheBusyError
    """
    progress = as_callback(progress)
    watch = PhaseTimer()
    out = on_disk(out)
    check_writable(out)
    check_name(backbone)
    with watch.phase("hash"):
        manifest = read_manifest(
            data,
            val_fraction=val_fraction,
            seed=split_seed,
            allow_leak=allow_leak,
            label_column=label_column,
            skip_missing=skip_missing,
            progress=progress,
        )
    if on_note:
        on_note(str(manifest.summary()))
    network: dict[str, Any] = {"weights": weights, "layers": layers, "device": device, "precision": precision}
    network |= {"name": backbone, "seed": seed, "image_size": image_size}
    asked: dict[str, Any] = {"image_size": image_size, "augment": augment, "seed": seed, "views": views}
    asked |= {"dtype": dtype, "val_views": val_views}
    how: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "max_pixels": max_pixels}
    how |= {"like": engine_of_unfinished(out)}
    own = isinstance(backbone, str)
    extractor: Extractor
    with watch.phase("start"):
        value_range = choose_value_range(value_range, out, manifest, max_pixels)
        if value_range and on_note:
            on_note(describe_value_range(value_range))
        asked["value_range"] = value_range
        if cluster:
            if device == "auto" and not cluster.gpus_per_worker:
                network["device"] = "cpu"  # Ray lets all workers see the machine's GPUs
            order = WorkerConfig(network if isinstance(backbone, str) else backbone, asked, engine, **how)
            extractor = RayExtractor(manifest, cluster, order, on_note)
        else:
            loaded = load_backbone(**network, lazy=True) if isinstance(backbone, str) else backbone
            spec = loaded.extract_spec(**asked)
            how |= {"watch": watch, "engine": engine if own else None}
            extractor = LocalExtractor(manifest, loaded, spec, **how)
    split: dict[str, Any] = {"val_fraction": val_fraction, "split_seed": split_seed, "allow_leak": allow_leak}
    columns = {"label_column": manifest.label_column, "skip_missing": skip_missing}
    split |= {name: value for name, value in columns.items() if value}
    split |= {} if manifest.held_out_seed is None else {"val_is_held_out": True}
    with closing(extractor):
        cache, made = _extract(extractor, manifest, out, split, watch, progress, strict, on_note)
    extracted, shown = int(np.count_nonzero(made)), int(made.sum())
    report = Report(
        method="extract",
        seconds=watch.seconds(),
        images=extracted,
        size_bytes=cache.size_bytes,
        spec_digest=extractor.spec.digest(),
        seed=seed,
        device=extractor.device_name,
        precision=extractor.precision,
    )
    return Extraction(
        cache,
        extracted,
        shown,
        cache.skipped,
        manifest.ignored,
        manifest.conflicts(),
        report,
        extractor.note,
        manifest.notes,
        named(manifest, extractor.remarks),
        manifest.source.name,
    )


def _extract(
    extractor: Extractor,
    manifest: Manifest,
    out: Path,
    split: dict[str, Any],
    watch: PhaseTimer,
    progress: Progress | None,
    strict: bool,
    on_note: Callable[[str], None] | None,
) -> tuple[FeatureCache, Views]:
    """The finished cache, and how many views of each row were made now."""
    spec, samples = extractor.spec, manifest.samples
    if out.exists():
        cache = FeatureCache.open(out)
        manifest, unread = keep_unread(cache, manifest)
        samples = manifest.samples
        if unread and on_note:
            on_note(unread_note(unread))
        cache.check_matches(spec, samples, manifest.source.name)
        if strict:
            refuse_unreadable(manifest, cache.skipped)
        return cache, np.zeros(len(samples), np.int64)
    out.parent.mkdir(parents=True, exist_ok=True)
    grids = [layer for layer in spec.layers if grid_side(parse_layer(layer)[1])]
    if grids and on_note:
        size = human_bytes(size_needed(spec, samples, extractor.dims))
        on_note(f"{out} will take about {size}: grids keep every place ({', '.join(grids)})")
    extractor.begin(expected_views(spec, samples))
    provenance = {**extractor.describe(), **split}
    check_loss(out, spec, samples)
    asides = stash_partial(out, spec, samples)
    with CacheWriter(out, spec, samples, extractor.dims, provenance, progress, fresh=True) as writer:
        for note in import_stashed(writer, asides, samples):
            if on_note:
                on_note(note)
        before = writer.done
        skipped = fill(writer, extractor, manifest, watch, progress, strict)
        with watch.phase("stop"):
            extractor.close()  # where nothing was missing, what it has begun need not be decoded
        cache = writer.finish(skipped)
    return cache, cache.done - before


def fill(
    writer: CacheWriter,
    extractor: Extractor,
    manifest: Manifest,
    watch: PhaseTimer,
    progress: Progress | None = None,
    strict: bool = False,
) -> dict[int, str]:
    """Extract all pending views; returns row -> reason of the images that could not be read.

    Raises
    ------
    EmptyFolderError : none of them can be read. UnreadableImageError : one cannot, if `strict`, or where it has some of
    its views. CacheSpaceError
    """
    total, left, skipped = len(manifest.samples), len(writer.pending()), extractor.skipped
    for rows, features, first_view in extractor.extract(writer.expected_views, writer.done):
        with watch.phase("write"):
            skipped.update(writer.write(rows, features, first_view))
        left -= len(rows)
        if strict:
            refuse_unreadable(manifest, named(manifest, skipped))
        if progress:
            progress("extract", total - left, total)
    if strict:
        refuse_unreadable(manifest, named(manifest, skipped))
    if progress and skipped:
        progress("extract", total, total)
    lost = sorted(row for row in skipped if writer.done[row] > 0)
    if lost:
        where, reason = manifest.where(manifest.samples.ids[lost[0]]), skipped[lost[0]]
        raise UnreadableImageError(
            f"{len(lost)} images that have features need more views and cannot be read now, for example {where}: "
            f"{reason}. What was extracted is kept. Make them readable, or remove them from the data, then run the "
            "same command again."
        )
    if len(skipped) == total:
        row, reason = next(iter(skipped.items()))
        raise EmptyFolderError(
            f"none of the {total} images of {manifest.source.name} could be read; {manifest.samples.ids[row]}: {reason}"
        )
    return skipped


def named(manifest: Manifest, texts: Mapping[int, str]) -> list[tuple[str, str]]:
    """Pairs (id, text) for what is said of rows, in their order."""
    return [(manifest.samples.ids[row], text) for row, text in sorted(texts.items())]


def unread_note(ids: Sequence[str]) -> str:
    """What is said of images whose features are kept though their files cannot be read."""
    return f"{len(ids)} images cannot be read now (for example {printable(ids[0])}): their features are kept"


def refuse_unreadable(manifest: Manifest, skipped: Sequence[tuple[str, str]]) -> None:
    """Raise UnreadableImageError for the first of the skipped images, pairs (id, reason), if there is one."""
    for name, reason in skipped:
        raise UnreadableImageError(
            f"{manifest.where(name)} cannot be read: {reason}. Mend or remove it, or extract without --strict, which "
            "skips and lists such images. What was extracted so far is kept."
        )
