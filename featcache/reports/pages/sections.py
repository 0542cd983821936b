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

from featcache.cache.feature_cache import FeatureCache
from featcache.core.model_card import ModelCard
from featcache.errors import FeatcacheError
from featcache.heads.fit_head import HeadFit
from featcache.heads.held_out import FILE as HELD_OUT
from featcache.reports import cache_figures, model_figures
from featcache.reports.html import Figure, Section, Table
from featcache.reports.sample_texts import predictions_table
from featcache.reports.style import DrawFigure

_Path = str | os.PathLike[str]
Add = Callable[[Callable[[], DrawFigure], str], bool]
"""Adds a figure with its caption; returns whether it was drawn."""

_MAP = "Features of val in two dimensions"
# Fields of the provenance that describe this machine, or that the command shows.
_HIDDEN = ("host", "weights", "val_fraction", "split_seed", "allow_leak", "label_column", "skip_missing", "text_column")


def result_section(fit: HeadFit) -> Section:
    """The text of a fit, without the path of the head."""
    return Section("Result", code=str(replace(fit, path=None)))


def head_section(head: Path, cache: FeatureCache, data: str | os.PathLike[str] | None) -> Section:
    """The figures of a head; those with images need `data`."""
    section = Section("The head in figures")
    add = partial(add_figure, section, local=[head, cache.path, *([] if data is None else [data])])
    add(lambda: model_figures.confusion_figure(head), "Confusion matrix")
    add(lambda: model_figures.reliability_figure(head), "Calibration of the probabilities")
    if (head / HELD_OUT).exists():
        add(lambda: model_figures.coverage_figure(head), "How often sets of labels hold the true one")
    _ADD_SAMPLES[cache.spec.modality](section, add, head, cache, data)
    return section


def _add_images(section: Section, add: Add, head: Path, cache: FeatureCache, data: _Path | None) -> None:
    """The map, val images with their predictions, and augmented views."""
    layer, with_images = ModelCard.read(head).layer, f"{_MAP}, with images that lie among another class"
    if data is None or not add(lambda: cache_figures.map_figure(cache, data, layer=layer), with_images):
        add(lambda: cache_figures.map_figure(cache, layer=layer), _MAP)
    if data is not None:
        add(lambda: model_figures.predictions_figure(head, data), "Wrong and right predictions of val images")
        if cache.spec.views:
            add(lambda: cache_figures.views_figure(cache, data), "Augmented views of training images")


def _add_texts(section: Section, add: Add, head: Path, cache: FeatureCache, data: _Path | None) -> None:
    """The map, and a table of val texts with their predictions."""
    layer, caption = ModelCard.read(head).layer, "Wrong and right predictions of val texts"
    add(lambda: cache_figures.map_figure(cache, layer=layer), _MAP)
    if data is not None:
        try:
            line, table = predictions_table(head, data, text_column=cache.split_options.get("text_column"))
            section.lines.append(f"{caption}: {line}")
            section.tables.append(table)
        except FeatcacheError as error:
            section.notes.append(f"{caption}: not listed. {without_folders(error, [head, cache.path, data])}")


_ADD_SAMPLES = {"image": _add_images, "text": _add_texts}


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


def without_folders(error: FeatcacheError, local: Sequence[str | os.PathLike[str]]) -> str:
    """The message of an error, with each of these absolute paths shortened to its name."""
    reason = str(error)
    for path in filter(os.path.isabs, local):
        reason = reason.replace(f"{Path(path).parent}{os.sep}", "")
    return reason
