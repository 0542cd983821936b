"""Figures of similar samples: each query at the left, then its neighbors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

from featcache._utils.formatting import plural
from featcache.analysis.similar.result import Neighbor, Query, SimilarSamples
from featcache.cache.feature_cache import FeatureCache
from featcache.data.modality import TEXTS
from featcache.data.sources.base import Source
from featcache.data.sources.registry import open_source
from featcache.errors import PictureError
from featcache.reports.image_grids import GridImage, plot_rows
from featcache.reports.sample_images import SIDE, load_cached_views
from featcache.reports.style import DrawFigure
from featcache.reports.text_figures import TextRow, plot_texts

_MOST_QUERIES = 24


def similar_figure(result: SimilarSamples, data: str | os.PathLike[str]) -> DrawFigure | None:
    """Up to 24 queries, each with its neighbors; see `featcache.plot_similar`. None if no query could be read."""
    readable = [query for query in result.queries if query.error is None]
    if not readable:
        return None
    shown = readable[:_MOST_QUERIES]
    compared = plural(result.compared, result.modality)
    title = f"the most similar of {compared} in {result.cache.name}, by the cosine of their features"
    if len(shown) < len(readable):
        title += f"; the first {len(shown)} of {len(readable)} queries"
    if result.modality == TEXTS.name:
        return partial(plot_texts, [row for query in shown for row in _text_rows(query)], title)
    cache, source = FeatureCache.open(result.cache), open_source(data)
    rows_by_id = {name: row for row, name in enumerate(cache.samples.ids)}
    rows, missing = [], 0
    for query in shown:
        images = [_neighbor_image(cache, source, rows_by_id[one.path], one) for one in query.neighbors]
        missing += images.count(None)
        rows.append([_query_image(query), *images])
    if missing:
        are = "image is not drawn, as its file is" if missing == 1 else "images are not drawn, as their files are"
        title += f"; {missing} {are} missing or changed"
    return partial(plot_rows, rows, title)


def _query_image(query: Query) -> GridImage | None:
    from featcache.vision.views.geometry import shrink  # needs PyTorch, which figures of numbers do not

    above = "query, in the cache" if query.left_out else "query"
    return None if query.picture is None else GridImage(shrink(query.picture, SIDE), above, query.path or "in memory")


def _neighbor_image(cache: FeatureCache, source: Source, row: int, neighbor: Neighbor) -> GridImage | None:
    """The image of a neighbor; None if its file is not that of the cache."""
    try:
        pixels = load_cached_views(source, cache.samples, row, cache.spec.image_view, range(1))[0]
    except PictureError:
        return None
    return GridImage(pixels, f"{neighbor.label or 'none'} {neighbor.similarity:.2f}", neighbor.path)


def _text_rows(query: Query) -> Sequence[TextRow]:
    neighbors = [
        TextRow(f"{one.label or 'none'} {one.similarity:.2f}", one.text or one.path) for one in query.neighbors
    ]
    return [TextRow("query, in the cache" if query.left_out else "query", query.text or "", bold=True), *neighbors]
