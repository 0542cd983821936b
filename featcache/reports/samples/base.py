"""`SampleReport`: how reports speak of the samples of one modality, and show them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from featcache.analysis.doctor.findings import Issue
from featcache.analysis.similar.result import Query, SimilarSamples
from featcache.analysis.suggestions.suggest import Suggestion
from featcache.cache.feature_cache import FeatureCache
from featcache.core.model_card import ModelCard
from featcache.core.specs import ExtractSpec
from featcache.data.sources.base import Source
from featcache.errors import PictureError
from featcache.metrics.predictions import ValPrediction
from featcache.reports import cache_figures
from featcache.reports.html import Section
from featcache.reports.style import DrawFigure

Data = str | os.PathLike[str]
Add = Callable[[Callable[[], DrawFigure], str], bool]
"""Adds a figure with its caption to a section, or a note with the reason; returns whether it was drawn."""

MAP = "Features of val in two dimensions"


class SampleReport:
    """How reports speak of samples of one modality, and show them. `SAMPLE_REPORTS` has an object for each.

    This class shows no sample: a modality without a module has figures of features and metrics only.

    Parameters
    ----------
    name : str
        The modality.

    Attributes
    ----------
    name : str
        The modality.
    noun : str
        What a user calls a sample, such as "photo".
    argument : str
        What stands for a new sample in a command of `featcache predict`, such as "PHOTO".
    tries_with_data : bool
        Whether the doctor of `try` reads the data again. If not, it has the features alone.
    """

    tries_with_data = False

    def __init__(self, name: str) -> None:
        self.name, self.noun, self.argument = name, name, name.upper()

    def show(self, content: bytes, spec: ExtractSpec) -> tuple[str, bytes]:
        """A sample for a web page: its media type and the bytes to show. Raises PictureError if it cannot be shown.

        content : the bytes of the sample. spec : that of the cache.
        """
        raise PictureError(f"samples of the modality {self.name} are not shown")

    def predictions_figure(
        self, card: ModelCard, chosen: Sequence[ValPrediction], source: Source, title: str
    ) -> DrawFigure:
        """Samples with their predictions. Raises PictureError if they are not drawn."""
        raise PictureError(f"samples of the modality {card.spec.modality} are not drawn.")

    def suggestions_figure(
        self, suggestions: Sequence[Suggestion], cache: FeatureCache, source: Source, title: str
    ) -> DrawFigure:
        """Samples that `suggest` names, with their reasons. Raises PictureError if they are not drawn."""
        raise PictureError(f"samples of the modality {cache.spec.modality} are not drawn.")

    def similar_figure(self, result: SimilarSamples, queries: Sequence[Query], data: Data, title: str) -> DrawFigure:
        """Queries with their neighbors, the samples of the data. Raises PictureError if they are not drawn."""
        raise PictureError(f"samples of the modality {result.modality} are not drawn.")

    def add_samples(self, section: Section, add: Add, head: Path, cache: FeatureCache, data: Data | None) -> None:
        """Add the map of the features, and val samples with their predictions, to the section of a head."""
        layer = ModelCard.read(head).own_layer
        add(lambda: cache_figures.map_figure(cache, layer=layer), MAP)

    def add_issues(
        self, add: Add, cache: FeatureCache, issues: Sequence[Issue], rankings: Sequence[Issue], data: Data, most: int
    ) -> None:
        """Add a figure of samples whose labels may be wrong, at most so many."""
