"""`update`: bring a cache up to date with its images; what it holds already is carried over, not extracted again."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from featcache._utils.formatting import human_bytes, printable
from featcache._utils.progress_bar import Progress, ProgressOption, as_callback
from featcache._utils.results import NotebookResult
from featcache._utils.timing import PhaseTimer
from featcache.backbones.backbone import Backbone
from featcache.backbones.engines.base import EngineName
from featcache.backbones.load import load_backbone_of
from featcache.cache.checksums import damaged_rows
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.format.layout import expected_views
from featcache.cache.paths import on_disk
from featcache.cache.reuse import Loss, RowMatches, copy_rows, import_stashed, keep_unread, match_rows, stash_partial
from featcache.cache.writer import CacheWriter
from featcache.core.data_summary import DataSummary
from featcache.core.samples import Samples
from featcache.core.specs import MAX_PIXELS, ExtractSpec
from featcache.data.input_notes import input_notes, list_inputs, remark_notes, write_list
from featcache.data.manifest import Manifest, read_manifest
from featcache.errors import CacheDamagedError, CacheMismatchError
from featcache.extraction.estimate import Estimate, measure
from featcache.extraction.extract import fill, named, refuse_unreadable, unread_note
from featcache.extraction.extractor import LocalExtractor

if TYPE_CHECKING:
    from torch import nn


class Machine(TypedDict, total=False):
    """What decides how fast features are made, not their values, and what is called on the way: as in `extract`.

    backbone : the network, where it is the user's own, see `load_backbone_of`.
    """

    batch_size: int | None
    workers: int | None
    device: str
    engine: EngineName
    max_pixels: int
    strict: bool
    progress: ProgressOption
    on_note: Callable[[str], None] | None
    backbone: Backbone | nn.Module | None


@dataclass(frozen=True, repr=False)
class Update(NotebookResult):
    """What `update` or `repair` did, or would do.

    changes : ids by kind of change, see `Samples.changes`. damaged : ids of rows without their checksum.
    problem : of the old cache's marks of what is there. views : K before and after. carried : images whose features
    are taken over. extracted : images that went through the network, in shown views. ignored, conflicts, skipped : as
    in `Extraction`. cache : the new cache; None in a dry run. estimate : of a dry run that would extract.
    note : what the user should know of the network's engine. data : what was understood of the data, by `update`.
    remarks : pairs (id, what is odd about the image), of those extracted by this call.
    unread : ids of images that cannot be read now, and whose features are kept. loss : images whose features are
    dropped.
    """

    path: Path
    damaged: list[str]
    problem: str
    views: tuple[int, int]
    carried: int
    skipped: list[tuple[str, str]]
    changes: dict[str, list[str]] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)
    conflicts: list[tuple[str, str]] = field(default_factory=list)
    extracted: int = 0
    shown: int = 0
    cache: FeatureCache | None = None
    estimate: Estimate | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    note: str = ""
    remarks: list[tuple[str, str]] = field(default_factory=list)
    data: DataSummary | None = None
    unread: list[str] = field(default_factory=list)
    loss: Loss = field(default_factory=lambda: Loss(0, 0))

    def write_list(self, path: str | os.PathLike[str]) -> None:
        """All changed, damaged and skipped images and conflicts as CSV; whole or not at all."""
        changes = {**self.changes, **({"damaged": self.damaged} if self.damaged else {})}
        write_list(path, list_inputs(self.conflicts, self.skipped, changes, self.remarks))

    @property
    def nothing(self) -> bool:
        """Whether the cache was up to date."""
        return not (self.changes or self.damaged or self.problem) and self.views[0] == self.views[1]

    def __str__(self) -> str:
        """For people."""
        if self.nothing:
            return "\n".join([f"{self.path} is up to date", *self._notes()])
        lines = [f"{len(names)} {kind} (for example {printable(names[0])})" for kind, names in self.changes.items()]
        lines += [f"{len(self.damaged)} damaged (for example {printable(self.damaged[0])})"] if self.damaged else []
        lines += [f"damaged: {self.problem}"] if self.problem else []
        lines += [f"views: {self.views[0]} before, {self.views[1]} now"] if self.views[0] != self.views[1] else []
        will = "would be " if self.cache is None else ""
        lines.append(f"{self.carried} images {will}carried over, {self.extracted} {will}extracted ({self.shown} views)")
        lines += [str(self.estimate)] if self.estimate else [self.note] if self.note else []
        lines += [*self._notes(), *remark_notes(self.remarks)]
        if self.cache:
            lines.append(f"{self.path}: {len(self.cache.samples)} images, {human_bytes(self.cache.size_bytes)}")
        return "\n".join(lines)

    def _notes(self) -> list[str]:
        """Of images that are not used."""
        notes = [f"{self.loss}, would be dropped: this needs --yes"] if not self.cache and self.loss.is_large else []
        notes += [unread_note(self.unread)] if self.unread else []
        notes += input_notes(self.ignored, self.conflicts, self.skipped)
        missing = self.cache.summary().missing if self.cache else ""
        return [*notes, missing] if missing else notes

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "cache": str(self.path),
            "changes": self.changes,
            "damaged": self.damaged,
            "problem": self.problem,
            "views": list(self.views),
            "carried": self.carried,
            "extracted": self.extracted,
            "shown": self.shown,
            "dry_run": self.cache is None and not self.nothing,
            "ignored": self.ignored,
            "conflicts": [list(pair) for pair in self.conflicts],
            "estimate": self.estimate.to_dict() if self.estimate else None,
            "skipped": [{"path": name, "reason": reason} for name, reason in self.skipped],
            "unread": self.unread,
            "dropped": self.loss.lost,
            "seconds": self.seconds,
            "note": self.note,
            "remarks": [{"path": name, "remark": remark} for name, remark in self.remarks],
            "data": self.data.to_dict() if self.data else None,
        }


def update(
    path: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    views: int | None = None,
    weights: str | None = None,
    allow_leak: bool | None = None,
    label_column: str | None = None,
    skip_missing: bool | None = None,
    retry: bool = False,
    dry_run: bool = False,
    allow_loss: bool | Callable[[str], bool] = False,
    **machine: Unpack[Machine],
) -> Update:
    """Make a cache that fits `data` now, and put it in the place of the old one.

    New and changed images, told by content, are extracted; removed ones are dropped; renamed, relabelled and
    moved ones are carried over; of more views only the missing ones are extracted. Damaged rows are extracted
    again. Until the new cache is whole the old one stays; a run that was killed goes on.

    Parameters
    ----------
    views : K; None keeps it. weights : where the network's weights lie now, if they have moved.
    allow_leak, label_column, skip_missing : see `read_manifest`; None does as the cache was made.
    retry : try skipped images again, though nothing has changed.
    dry_run : change nothing; say what would be done, and measure what it would cost.
    allow_loss : bool or callable, default False. Whether to go on where the features of more than a quarter of the
        images would be dropped, as of a wrong folder; a callable is asked, with what would be dropped.
    machine : see `Machine`; all that decides a feature is the cache's own.

    Raises
    ------
    CacheError, ImageError, BackboneError
    CacheMismatchError : of more than a quarter of the images the features would be dropped, see `allow_loss`.
    """
    watch, progress = PhaseTimer(), as_callback(machine.get("progress"))
    machine["progress"] = progress  # one bar for all steps
    old = FeatureCache.open(on_disk(path), damaged=True)
    old.require_images("updating from images")
    changed = {"allow_leak": allow_leak, "label_column": label_column, "skip_missing": skip_missing}
    options = {**old.split_options, **{name: value for name, value in changed.items() if value is not None}}
    with watch.phase("hash"):
        manifest = read_manifest(data, **options, progress=progress)
    understood = manifest.summary()
    if on_note := machine.get("on_note"):
        on_note(str(understood))
    manifest, unread = keep_unread(old, manifest)
    loss = Loss.between(old, manifest.samples)
    if loss.is_large and not dry_run:
        _confirm(old, loss, os.fspath(data), allow_loss)
    spec = replace(old.spec, views=old.spec.views if views is None else views)
    damaged = _damaged(old, watch, progress)
    origins = match_rows(old, manifest.samples, expected_views(spec, manifest.samples), damaged)
    result = Update(
        path=old.path,
        changes=old.samples.changes(manifest.samples),
        damaged=[old.samples.ids[row] for row in damaged],
        problem=old.problem,
        views=(old.spec.views, spec.views),
        carried=int(np.count_nonzero(origins.views)),
        ignored=manifest.ignored,
        conflicts=manifest.conflicts(),
        skipped=old.skipped,
        data=understood,
        unread=unread,
        loss=loss,
    )
    if result.nothing and not (retry and old.skipped):
        if machine.get("strict"):
            refuse_unreadable(manifest, old.skipped)
        return replace(result, seconds=watch.seconds())
    return _renew(old, result, spec, manifest.samples, manifest, origins, watch, weights, dry_run, machine)


def repair(
    path: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    weights: str | None = None,
    **machine: Unpack[Machine],
) -> Update:
    """Extract the damaged rows of a cache again, and nothing else: its samples stay what they are.

    Parameters
    ----------
    data : where the images are, by whatever name and label: they are told by content.
    Others : as in `update`.

    Raises
    ------
    CacheDamagedError : the image of a damaged row is not in `data`; nothing was changed. Others as `update`.
    """
    watch, progress = PhaseTimer(), as_callback(machine.get("progress"))
    machine["progress"] = progress  # one bar for all steps
    old = FeatureCache.open(on_disk(path), damaged=True)
    old.require_images("a repair from images")
    damaged = _damaged(old, watch, progress)
    origins = match_rows(old, old.samples, old.layout.expected_views, damaged)
    result = Update(
        path=old.path,
        damaged=[old.samples.ids[row] for row in damaged],
        problem=old.problem,
        views=(old.spec.views, old.spec.views),
        carried=int(np.count_nonzero(origins.views)),
        skipped=old.skipped,
    )
    if result.nothing:
        return replace(result, seconds=watch.seconds())
    with watch.phase("hash"):
        manifest = read_manifest(data, **{**old.split_options, "allow_leak": True}, progress=progress)
    name = {content.tobytes(): manifest.samples.ids[row] for row, content in enumerate(manifest.samples.sha256)}
    there = [name.get(content.tobytes()) for content in old.samples.sha256]
    lost = [old.samples.ids[row] for row in damaged if there[row] is None and not origins.views[row]]
    if lost:
        raise CacheDamagedError(
            f"{len(lost)} damaged images of {path} are not in {data} (for example {lost[0]}); nothing was changed. "
            "Put them there, or drop them with `featcache update`."
        )
    ids = tuple(new or old_name for new, old_name in zip(there, old.samples.ids, strict=True))
    places = Manifest(manifest.source, replace(old.samples, ids=ids), {})
    return _renew(old, result, old.spec, old.samples, places, origins, watch, weights, False, machine)


def _confirm(old: FeatureCache, loss: Loss, data: str, allowed: bool | Callable[[str], bool]) -> None:
    """Ask whether so much may be dropped. Raises CacheMismatchError."""
    if not (allowed(f"{loss}, are not in {data}. Drop their features?") if callable(allowed) else allowed):
        raise CacheMismatchError(
            f"{old.path} is unchanged: {loss}, are not in {data}. Is it the right folder, and is every disk there? "
            "Look with --dry-run; to drop their features, go on with --yes."
        )


def _damaged(old: FeatureCache, watch: PhaseTimer, progress: Progress | None) -> NDArray[np.int64]:
    """Rows without their checksum."""
    n = len(old.samples)
    tick = (lambda done: progress("verify", done, n)) if progress else None
    with watch.phase("verify"):
        return damaged_rows(old.layout, np.arange(n), tick)


def _renew(
    old: FeatureCache,
    result: Update,
    spec: ExtractSpec,
    samples: Samples,
    manifest: Manifest,
    origins: RowMatches,
    watch: PhaseTimer,
    weights: str | None,
    dry_run: bool,
    machine: Machine,
) -> Update:
    """Carry over what the origins gives, extract the rest from the manifest's files, swap."""
    progress, batch_size = as_callback(machine.get("progress")), machine.get("batch_size")
    workers, max_pixels = machine.get("workers"), machine.get("max_pixels", MAX_PIXELS)
    missing = expected_views(spec, samples) - origins.views
    result = replace(result, extracted=int(np.count_nonzero(missing)), shown=int(missing.sum()))
    backbone = (
        network_of(old, weights, machine.get("device", "auto"), machine.get("backbone")) if missing.any() else None
    )
    if backbone:
        like = str(old.provenance.get("engine", ""))
        backbone.select_engine(spec.view.image_size, machine.get("engine", "auto"), int(missing.sum()), like)
        result = replace(result, note=backbone.note)
    if dry_run:
        if backbone:
            cost = measure(old.path, manifest, backbone, spec, missing, batch_size, workers, max_pixels, progress)
            result = replace(result, estimate=cost)
        return replace(result, seconds=watch.seconds())
    extractor = backbone and LocalExtractor(
        manifest,
        backbone,
        spec,
        engine=None,
        batch_size=batch_size,
        workers=workers,
        max_pixels=max_pixels,
        watch=watch,
    )
    provenance = {**old.provenance, **(extractor.describe() if extractor else {})}
    if samples is manifest.samples:  # not of a repair, which leaves the split as it is
        provenance.pop("val_is_held_out", None)
        provenance |= {} if manifest.held_out_seed is None else {"val_is_held_out": True}
    asides, on_note = stash_partial(old.path, spec, samples), machine.get("on_note")
    with CacheWriter(old.path, spec, samples, old.dims, provenance, progress) as writer:
        with watch.phase("carry"):
            copy_rows(writer, old, origins)
            for note in import_stashed(writer, asides, samples):
                if on_note:
                    on_note(note)
        before = writer.done
        skipped: dict[int, str] = {}
        if extractor:
            with closing(extractor):
                skipped = fill(writer, extractor, manifest, watch, progress, machine.get("strict", False))
        cache = writer.finish(skipped)
    new = cache.done - before
    return replace(
        result,
        extracted=int(np.count_nonzero(new)),
        shown=int(new.sum()),
        cache=cache,
        skipped=cache.skipped,
        remarks=named(manifest, extractor.remarks) if extractor else [],
        seconds=watch.seconds(),
    )


def network_of(
    old: FeatureCache, weights: str | None, device: str, backbone: Backbone | nn.Module | None = None
) -> Backbone:
    """The network that made a cache. Raises BackboneError; CacheMismatchError : its weights are others now."""
    spec = old.spec
    network = load_backbone_of(
        spec,
        old.path,
        backbone=backbone,
        weights=weights or old.provenance.get("weights", "pretrained"),
        layers=spec.layers,
        device=device,
        precision=spec.precision,
        lazy=True,
    )
    if network.weights_sha256 != spec.weights_sha256:
        given = "--backbone" if backbone is not None else network.weights
        raise CacheMismatchError(
            f"{old.path} was made with weights {spec.weights_sha256[:12]}..., those of {given} are "
            f"{network.weights_sha256[:12]}.... Give the right file with --weights, or extract again to another file."
        )
    return network
