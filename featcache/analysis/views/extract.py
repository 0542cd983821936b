"""`extract`: an extraction whose views may be chosen by a trial."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack, cast

from featcache._utils.determinism import deterministic_on_request
from featcache._utils.monitor import Monitor
from featcache._utils.progress_bar import ProgressOption
from featcache.backbones.encoder import Encoder
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.paths import on_disk, partial_path
from featcache.core.options import (
    AutoExtractArguments,
    ExtractArguments,
    RuntimeOptions,
    manifest_keywords,
    select,
    takes_options,
)
from featcache.core.ray_cluster import Cluster
from featcache.core.view_specs.registry import VIEW_SPECS
from featcache.data.manifest import Manifest, read_manifest
from featcache.errors import BackboneError, SpecError
from featcache.extraction.extract import extract as extract_views
from featcache.extraction.results import Extraction
from featcache.extraction.update import change_views
from featcache.extraction.update_plan import VIEW_TRIAL

AUTO = "auto"


@takes_options(AutoExtractArguments)
@deterministic_on_request(BackboneError)
def extract(
    data: str | os.PathLike[str] | Manifest,
    out: str | os.PathLike[str],
    *,
    backbone: str | Encoder | None = None,
    strict: bool = False,
    cluster: Cluster | None = None,
    progress: ProgressOption = None,
    on_note: Callable[[str], None] | None = None,
    **options: Unpack[AutoExtractArguments],
) -> Extraction:
    """Extract the features of all images of `data` into the cache `out`.

    A training image gets the clean view and `views` augmented ones, a val or test image the clean view and
    `val_views` augmented ones. An interrupted call resumes when it is repeated. A complete cache that fits is left
    unchanged.

    With ``views="auto"`` the cache first gets the clean views and is complete. A trial on at most 400 training samples
    then compares recipes (gentle, gentle-flip, crop and tutorial, for texts word-dropout and sentence-crop, and
    `augment`, if it is another one), with 1, 2 and 4 views each, by cross-validation; see
    `featcache.heads.tuning.view_selection.select_views`. Only if views lower the log-loss, they are added for all
    training samples. The provenance of the cache has the outcome, so that a repeated call finds it; it repeats the
    trial if that did not compare `augment`.

    Parameters
    ----------
    data : str, path or Manifest
        Labelled images, see `read_manifest`.
    out : str or path
        The cache file to write.
    backbone : str, Backbone, TextEncoder or None, default None
        The frozen network: a name, see `load_backbone` and, for texts, `load_text_encoder`; or a network, which brings
        its own weights, layers, device, precision and engine. None: 'efficientnet_lite0', for texts 'all-minilm-l6-v2'.
    strict : bool, default False
        Stop at the first unreadable image instead of skipping and listing it.
    cluster : Cluster or None, default None
        Nodes of a Ray cluster that extract. `device` and `workers` then hold for each node. A worker without GPUs
        computes on its cores. None: this machine.
    progress : callable, bool or None, default None
        Called as progress(step, done, total); True shows a bar.
    on_note : callable or None, default None
        Called with one line of text: how the data was read, how large a cache of grids will be, why a worker failed.
    {options}

    Returns
    -------
    Extraction
        The cache, the images that were skipped, the outcome of the trial, and the seconds by phase.

    Raises
    ------
    ImageError
        No image can be read, or one cannot be read with `strict`; the folder or the manifest is not valid.
    BackboneError
        The network or its weights cannot be loaded.
    CacheMismatchError
        `out` holds features of other settings or other images.
    CacheBusyError
        Another process writes `out`.
    ClusterError
        The cluster has no suitable node.
    SpecError
        An option is not possible, or not with ``views="auto"``.

    Examples
    --------
    The folder `photos` holds sixteen images, four of which become val. The network is small and has random weights, so
    that the example takes no time; without `backbone` and `weights` it is the embedded one.

    >>> import featcache
    >>> extraction = featcache.extract("photos", "cache.h5", backbone="timm/test_resnet", weights="none", views=4)
    >>> extraction.cache.features("train").x.shape
    (12, 5, 96)
    """
    shared: dict[str, Any] = {"backbone": backbone, "strict": strict}
    if options["views"] != AUTO:
        numbers = cast(ExtractArguments, options)
        return extract_views(data, out, **shared, cluster=cluster, progress=progress, on_note=on_note, **numbers)
    if cluster:
        raise SpecError("views are chosen on one machine: with a cluster, give their number")
    if options["val_views"]:
        raise SpecError("views may turn out to be 0: with val_views, give their number")
    monitor, path = Monitor(progress, on_note), on_disk(out)
    with monitor.phase("hash"):
        manifest = read_manifest(data, **manifest_keywords(options), progress=monitor.progress)
        manifest.labeled("--views auto")
    shared |= {**options, "progress": monitor.progress, "on_note": on_note}
    run = partial(extract_views, manifest, path, **shared)
    augment, defaults = options["augment"], VIEW_SPECS.get(manifest.modality.name).recipes.trial
    recipes = defaults if augment is None or augment in (*defaults, "none") else (*defaults, augment)
    finished = FeatureCache.open(path) if path.exists() else None
    had_trial = finished is not None and VIEW_TRIAL in finished.provenance
    if finished and had_trial:
        first = run(views=finished.spec.views, augment=finished.spec.view.augment)
        if outcome := _outcome(finished, recipes):
            return replace(first, view_trial=outcome)
    else:
        first = run(views=0)
    network = None if isinstance(backbone, str) else backbone
    runtime = select(RuntimeOptions, options)
    unfinished = _unfinished(path)
    record = unfinished and _outcome(unfinished, recipes)
    if unfinished and record:
        views, augment = unfinished.spec.views, unfinished.spec.view.augment
    else:
        if had_trial:
            monitor.note(f"the trial of {path} did not compare {augment}: it is repeated")
        with monitor.phase("trial"):
            from featcache.analysis.views.trial import run_trial  # scikit-learn takes a second

            trial = run_trial(first.cache, manifest, network, recipes, options["seed"], runtime, monitor)
        monitor.note(trial.text.splitlines()[0])
        record, views = trial.to_record(), trial.views
        augment = trial.recipe or first.cache.spec.view.augment
    started = time.perf_counter()
    added = change_views(first.cache, manifest, views, augment, {VIEW_TRIAL: record}, network, runtime, monitor)
    if added.cache is None:
        raise AssertionError("a changed cache is written")
    seconds = {**first.report.seconds, **monitor.seconds(), "views": time.perf_counter() - started}
    report = replace(
        first.report,
        seconds=seconds,
        images=max(first.extracted, added.extracted),
        size_bytes=added.cache.size_bytes,
        spec_digest=added.cache.spec.digest(),
    )
    return replace(
        first,
        cache=added.cache,
        extracted=report.images,
        shown=first.shown + added.shown,
        report=report,
        view_trial=record,
    )


def _outcome(cache: FeatureCache, recipes: Collection[str]) -> Mapping[str, Any] | None:
    """The record in the provenance of a cache of a trial that compared these recipes."""
    record = cache.provenance.get(VIEW_TRIAL)
    if not isinstance(record, dict):
        return None
    return record if {*recipes} <= {*record.get("recipes", cache.spec.view.recipes.trial)} else None


def _unfinished(path: Path) -> FeatureCache | None:
    """The cache to which a killed call was adding views."""
    partial = partial_path(path)
    return FeatureCache.open(partial, partial=True) if partial.exists() else None
