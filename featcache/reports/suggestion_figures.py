"""`suggestions_figure`: a sheet of the samples that `suggest` names."""

from __future__ import annotations

from featcache._utils.formatting import plural
from featcache.analysis.suggestions.suggest import Suggestions
from featcache.errors import PictureError
from featcache.reports.samples.registry import sample_report
from featcache.reports.style import DrawFigure


def suggestions_figure(suggestions: Suggestions) -> DrawFigure:
    """The suggested images or texts, the most useful first, with their most probable classes.

    Parameters
    ----------
    suggestions : Suggestions
        Of `suggest` with data.

    Raises
    ------
    PictureError
        They come from `suggest` without data, or the files are missing or have changed.
    """
    manifest, cache = suggestions.manifest, suggestions.cache
    if manifest is None:
        raise PictureError("a sheet of samples needs the data that the cache was made from: suggest(cache, data=...)")
    noun = cache.spec.modality
    title = f"{plural(len(suggestions.samples), noun)} of {cache.path.name} to label next"
    return sample_report(noun).suggestions_figure(suggestions.samples, cache, manifest.source, title)
