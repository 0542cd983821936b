"""How reports show images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from featcache.analysis.doctor.findings import Issue
from featcache.analysis.similar.result import Query, SimilarSamples
from featcache.analysis.suggestions.suggest import Suggestion
from featcache.cache.feature_cache import FeatureCache
from featcache.core.model_card import ModelCard
from featcache.core.specs import ExtractSpec
from featcache.data.modality import IMAGES
from featcache.data.sources.base import Source
from featcache.data.sources.registry import open_source
from featcache.errors import PictureError, UnreadableImageError
from featcache.metrics.predictions import ValPrediction
from featcache.reports import cache_figures, model_figures
from featcache.reports.chosen_predictions import shown_probability
from featcache.reports.html import Section
from featcache.reports.image_grids import GridImage, PredictionImage, plot_issues, plot_predictions, plot_rows
from featcache.reports.sample_images import SIDE, load_cached_views, load_views
from featcache.reports.samples.base import MAP, Add, Data, SampleReport
from featcache.reports.samples.registry import SAMPLE_REPORTS
from featcache.reports.style import DrawFigure

_PAGE_SIDE = 1024  # pixels of the long side of an image on a page of the browser


class ImageReport(SampleReport):
    """Images; see `SampleReport`."""

    def __init__(self) -> None:
        super().__init__(IMAGES.name)
        self.noun, self.argument = "photo", "PHOTO"

    def show(self, content: bytes, spec: ExtractSpec) -> tuple[str, bytes]:
        """See `SampleReport`: upright, in RGB, at most `_PAGE_SIDE` pixels wide and high."""
        from featcache.vision.decode import decode
        from featcache.vision.image_files import encode_for_page

        try:
            pixels = decode(content, value_range=spec.image_view.value_range, decode_side=_PAGE_SIDE)
        except UnreadableImageError as error:
            raise PictureError(str(error)) from error
        return encode_for_page(pixels, _PAGE_SIDE)

    def predictions_figure(
        self, card: ModelCard, chosen: Sequence[ValPrediction], source: Source, title: str
    ) -> DrawFigure:
        """See `SampleReport`."""
        view = card.spec.image_view
        images = [
            PredictionImage(
                load_views(source, row.image, view, range(1))[0], row.label, row.predicted, shown_probability(row)
            )
            for row in chosen
        ]
        return partial(plot_predictions, images, title)

    def suggestions_figure(
        self, suggestions: Sequence[Suggestion], cache: FeatureCache, source: Source, title: str
    ) -> DrawFigure:
        """See `SampleReport`."""
        rows, view = {name: row for row, name in enumerate(cache.samples.ids)}, cache.spec.image_view
        images = [
            GridImage(
                load_cached_views(source, cache.samples, rows[sample.path], view, range(1))[0],
                sample.summary,
                f"{number}: {sample.path}",
            )
            for number, sample in enumerate(suggestions, 1)
        ]
        return partial(plot_issues, [("", images)], title)

    def similar_figure(self, result: SimilarSamples, queries: Sequence[Query], data: Data, title: str) -> DrawFigure:
        """See `SampleReport`. Images whose files are missing or have changed are counted in the title."""
        from featcache.vision.views.geometry import shrink  # needs PyTorch, which figures of numbers do not

        cache, source, missing = FeatureCache.open(result.cache), open_source(data), 0
        rows_by_id = {name: row for row, name in enumerate(cache.samples.ids)}
        rows: list[list[GridImage | None]] = []
        for query in queries:
            above = "query, in the cache" if query.left_out else "query"
            row: list[GridImage | None] = [None]
            if query.picture is not None:
                row = [GridImage(shrink(query.picture, SIDE), above, query.path or "in memory")]
            for one in query.neighbors:
                number = rows_by_id[one.path]
                try:
                    view = load_cached_views(source, cache.samples, number, cache.spec.image_view, range(1))[0]
                    row.append(GridImage(view, f"{one.label or 'none'} {one.similarity:.2f}", one.path))
                except PictureError:
                    row.append(None)
                    missing += 1
            rows.append(row)
        if missing:
            are = "image is not drawn, as its file is" if missing == 1 else "images are not drawn, as their files are"
            title += f"; {missing} {are} missing or changed"
        return partial(plot_rows, rows, title)

    def add_samples(self, section: Section, add: Add, head: Path, cache: FeatureCache, data: Data | None) -> None:
        """See `SampleReport`: also augmented views."""
        layer, with_images = ModelCard.read(head).own_layer, f"{MAP}, with images that lie among another class"
        if data is None or not add(lambda: cache_figures.map_figure(cache, data, layer=layer), with_images):
            super().add_samples(section, add, head, cache, data)
        if data is not None:
            add(lambda: model_figures.predictions_figure(head, data), "Wrong and right predictions of val images")
            if cache.spec.views:
                add(lambda: cache_figures.views_figure(cache, data), "Augmented views of training images")

    def add_issues(
        self, add: Add, cache: FeatureCache, issues: Sequence[Issue], rankings: Sequence[Issue], data: Data, most: int
    ) -> None:
        """See `SampleReport`."""

        def make() -> DrawFigure:
            figure = cache_figures.issues_figure(cache, issues, data, most, rankings)
            if figure is None:
                raise PictureError("Their files are missing or have changed.")
            return figure

        add(make, "Labels that may be wrong")


SAMPLE_REPORTS.register(IMAGES.name, ImageReport())
