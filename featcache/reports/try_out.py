"""`try_out`: from a folder or table of samples to a head, a report and a list of probable label errors, in one call."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from featcache._utils.formatting import brief, plural
from featcache._utils.progress_bar import ProgressOption, as_callback
from featcache._utils.timing import PhaseTimer
from featcache.analysis.doctor.doctor import doctor
from featcache.backbones.encoder import Encoder
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.reuse import Loss
from featcache.core.bit_depth import ValueRange, format_range
from featcache.core.options import (
    DataOptions,
    DeviceOptions,
    TextOptions,
    ViewCount,
    select,
    takes_options,
    with_defaults,
)
from featcache.core.specs import cached_augment
from featcache.data.manifest import Manifest, read_manifest
from featcache.data.sources.foreign_folders import TRY_MARK
from featcache.errors import CacheMismatchError, HeadError
from featcache.extraction.extract import extract
from featcache.extraction.pipelines.registry import check_backbone
from featcache.extraction.update import update
from featcache.heads.fit_head import fit_head
from featcache.reports.pages.trial import write_trial_page
from featcache.reports.samples.registry import sample_report
from featcache.reports.trial import CACHE, HEAD, PAGE, Trial

VIEWS, BUDGET_S = with_defaults(ViewCount, {})["views"], 10.0


class TryOptions(ViewCount, TextOptions, DataOptions, DeviceOptions, total=False):
    """Options of `try_out` that other functions have as well."""


@takes_options(TryOptions)
def try_out(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str] = "featcache-try",
    *,
    backbone: str | Encoder | None = None,
    weights: str = "pretrained",
    image_size: int | None = None,
    value_range: ValueRange | None = None,
    budget_s: float = BUDGET_S,
    seed: int = 0,
    progress: ProgressOption = None,
    on_note: Callable[[str], None] | None = None,
    **options: Unpack[TryOptions],
) -> Trial:
    """Extract features, check them, fit the best head and write a report, in one call.

    Call it again after an interruption, or after samples have changed: only missing features are extracted.

    Parameters
    ----------
    data : path
        Labelled images or texts; see `read_manifest`.
    out : path, default "featcache-try"
        Folder for all files: cache.h5, head/, report.html.
    backbone : str, Backbone, TextEncoder or None, default None
        The network; see `extract`.
    weights : str, default "pretrained"
        Its weights; see `extract`.
    image_size : int, optional
        Pixels of the network's input; see `extract`.
    value_range : tuple of float, optional
        The values that become black and white; see `extract`.
    budget_s : float, default 10
        Seconds for the choice of the head.
    seed : int, default 0
        Seed of the split, the views and the folds.
    progress : callable, bool or None
        Called as progress(step, done, total). True shows a bar.
    on_note : callable, optional
        Called with remarks on the data.
    {options}

    Returns
    -------
    Trial
        The results of the three steps. The head is in `out`/head.

    Raises
    ------
    ImageError
        `data` has no readable labelled samples, or an option is for other samples.
    BackboneError
        The network cannot be loaded.
    CacheError
        `out` has the cache of a trial with other settings.
    HeadError
        `out` has other files or a trial of other samples, or no head can be fitted.

    Examples
    --------
    >>> import featcache
    >>> trial = featcache.try_out("photos", "trial", backbone="timm/test_resnet", weights="none", views=1, budget_s=1)
    >>> trial.fit.accuracy.n
    4
    """
    progress = as_callback(progress)
    timer, folder = PhaseTimer(), Path(out)
    check_backbone(backbone)
    network: dict[str, Any] = {"backbone": backbone, "device": options["device"], "progress": progress}
    manifest = read_manifest(data, seed=seed, **select(DataOptions, options), progress=progress)
    manifest.labeled("try")
    _prepare(folder)
    arguments = {**options, **network, "weights": weights, "image_size": image_size, "value_range": value_range}
    run = partial(extract, manifest, folder / CACHE, seed=seed, on_note=on_note, **arguments)
    try:
        extraction = run()
    except CacheMismatchError as error:
        _update(folder / CACHE, data, manifest, options["views"], error.fields, network, on_note)
        extraction = run()
    cache = extraction.cache
    with_data = sample_report(manifest.modality.name).tries_with_data
    diagnosis = doctor(cache, data if with_data else None, seed=seed, progress=progress)
    budget = None if cache.samples.multilabel else budget_s  # with several labels there is one head to try
    fit = fit_head(cache, folder / HEAD, budget_s=budget, seed=seed, progress=progress)
    is_own = backbone is not None and not isinstance(backbone, str)
    settings = {
        "weights": None if is_own or weights == "pretrained" else weights,
        "image_size": image_size,
        "value_range": value_range and format_range(value_range),
        **select(DataOptions, options),
        **select(TextOptions, options),
    }
    own_settings = {
        "views": None if options["views"] == VIEWS else options["views"],
        "seed": seed or None,
        "budget_s": None if budget_s == BUDGET_S else budget_s,
    }
    seconds = timer.seconds()["wall"]
    trial = Trial(folder, os.fspath(data), extraction, diagnosis, fit, seconds, is_own, settings, own_settings)
    write_trial_page(folder / PAGE, trial)
    return trial


def _prepare(folder: Path) -> None:
    """Create the folder, or use that of an earlier trial. Raises HeadError for a folder with other files."""
    try:
        if folder.is_dir() and any(folder.iterdir()) and not (folder / TRY_MARK).exists():
            raise HeadError(f"{folder} holds other files. Give an empty or a new folder with -o.")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TRY_MARK).touch()
    except OSError as error:
        raise HeadError(f"{folder} cannot be created: {error.strerror}") from error


def _update(
    path: Path,
    data: str | os.PathLike[str],
    manifest: Manifest,
    views: int,
    differing: Sequence[str],
    network: dict[str, Any],
    on_note: Callable[[str], None] | None,
) -> None:
    """Update the cache of an earlier trial to these samples and views, or remove it if it has other layers.

    Caches of older versions have other views or layers. A cache that differs in more is left as it is. Raises HeadError
    if it was made from mainly other samples.

    differing : fields of the spec. network : arguments of `update`.
    """
    if not path.exists():
        return
    cache, modality = FeatureCache.open(path), manifest.modality
    loss = Loss.between(cache, manifest.samples)
    if loss.is_large:
        raise HeadError(
            f"{path.parent} holds a trial of other {modality.plural}: {loss}, are not in {os.fspath(data)}. Give "
            "another folder with -o, or delete that one."
        )
    if not set(differing) <= {"layers", "views", "augment"}:
        return
    if "layers" in differing:
        if on_note:
            on_note(f"extracts {path} again: it has the layers of an older version ({brief(cache.spec.layers)})")
        path.unlink()
        return
    changes = cache.samples.differences(manifest.samples)
    augment = cached_augment(None, views, modality.name) if views else None
    if differing:
        before = _describe_views(cache.spec.views, cache.spec.view.augment)
        changes = [f"{_describe_views(views, augment)} instead of {before}", *changes]
    if on_note and changes:
        on_note(f"updates {path}: {'; '.join(changes)}")
    if isinstance(network["backbone"], str):
        network = {**network, "backbone": None}
    update(path, data, views=views, augment=augment, **network)


def _describe_views(views: int, augment: str | None) -> str:
    return f"{plural(views, 'augmented view')} by {augment}" if views else "no augmented views"
