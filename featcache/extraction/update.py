"""`update` and `repair`: extract the missing rows and views of a cache, and copy the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from featcache._utils.determinism import deterministic_on_request
from featcache._utils.monitor import Monitor
from featcache._utils.progress_bar import ProgressOption
from featcache.backbones.encoder import Encoder
from featcache.cache.checksums import damaged_rows
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.format.layout import EXTRACT_S, ON_DEVICE, expected_views
from featcache.cache.mismatch import check_source
from featcache.cache.paths import on_disk
from featcache.cache.reuse import Loss, RowMatches, copy_rows, import_stashed, keep_unread, match_rows, stash_partial
from featcache.cache.writer import CacheWriter
from featcache.core.options import RuntimeOptions, takes_options
from featcache.core.specs import ExtractSpec, cached_augment
from featcache.data.manifest import Manifest, read_manifest
from featcache.errors import BackboneError, CacheDamagedError, CacheMismatchError
from featcache.extraction.estimate import measure
from featcache.extraction.extractor import LocalExtractor
from featcache.extraction.fill import fill_cache, reject_unreadable
from featcache.extraction.pipelines.registry import refuse_foreign_options
from featcache.extraction.plan import ExtractionPlan
from featcache.extraction.results import Update, with_ids
from featcache.extraction.update_plan import UpdatePlan

if TYPE_CHECKING:
    from torch import nn


@takes_options(RuntimeOptions)
@deterministic_on_request(BackboneError)
def update(
    path: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    views: int | None = None,
    augment: str | None = None,
    weights: str | None = None,
    backbone: Encoder | nn.Module | None = None,
    allow_leak: bool | None = None,
    label_column: str | None = None,
    text_column: str | None = None,
    skip_missing: bool | None = None,
    retry: bool = False,
    strict: bool = False,
    dry_run: bool = False,
    allow_loss: bool | Callable[[str], bool] = False,
    progress: ProgressOption = None,
    on_note: Callable[[str], None] | None = None,
    **runtime: Unpack[RuntimeOptions],
) -> Update:
    """Bring the cache `path` up to date with `data`.

    Images are compared by content. New and changed images are extracted, removed ones are dropped, renamed and
    relabelled ones keep their features, and so do those that get their first label or lose it. Of images that come into
    train only the augmented views are extracted. Damaged rows are extracted again. The old cache stays until the new
    one is complete; an interrupted call resumes when it is repeated.

    Parameters
    ----------
    path : str or path
        The cache.
    data : str or path
        Images with or without labels, see `read_manifest`.
    views : int or None, default None
        Number of augmented views (K) of each training image. None: as before.
    augment : str or None, default None
        Recipe of the augmented views, see `extract`. With another recipe the clean features are kept, and the augmented
        views are extracted again. None: as before, or that of `extract` if the cache has no augmented views.
    weights : str or None, default None
        Where the weights of the network are now. None: where they were.
    backbone : Backbone, TextEncoder, nn.Module or None, default None
        The network itself, where featcache cannot load it by name.
    allow_leak : bool or None, default None
        Accept images of val or test that are also in train. None: as the cache was made.
    label_column : str or None, default None
        Column of the labels, see `read_manifest`. None: as the cache was made.
    text_column : str or None, default None
        Column of the texts, see `read_manifest`. None: as the cache was made.
    skip_missing : bool or None, default None
        Skip images of a manifest whose files are missing. None: as the cache was made.
    retry : bool, default False
        Try again to read skipped images, although nothing has changed.
    strict : bool, default False
        Stop at the first unreadable image instead of skipping and listing it.
    dry_run : bool, default False
        Change nothing; report what would be done and measure what it would cost.
    allow_loss : bool or callable, default False
        Whether to continue where the features of more than a quarter of the images would be dropped, as with a wrong
        folder. A callable is called with a question and returns the answer.
    progress : callable, bool or None, default None
        Called as progress(step, done, total); True shows a bar.
    on_note : callable or None, default None
        Called with one line of text: how the data was read, and what was dropped of an unfinished call.
    {options}

    Returns
    -------
    Update

    Raises
    ------
    CacheMismatchError
        Too many features would be dropped, see `allow_loss`; or the weights of the network have changed.
    CacheError
        The cache is damaged beyond repair, or another process writes it.
    ImageError
        The folder or the manifest is not valid, or an image cannot be read with `strict`.
    BackboneError
        The network or its weights cannot be loaded.

    Examples
    --------
    >>> import featcache
    >>> extraction = featcache.extract("photos", "cache.h5", backbone="timm/test_resnet", weights="none", views=0)
    >>> print(featcache.update("cache.h5", "photos"))
    cache.h5 is up to date
    """
    monitor = Monitor(progress, on_note)
    old = FeatureCache.open(on_disk(path), damaged=True)
    old.require_images("updating from images")
    changed = {
        "allow_leak": allow_leak,
        "label_column": label_column,
        "text_column": text_column,
        "skip_missing": skip_missing,
    }
    split = {**old.split_options, **{name: value for name, value in changed.items() if value is not None}}
    with monitor.phase("hash"):
        manifest = read_manifest(data, **split, progress=monitor.progress)
    check_source(old.path, old.spec, manifest.source)
    refuse_foreign_options(manifest, runtime)
    summary = manifest.summary()
    monitor.note(str(summary))
    manifest, unread = keep_unread(old, manifest)
    loss = Loss.between(old, manifest.samples)
    if loss.is_large and not dry_run:
        _confirm(old, loss, os.fspath(data), allow_loss)
    plan, damaged = _plan(old, manifest, views, augment, monitor)
    spec, matches = plan.spec, plan.matches
    result = replace(
        _compare(old, spec, matches, damaged),
        changes=old.samples.changes(manifest.samples),
        ignored=manifest.ignored,
        conflicts=manifest.conflicts(),
        data=summary,
        unread=unread,
        loss=loss,
    )
    if result.nothing and not (retry and old.skipped):
        if strict:
            reject_unreadable(manifest, old.skipped)
        return replace(result, seconds=monitor.seconds())
    extraction = plan.load(weights, backbone, runtime)
    if dry_run:
        missing = plan.missing
        result = replace(result, extracted=int(np.count_nonzero(missing)), shown=int(missing.sum()))
        if extraction:
            cost = measure(old.path, manifest, extraction, missing, monitor)
            result = replace(result, note=cost.note, estimate=cost)
        return replace(result, seconds=monitor.seconds())
    return _write(plan, result, extraction, strict, monitor)


@takes_options(RuntimeOptions)
@deterministic_on_request(BackboneError)
def repair(
    path: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    weights: str | None = None,
    backbone: Encoder | nn.Module | None = None,
    strict: bool = False,
    progress: ProgressOption = None,
    on_note: Callable[[str], None] | None = None,
    **runtime: Unpack[RuntimeOptions],
) -> Update:
    """Extract the damaged rows of the cache `path` again; its images, labels and split stay unchanged.

    Parameters
    ----------
    path : str or path
        The cache.
    data : str or path
        The images, under any name and label: they are compared by content.
    weights : str, optional
        Where the weights of the network are now; see `update`.
    backbone : Backbone, TextEncoder or torch.nn.Module, optional
        The network, if it has no name; see `update`.
    strict : bool, default False
        Raise an error if an image cannot be read, instead of listing it.
    progress : bool or callable, optional
        True draws a bar; a function is called as progress(what, done, total).
    on_note : callable, optional
        Called with each note on what was done.
    {options}

    Returns
    -------
    Update

    Raises
    ------
    CacheDamagedError
        The image of a damaged row is not in `data`; nothing was changed.
    CacheMismatchError
        The weights of the network have changed.
    ImageError
        The folder or the manifest is not valid, or an image cannot be read with `strict`.
    BackboneError
        The network or its weights cannot be loaded.

    Examples
    --------
    >>> import featcache
    >>> extraction = featcache.extract("photos", "sound.h5", backbone="timm/test_resnet", weights="none", views=0)
    >>> featcache.repair("sound.h5", "photos").damaged
    []
    """
    monitor = Monitor(progress, on_note)
    old = FeatureCache.open(on_disk(path), damaged=True)
    old.require_images("a repair from images")
    damaged = _damaged(old, monitor)
    matches = match_rows(old, old.samples, old.layout.expected_views, damaged)
    result = _compare(old, old.spec, matches, damaged)
    if result.nothing:
        return replace(result, seconds=monitor.seconds())
    with monitor.phase("hash"):
        manifest = read_manifest(data, **{**old.split_options, "allow_leak": True}, progress=monitor.progress)
    check_source(old.path, old.spec, manifest.source)
    new_names = {content.tobytes(): manifest.samples.ids[row] for row, content in enumerate(manifest.samples.sha256)}
    names = [new_names.get(content.tobytes()) for content in old.samples.sha256]
    lost = [old.samples.ids[row] for row in damaged if names[row] is None and not matches.views[row]]
    if lost:
        raise CacheDamagedError(
            f"{len(lost)} damaged {old.spec.modality}s of {path} are not in {data} (for example {lost[0]}); nothing "
            "was changed. Put them there, or drop them with `featcache update`."
        )
    ids = tuple(new or old_name for new, old_name in zip(names, old.samples.ids, strict=True))
    files = Manifest(manifest.source, replace(old.samples, ids=ids), {})
    plan = UpdatePlan(old, old.spec, old.samples, files, matches)
    return _write(plan, result, plan.load(weights, backbone, runtime), strict, monitor)


def change_views(
    cache: FeatureCache,
    manifest: Manifest,
    views: int,
    augment: str,
    record: Mapping[str, Any],
    backbone: Encoder | None,
    runtime: RuntimeOptions,
    monitor: Monitor,
) -> Update:
    """Give a finished cache other views, and its provenance a record; see `update`.

    manifest : the images of the cache. backbone : its network; None loads it by its name.
    """
    manifest, _ = keep_unread(cache, manifest)
    plan, damaged = _plan(cache, manifest, views, augment, monitor)
    plan = replace(plan, record=record)
    result = _compare(cache, plan.spec, plan.matches, damaged)
    return _write(plan, result, plan.load(None, backbone, runtime), False, monitor)


def _plan(
    old: FeatureCache, manifest: Manifest, views: int | None, augment: str | None, monitor: Monitor
) -> tuple[UpdatePlan, NDArray[np.int64]]:
    """What becomes of a cache with these views, and its damaged rows. The clean view is that of every recipe."""
    views = old.spec.views if views is None else views
    if augment is None:
        is_kept = old.spec.views or not views
        augment = old.spec.view.augment if is_kept else cached_augment(None, views, old.spec.modality)
    view = old.spec.view.with_augment(augment)
    spec = replace(old.spec, views=views, view=view)
    damaged = _damaged(old, monitor)
    expected = expected_views(spec, manifest.samples)
    matches = match_rows(old, manifest.samples, expected if view == old.spec.view else np.minimum(expected, 1), damaged)
    return UpdatePlan(old, spec, manifest.samples, manifest, matches), damaged


def _compare(old: FeatureCache, spec: ExtractSpec, matches: RowMatches, damaged: NDArray[np.int64]) -> Update:
    """The result before anything is written."""
    return Update(
        path=old.path,
        damaged=[old.samples.ids[row] for row in damaged],
        problem=old.problem,
        views=(old.spec.views, spec.views),
        recipes=(old.spec.view.augment, spec.view.augment),
        carried=int(np.count_nonzero(matches.views)),
        skipped=old.skipped,
        modality=old.spec.modality,
    )


def _confirm(old: FeatureCache, loss: Loss, data: str, allowed: bool | Callable[[str], bool]) -> None:
    """Ask whether the features of so many images may be dropped. Raises CacheMismatchError if not."""
    if not (allowed(f"{loss}, are not in {data}. Drop their features?") if callable(allowed) else allowed):
        raise CacheMismatchError(
            f"{old.path} is unchanged: {loss}, are not in {data}. Is it the right folder, and is every disk there? "
            "Check with --dry-run; --yes drops their features."
        )


def _damaged(old: FeatureCache, monitor: Monitor) -> NDArray[np.int64]:
    """Rows that do not match their checksum."""
    n = len(old.samples)
    with monitor.phase("verify"):
        return damaged_rows(old.layout, np.arange(n), lambda rows_done: monitor.report("verify", rows_done, n))


def _write(
    plan: UpdatePlan, result: Update, extraction: ExtractionPlan | None, strict: bool, monitor: Monitor
) -> Update:
    """Copy the matching rows, extract the others, and replace the old cache.

    Parameters
    ----------
    extraction : ExtractionPlan or None
        None where nothing is to be extracted.
    """
    old, samples = plan.old, plan.samples
    extractor = extraction and LocalExtractor(plan.manifest, extraction, monitor.timer)
    stashed = stash_partial(old.path, plan.spec, samples)
    provenance = plan.provenance(extraction)
    optional = (EXTRACT_S, ON_DEVICE) if plan.counts_device_views(extraction) else (EXTRACT_S,)
    with CacheWriter(old.path, plan.spec, samples, old.dims, provenance, monitor.progress, optional=optional) as writer:
        with monitor.phase("carry"):
            copy_rows(writer, old, plan.matches)
            for note in import_stashed(writer, stashed, samples):
                monitor.note(note)
        views_before = writer.done
        skipped: dict[int, str] = {}
        if extractor:
            with closing(extractor):
                skipped = fill_cache(writer, extractor, monitor, strict)
        cache = writer.finish(skipped)
    views_extracted = cache.done - views_before
    return replace(
        result,
        extracted=int(np.count_nonzero(views_extracted)),
        shown=int(views_extracted.sum()),
        note=extraction.note if extraction else "",
        cache=cache,
        skipped=cache.skipped,
        remarks=with_ids(plan.manifest.samples, extractor.remarks) if extractor else [],
        seconds=monitor.seconds(),
    )
