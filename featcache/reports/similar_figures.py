"""The figure of similar samples: each query at the left, then its neighbors."""

from __future__ import annotations

import os

from featcache._utils.formatting import plural
from featcache.analysis.similar.result import SimilarSamples
from featcache.reports.samples.registry import sample_report
from featcache.reports.style import DrawFigure

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
    return sample_report(result.modality).similar_figure(result, shown, data, title)
