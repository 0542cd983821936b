"""Sections that several pages have: the result of a head, its figures, and where its features come from.

Pages may be sent to others, so they do not contain absolute paths of this machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from featcache._utils.formatting import plural
from featcache.cache.feature_cache import FeatureCache
from featcache.core.specs import PENULTIMATE
from featcache.errors import FeatcacheError
from featcache.heads.fit_head import HeadFit
from featcache.metrics.multilabel import LabelAccuracy
from featcache.reports import model_figures
from featcache.reports.html import Figure, Section, Table, Tile, without_folders
from featcache.reports.samples.registry import sample_report
from featcache.reports.style import DrawFigure

# Fields of the provenance that describe this machine, or that the command shows.
_HIDDEN = ("host", "weights", "val_fraction", "split_seed", "allow_leak", "label_column", "skip_missing", "text_column")


def result_section(fit: HeadFit) -> Section:
    """The main figures of a fit, and its text without the path of the head."""
    tiles = [_accuracy_tile(fit)]
    if fit.data is not None:
        classes = plural(len(fit.data.classes), "class", "classes")
        tiles.append(Tile(f"{fit.data.totals.get('train', 0):,}", f"{fit.data.modality}s to train on, {classes}"))
    layers = "the penultimate layer" if fit.layers == (PENULTIMATE,) else plural(len(fit.layers), "layer")
    tiles.append(Tile(fit.name, f"the head, on {layers}"))
    tiles.append(Tile(f"{fit.report.seconds['wall']:.1f} s", "to choose, fit and test it"))
    return Section("Result", tiles=tiles, code=str(replace(fit, path=None)), folded="What fit-head printed")


def _accuracy_tile(fit: HeadFit) -> Tile:
    """Accuracy on val with its interval; with several labels the mean average precision."""
    figures, modality = fit.accuracy, fit.data.modality if fit.data else "sample"
    if isinstance(figures, LabelAccuracy):
        return Tile(
            f"{figures.mean_average_precision or 0:.3f}", f"mean average precision, {figures.n:,} val {modality}s"
        )
    interval = f"95 % interval {100 * figures.accuracy_low:.1f} to {100 * figures.accuracy_high:.1f} %"
    return Tile(f"{100 * figures.accuracy:.1f} %", f"of {figures.n:,} val {modality}s are right; {interval}")


def head_section(head: Path, cache: FeatureCache, data: str | os.PathLike[str] | None) -> Section:
    """The figures of a head; those with images need `data`."""
    section = Section("The head in figures")
    add = partial(add_figure, section, local=[head, cache.path, *([] if data is None else [data])])
    add(lambda: model_figures.confusion_figure(head), "Confusion matrix")
    add(lambda: model_figures.reliability_figure(head), "Calibration of the probabilities")
    if model_figures.has_sets(head):
        add(lambda: model_figures.coverage_figure(head), "How often sets of labels hold the true one")
    if model_figures.has_novelty(head):
        add(lambda: model_figures.novelty_figure(head), "Samples of a class that is left out, and how many are refused")
    sample_report(cache.spec.modality).add_samples(section, add, head, cache, data)
    return section


def origin_section(cache: FeatureCache, machine: Mapping[str, Any], versions: Mapping[str, str]) -> Section:
    """Provenance and spec of the cache, the machine and the versions."""
    fields = {name: value for name, value in cache.provenance.items() if name not in _HIDDEN and name != "versions"}
    fields |= {"digest": cache.spec.digest(), **cache.spec.flat()}
    fields |= {"machine": f"{machine['processor']}, {machine['cores']} cores, {machine['system']}"}
    fields |= {"versions": ", ".join(f"{name} {version}" for name, version in versions.items())}
    rows = [
        [name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)] for name, value in fields.items()
    ]
    return Section("Where the features come from", tables=[Table(["field", "value"], rows)])


def add_figure(
    section: Section, make: Callable[[], DrawFigure], caption: str, local: Sequence[str | os.PathLike[str]]
) -> bool:
    """Add a figure, or a note with the reason if it cannot be drawn; returns whether it was added.

    local : paths that the reason may contain.
    """
    try:
        section.figures.append(Figure(make(), caption))
        return True
    except FeatcacheError as error:
        section.notes.append(f"{caption}: not drawn. {without_folders(error, local)}")
        return False
