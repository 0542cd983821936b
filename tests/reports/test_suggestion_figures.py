"""`suggestions_figure`: a sheet of images, and one of texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featcache import suggest
from featcache.cache.feature_cache import FeatureCache
from featcache.errors import PictureError
from featcache.extraction.extract import extract
from featcache.reports.suggestion_figures import suggestions_figure
from toys import toy_backbone
from toytexts import toy_text_encoder


def test_images_have_their_number_and_what_they_resemble(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = make_folder({"photos": 9}) / "photos"
    extract(root, tmp_path / "cache.h5", backbone=toy_backbone(), workers=1, views=0)
    result = suggest(tmp_path / "cache.h5", 4, data=root)
    figure = suggestions_figure(result)()
    below = [axes.get_xlabel() for part in figure.subfigs for axes in part.axes if axes.images]
    assert below == [f"{number}: {sample.path}" for number, sample in enumerate(result.samples, 1)]


def test_texts_have_their_words(tmp_path: Path) -> None:
    texts = ["a good film", "the dull film", "not bad", "very good"]
    (tmp_path / "texts.csv").write_text("text,label\n" + "".join(f"{text},\n" for text in texts))
    extract(tmp_path / "texts.csv", tmp_path / "cache.h5", backbone=toy_text_encoder())
    result = suggest(tmp_path / "cache.h5", 3, data=tmp_path / "texts.csv")
    drawn = [text.get_text() for text in suggestions_figure(result)().texts]
    assert [text for text in drawn if text in texts] == [sample.text for sample in result.samples]
    assert f"1  {result.samples[0].summary}" in drawn


def test_without_data_nothing_is_drawn() -> None:
    with pytest.raises(PictureError, match="needs the data"):
        suggestions_figure(suggest(FeatureCache.from_arrays(np.eye(4), None), 2))
