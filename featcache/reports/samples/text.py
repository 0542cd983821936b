"""How reports show texts: by their beginning."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from featcache._utils.formatting import UNIT_SEPARATOR, excerpt
from featcache.analysis.similar.result import Query, SimilarSamples
from featcache.analysis.suggestions.suggest import Suggestion
from featcache.cache.feature_cache import FeatureCache
from featcache.core.model_card import ModelCard
from featcache.core.specs import ExtractSpec
from featcache.data.modality import TEXTS
from featcache.data.sources.base import Source
from featcache.data.sources.registry import open_source
from featcache.errors import FeatcacheError, PictureError
from featcache.metrics.predictions import ValPrediction, read_predictions
from featcache.reports.chosen_predictions import choose_predictions, shown_probability
from featcache.reports.html import Section, Table, without_folders
from featcache.reports.samples.base import Add, Data, SampleReport
from featcache.reports.samples.registry import SAMPLE_REPORTS
from featcache.reports.style import DrawFigure
from featcache.reports.text_figures import PredictionText, TextRow, plot_text_predictions, plot_texts

_LISTED, _CHARACTERS = 24, 240  # texts of a table, and characters of a text


class TextReport(SampleReport):
    """Texts; see `SampleReport`."""

    tries_with_data = True  # it shows their words, and runs no network

    def __init__(self) -> None:
        super().__init__(TEXTS.name)
        self.argument = '--text "A TEXT"'

    def show(self, content: bytes, spec: ExtractSpec) -> tuple[str, bytes]:
        """See `SampleReport`: the whole text, with an empty line between its columns."""
        return "text/plain; charset=utf-8", content.replace(UNIT_SEPARATOR.encode(), b"\n\n")

    def predictions_figure(
        self, card: ModelCard, chosen: Sequence[ValPrediction], source: Source, title: str
    ) -> DrawFigure:
        """See `SampleReport`."""
        texts = [
            PredictionText(_load_text(source, row.image), row.label, row.predicted, shown_probability(row))
            for row in chosen
        ]
        return partial(plot_text_predictions, texts, title)

    def suggestions_figure(
        self, suggestions: Sequence[Suggestion], cache: FeatureCache, source: Source, title: str
    ) -> DrawFigure:
        """See `SampleReport`."""
        rows = [
            TextRow(f"{number}  {sample.summary}", _load_text(source, sample.path))
            for number, sample in enumerate(suggestions, 1)
        ]
        return partial(plot_texts, rows, title)

    def similar_figure(self, result: SimilarSamples, queries: Sequence[Query], data: Data, title: str) -> DrawFigure:
        """See `SampleReport`: the beginnings of the texts, which the result has."""
        rows = []
        for query in queries:
            above = "query, in the cache" if query.left_out else "query"
            rows.append(TextRow(above, query.text or "", bold=True))
            rows += [
                TextRow(f"{one.label or 'none'} {one.similarity:.2f}", one.text or one.path) for one in query.neighbors
            ]
        return partial(plot_texts, rows, title)

    def add_samples(self, section: Section, add: Add, head: Path, cache: FeatureCache, data: Data | None) -> None:
        """See `SampleReport`: the predictions are a table."""
        super().add_samples(section, add, head, cache, data)
        if data is None:
            return
        caption = "Wrong and right predictions of val texts"
        try:
            line, table = _predictions_table(head, open_source(data, text_column=_text_column(cache)))
            section.lines.append(f"{caption}: {line}")
            section.tables.append(table)
        except FeatcacheError as error:
            section.notes.append(f"{caption}: not listed. {without_folders(error, [head, cache.path, data])}")


def _text_column(cache: FeatureCache) -> str | None:
    return cache.split_options.get("text_column")


def _predictions_table(model: Path, source: Source) -> tuple[str, Table]:
    """Val texts with their predictions, mistakes first, and a line on what is chosen. Raises PictureError."""
    chosen, line = choose_predictions(read_predictions(model), _LISTED, "text")
    rows = []
    for row in chosen:
        value = shown_probability(row)
        probability = "" if value is None else f"{value:.4f}"
        rows.append([excerpt(_load_text(source, row.image), _CHARACTERS), row.label, row.predicted, probability])
    return line, Table(["text", "label", "predicted", "probability"], rows)


def _load_text(source: Source, name: str) -> str:
    """A text. Raises PictureError if it cannot be read."""
    try:
        return source.read(name).decode()
    except OSError as error:
        raise PictureError(
            f"{source.place(name)} cannot be read: {error.strerror or error}. Give the data that the texts were taken "
            "from."
        ) from error


SAMPLE_REPORTS.register(TEXTS.name, TextReport())
