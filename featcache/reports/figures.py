"""The pictures of `featcache show` as matplotlib figures, for notebooks and for further drawing.

Each takes what the command of the same name takes, see `featcache.reports.show`. `dark` draws light lines on dark
paper.
"""

from __future__ import annotations

import os
from typing import Any

from matplotlib.figure import Figure

from featcache.cache.feature_cache import FeatureCache
from featcache.reports import show as pictures
from featcache.reports.style import draw

_Path = str | os.PathLike[str]


def plot_views(
    cache: _Path | FeatureCache, data: _Path, images: int = 4, seed: int = 0, *, dark: bool = False
) -> Figure:
    """What the cache has seen of some training images."""
    return draw(pictures.views_picture(cache, data, images, seed), dark)


def plot_predictions(model: _Path, data: _Path, images: int = 24, *, dark: bool = False) -> Figure:
    """Val images with what the model takes them for, mistakes first."""
    return draw(pictures.predictions_picture(model, data, images), dark)


def plot_confusion(model: _Path, *, dark: bool = False) -> Figure:
    """The confusion matrix of a model on val."""
    return draw(pictures.confusion_picture(model), dark)


def plot_reliability(model: _Path, *, dark: bool = False) -> Figure:
    """How often predictions of each confidence are right, on val."""
    return draw(pictures.reliability_picture(model), dark)


def plot_history(model: _Path, *, dark: bool = False) -> Figure:
    """Loss and accuracy by epoch."""
    return draw(pictures.history_picture(model), dark)


def plot_curve(report: _Path, over: str | None = None, *, dark: bool = False) -> Figure:
    """Accuracy and seconds against views or labels."""
    return draw(pictures.curve_picture(report, over), dark)


def plot_map(cache: _Path | FeatureCache, data: _Path | None = None, *, dark: bool = False, **settings: Any) -> Figure:
    """Clean features on a plane, coloured by class.

    Parameters
    ----------
    settings : method, split, images, thumbnails, layer, seed of `featcache.reports.show.map_picture`.
    """
    return draw(pictures.map_picture(cache, data, **settings), dark)
