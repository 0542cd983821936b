"""Figures of a cache: augmented views, features in two dimensions, and the images of issues.

Each function reads what the figure needs and returns a function that draws it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

import numpy as np

from featcache._utils.formatting import brief, plural, split_names
from featcache.analysis.doctor.findings import Issue, IssueExample
from featcache.cache.feature_cache import FeatureCache
from featcache.core.samples import Samples, format_labels
from featcache.core.specs import PENULTIMATE
from featcache.data.modality import IMAGES
from featcache.data.sources.base import Source
from featcache.data.sources.registry import open_source
from featcache.errors import PictureError
from featcache.reports.image_grids import GridImage, Thumbnail, plot_issues, plot_map, plot_views
from featcache.reports.projection import NAMES, Method, misplaced, project, spread_out
from featcache.reports.sample_images import choose_rows, load_cached_views
from featcache.reports.style import DrawFigure

_Path = str | os.PathLike[str]

_THUMBNAIL_SIDE = 64  # pixels
_MAX_VIEWS = 8
_NO_LABEL = "none"
_NOT_DRAWABLE = ("skipped", "other images")  # issues of images that cannot be read


def views_figure(cache: _Path | FeatureCache, data: _Path, images: int = 4, seed: int = 0) -> DrawFigure:
    """The clean view and up to eight augmented views of some training images; see `featcache.plot_views`."""
    cache = FeatureCache.open(cache)
    _require_images(cache, "a figure of views")
    numbers = range(1 + min(cache.spec.views, _MAX_VIEWS))
    rows = cache.samples.rows("train")
    rows = choose_rows(cache.samples, rows[cache.done[rows] > 0], images, seed)
    if not len(rows):
        raise PictureError(f"{cache.path} has no readable train images")
    source = open_source(data)
    views = [load_cached_views(source, cache.samples, int(row), cache.spec.image_view, numbers) for row in rows]
    labels = format_labels(cache.samples.labels[rows], cache.samples.classes)
    return partial(plot_views, views, labels, cache.spec.view.augment)


def map_figure(
    cache: _Path | FeatureCache,
    data: _Path | None = None,
    *,
    method: Method = "pca",
    split: str = "val",
    images: int = 2000,
    thumbnails: int = 12,
    layer: str = PENULTIMATE,
    seed: int = 0,
) -> DrawFigure:
    """Clean features in two dimensions, coloured by class; see `featcache.plot_map`."""
    cache = FeatureCache.open(cache)
    features = cache.features(split, layer)
    if not len(features.samples):
        counts = ", ".join(f"{count} {name}" for name, count in cache.summary().totals.items())
        raise PictureError(f"{cache.path} has no readable {split} {cache.spec.modality}s to draw; it has {counts}")
    rows = np.sort(choose_rows(features.samples, np.arange(len(features.samples)), images, seed))
    samples, x = features.samples.take(rows), np.asarray(features.take(rows).lazy_view(0)[:])
    labels = [label or _NO_LABEL for label in format_labels(samples.labels, samples.classes)]
    points = project(x, method, seed)
    _, classes = np.unique(labels, return_inverse=True)
    foreign = misplaced(x, classes, len(x))
    small_images = []
    if data is not None:
        _require_images(cache, "a map with images", ": leave DATA out")
        source = open_source(data)
        for row in spread_out(points, foreign, thumbnails):
            view = load_cached_views(source, samples, row, cache.spec.image_view, range(1), _THUMBNAIL_SIDE)[0]
            small_images.append(Thumbnail(row, view))
    layers = "" if layer == PENULTIMATE else f"{brief(split_names(layer), 2)}: "
    title = f"{layers}features of {plural(len(rows), f'{split} {cache.spec.modality}')}"
    title += f"; {plural(len(foreign), 'is', 'are')} among those of another class" if classes.any() else ""
    return partial(plot_map, points, labels, NAMES[method], title, small_images)


def issues_figure(
    cache: _Path | FeatureCache,
    issues: Sequence[Issue],
    data: _Path,
    images: int = 36,
    rankings: Sequence[Issue] = (),
) -> DrawFigure | None:
    """The first images of each issue of `doctor`; both images of a pair. None if there is nothing to draw.

    Images whose files are missing or have changed are skipped, and counted in the title.

    Parameters
    ----------
    cache : path or FeatureCache
    issues : sequence of Issue
    data : path
        The folder or CSV that the cache was made from.
    images : int, default 36
        Highest number of images, shared equally by the issues and rankings.
    rankings : sequence of Issue
        Rankings of `doctor`, drawn after the issues and not counted as such.

    Raises
    ------
    CacheError
        The cache cannot be read, or was not made from images.
    """
    cache = FeatureCache.open(cache)
    _require_images(cache, "a figure of images", " of issues (with DATA, doctor prints the words of texts)")
    with_images = [issue for issue in issues if issue.images and issue.kind not in _NOT_DRAWABLE]
    shown = [*with_images, *rankings]
    rows = {name: row for row, name in enumerate(cache.samples.ids)}
    source = open_source(data)
    each, sections, missing = max(2, images // max(1, len(shown))), [], 0
    for issue in shown:
        grid: list[GridImage] = []
        for example in issue.images:
            if len(grid) + 1 + bool(example.other) > each:
                break
            try:
                grid += _grid_images(cache, source, example, rows)
            except PictureError:
                missing += 1
        if grid:
            sections.append((f"{issue.kind}: {issue.what}", grid))
    if not sections:
        return None
    title = f"{plural(len(with_images), 'issue')} in {cache.path.name}"
    if missing:
        reason = (
            "is not drawn, because its file is missing or has changed"
            if missing == 1
            else "are not drawn, because their files are missing or have changed"
        )
        title += f"; {plural(missing, 'image')} {reason}"
    return partial(plot_issues, sections, title)


def _require_images(cache: FeatureCache, what: str, hint: str = "") -> None:
    """Raise an error for a figure that only caches of images have.

    hint : what the message says of other samples.
    """
    if cache.spec.modality != IMAGES.name:
        figure = what.removeprefix("a ")
        raise PictureError(
            f"{cache.path} holds features of {cache.spec.modality}s, of which there is no {figure}{hint}."
        )
    cache.require_images(what)


def _grid_images(cache: FeatureCache, source: Source, example: IssueExample, rows: dict[str, int]) -> list[GridImage]:
    """The image of an example, after the image that it resembles."""
    grid = []
    for row in [rows[name] for name in (example.other, example.image) if name]:
        pixels = load_cached_views(source, cache.samples, row, cache.spec.image_view, range(1))[0]
        grid.append(GridImage(pixels, *_captions(example, cache.samples, row)))
    return grid


def _captions(example: IssueExample, samples: Samples, row: int) -> tuple[str, str]:
    """The text above and below the image of a row."""
    (label,) = format_labels(samples.labels[[row]], samples.classes)
    return label or "none", f"probably {example.suggested}" if example.suggested else samples.ids[row]
