"""`run_trial`: extract augmented views of some training samples, and measure which of them lower the log-loss."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.formatting import plural
from featcache._utils.monitor import Monitor
from featcache.backbones.encoder import Encoder
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.features import Features
from featcache.cache.lazy_arrays import ConcatenatedFeatures, LazyRows
from featcache.core.layer_names import STAGE_POOLS, parse_layer
from featcache.core.options import RuntimeOptions
from featcache.data.manifest import Manifest
from featcache.errors import HeadError
from featcache.extraction.extractor import LocalExtractor
from featcache.extraction.plan import ExtractionPlan
from featcache.extraction.request import plan_like
from featcache.heads.tuning.image_sample import sample_images
from featcache.heads.tuning.view_selection import COUNTS, Gain, ViewCandidate, ViewSelection, select_views

MAX_IMAGES = 400
"""Of a trial."""


@dataclass(frozen=True)
class ViewTrial:
    """The outcome of a trial.

    Parameters
    ----------
    recipe, views
        The choice; the recipe is "" and views are 0 if no views are better than none.
    text : str
        The outcome with its figures, for people.
    recipes : tuple of str
        The recipes that were compared.
    selection : ViewSelection or None
        All figures; None if no trial was possible.
    seconds : float
        Time of the trial.
    shown : int
        Views that were extracted for it.
    """

    recipe: str
    views: int
    text: str
    recipes: tuple[str, ...]
    selection: ViewSelection | None = None
    seconds: float = 0.0
    shown: int = 0

    def to_record(self) -> dict[str, Any]:
        """The outcome as JSON values, for the provenance of a cache."""
        figures = self.selection.to_dict() if self.selection else {}
        figures.pop("chosen", None)
        outcome = {"text": self.text, "recipe": self.recipe, "views": self.views, "recipes": list(self.recipes)}
        return {**outcome, **figures, "seconds": round(self.seconds, 3), "shown": self.shown}


def run_trial(
    cache: FeatureCache,
    manifest: Manifest,
    backbone: Encoder | None,
    recipes: Sequence[str],
    seed: int,
    runtime: RuntimeOptions,
    monitor: Monitor,
) -> ViewTrial:
    """Compare views by recipes, on a part of the training samples of a cache; see `select_views`.

    Parameters
    ----------
    cache : FeatureCache
        It has the clean views.
    manifest : Manifest
        Its samples, in the order of its rows.
    backbone : Backbone, TextEncoder or None
        The network; None loads it by its name.
    recipes : sequence of str
        Names of view recipes.
    seed : int
        Of the folds and the choice of samples.
    runtime : RuntimeOptions
        How the network runs.
    monitor : Monitor
        Told of the progress.
    """
    started = time.perf_counter()
    layers = [layer for layer in cache.spec.layers if parse_layer(layer)[1] in STAGE_POOLS] or [cache.spec.layers[0]]
    samples = cache.samples.take(cache.readable_rows("train"))
    rows = cache.readable_rows("train")[sample_images(samples, MAX_IMAGES, seed)]
    shown = len(rows) * COUNTS[-1] * len(recipes)
    plan = plan_like(cache, cache.spec, runtime, shown, backbone=backbone)
    views, is_there = {}, np.ones(len(rows), bool)
    for number, recipe in enumerate(recipes):
        spec = replace(cache.spec, views=COUNTS[-1], view=cache.spec.view.with_augment(recipe))
        done = number * len(rows)
        views[recipe], is_read = _extract_views(
            manifest, replace(plan, spec=spec), rows, layers, monitor, done, len(rows) * len(recipes)
        )
        is_there &= is_read
    features = {recipe: _join(cache, rows, layers, arrays, is_there) for recipe, arrays in views.items()}
    try:
        selection = select_views(features, layers, seed=seed, progress=monitor.progress)
    except HeadError as error:
        text = f"views: none; no trial was possible: {error}"
        return ViewTrial("", 0, text, tuple(recipes), None, time.perf_counter() - started, shown)
    seconds, chosen = time.perf_counter() - started, selection.chosen
    unread = int(np.count_nonzero(~is_there))
    text = describe_selection(selection, recipes, seconds, shown, unread, cache.spec.modality)
    recipe, count = (chosen.recipe, chosen.views) if chosen else ("", 0)
    return ViewTrial(recipe, count, text, tuple(recipes), selection, seconds, shown)


def describe_selection(
    selection: ViewSelection,
    recipes: Sequence[str],
    seconds: float,
    shown: int,
    unread: int = 0,
    modality: str = "image",
) -> str:
    """The outcome of a comparison of views, for people.

    unread : samples that could not be read. modality : what they are.
    """
    best, chosen = selection.best, selection.chosen
    if chosen:
        views = f"{chosen.views} of each training {modality} by {chosen.recipe}"
        lines = [f"views: {views}. Against none, {_gains(chosen)}"]
    else:
        lines = [f"views: no gain. The best, {best.views} by {best.recipe}, against none: {_gains(best)}"]
    counts = ", ".join(map(str, COUNTS))
    grouped = f" ({plural(selection.groups, 'group')}, with copies)" if selection.groups < selection.images else ""
    lines.append(
        f"  on {selection.images} training {modality}s{grouped}, held out in turn; {len(selection.candidates)} choices "
        f"were compared ({', '.join(recipes)}; {counts} views); the 95 % intervals hold for all together"
    )
    lines.append(f"  the trial took {seconds:.1f} s, for {shown} views and the fits")
    lines += [f"  {unread} {modality}s of the trial cannot be read now, and were left out"] if unread else []
    return "\n".join(lines)


def _gains(candidate: ViewCandidate) -> str:
    points, loss = candidate.accuracy_gain, candidate.log_loss_gain
    fall = Gain(-loss.value, -loss.high, -loss.low)
    return (
        f"accuracy {100 * points.value:+.1f} points ({100 * points.low:+.1f} to {100 * points.high:+.1f}), log-loss "
        f"{fall.value:+.4f} ({fall.low:+.4f} to {fall.high:+.4f})"
    )


def _extract_views(
    manifest: Manifest,
    plan: ExtractionPlan,
    rows: NDArray[np.int64],
    layers: Sequence[str],
    monitor: Monitor,
    done: int,
    total: int,
) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_]]:
    """Views 1, 2, ... of these rows: layer to array (m, K, d), and which rows could be read and are finite.

    done, total : images of the whole trial, for the progress.
    """
    first = np.zeros(len(manifest.samples), np.int64)
    last = first.copy()
    first[rows], last[rows] = 1, 1 + plan.spec.views
    arrays = {
        layer: np.zeros((len(rows), plan.spec.views, plan.backbone.dims[layer]), plan.spec.dtype) for layer in layers
    }
    is_read = np.zeros(len(rows), bool)
    with closing(LocalExtractor(manifest, plan, monitor.timer)) as extractor:
        for batch in extractor.extract(last, first):
            places = np.searchsorted(rows, batch.rows)
            with np.errstate(over="ignore"):
                for layer in layers:
                    arrays[layer][places] = batch.features[layer]
            is_read[places] = np.logical_and.reduce(
                [np.isfinite(arrays[layer][places]).all(axis=(1, 2)) for layer in layers]
            )
            done += len(places)
            monitor.report("trial", done, total)
    return arrays, is_read


def _join(
    cache: FeatureCache,
    rows: NDArray[np.int64],
    layers: Sequence[str],
    views: dict[str, NDArray[Any]],
    is_there: NDArray[np.bool_],
) -> Features:
    """The features of the clean view, from the cache, and of the others."""
    rows = rows[is_there]
    parts = []
    for layer in layers:
        clean = cache.layout.layers[layer].view(cache.layout.data)[rows, :1]
        parts.append(np.concatenate([clean, views[layer][is_there]], axis=1))
    samples = cache.samples.take(rows)
    if len(parts) == 1:
        return Features(parts[0], samples)
    return Features(LazyRows(ConcatenatedFeatures(tuple(parts)), np.arange(len(rows))), samples)
