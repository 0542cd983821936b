"""The figures of `featcache show` as matplotlib figures, for notebooks and for further drawing."""

from __future__ import annotations

import os

from matplotlib.figure import Figure

from featcache.analysis.similar.result import SimilarSamples
from featcache.cache.feature_cache import FeatureCache
from featcache.core.specs import PENULTIMATE
from featcache.errors import PictureError
from featcache.reports import cache_figures, model_figures
from featcache.reports.projection import Method
from featcache.reports.similar_figures import similar_figure
from featcache.reports.style import draw

_Path = str | os.PathLike[str]


def plot_views(
    cache: _Path | FeatureCache, data: _Path, images: int = 4, seed: int = 0, *, dark: bool = False
) -> Figure:
    """Draw the clean view and up to eight augmented views of some training images.

    Parameters
    ----------
    cache : path or FeatureCache
        The cache.
    data : path
        The folder or CSV that the cache was made from.
    images : int, default 4
        Number of images, one of each class in turn.
    seed : int, default 0
        Seed of the choice of images.
    dark : bool, default False
        Draw light lines on dark paper.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    CacheError
        The cache cannot be read.
    PictureError
        There is no readable image, or a file is missing or has changed.

    Examples
    --------
    >>> import featcache
    >>> extraction = featcache.extract("photos", "views.h5", backbone="timm/test_resnet", weights="none", views=2)
    >>> figure = featcache.plot_views("views.h5", "photos", images=2)
    """
    return draw(cache_figures.views_figure(cache, data, images, seed), dark)


def plot_predictions(
    model: _Path, data: _Path, images: int = 24, *, dark: bool = False, text_column: str | None = None
) -> Figure:
    """Draw val images or texts with their predictions: the most confident mistakes first, then doubtful right ones.

    Parameters
    ----------
    model : path
        A folder that `fit_head` or `finetune` wrote.
    data : path
        The folder or CSV that the model was evaluated on.
    images : int, default 24
        Highest number of images or texts.
    dark : bool, default False
        Draw light lines on dark paper.
    text_column : str, optional
        The column of the texts, or several with commas between them. None: text, where the data has it.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    HeadError
        The folder has no model or no predictions.
    PictureError
        An image or a text is missing or cannot be read.

    Examples
    --------
    >>> import featcache
    >>> extraction = featcache.extract("photos", "cache.h5", backbone="timm/test_resnet", weights="none", views=0)
    >>> fit = featcache.fit_head("cache.h5", "ridge-head", head="ridge")
    >>> figure = featcache.plot_predictions("ridge-head", "photos")
    """
    return draw(model_figures.predictions_figure(model, data, images, text_column), dark)


def plot_confusion(model: _Path, *, dark: bool = False) -> Figure:
    """Draw the confusion matrix of a model on val.

    Parameters
    ----------
    model : path
        A folder that `fit_head` or `finetune` wrote.
    dark : bool, default False
        Draw light lines on dark paper.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    HeadError
        The folder has no model.
    PictureError
        The images have several labels.

    Examples
    --------
    >>> import numpy as np
    >>> import featcache
    >>> y = np.arange(60) % 2
    >>> x = np.random.default_rng(0).normal(size=(60, 4)) + 3 * y[:, None]
    >>> cache = featcache.FeatureCache.from_arrays(x, y)
    >>> fit = featcache.fit_head(cache, "head")
    >>> featcache.plot_confusion("head").axes[0].get_title()
    '12 of 12 right on val (100.0%)'
    """
    return draw(model_figures.confusion_figure(model), dark)


def plot_reliability(model: _Path, *, dark: bool = False) -> Figure:
    """Draw the accuracy of predictions against their probability, on val.

    Parameters
    ----------
    model : path
        A folder that `fit_head` or `finetune` wrote.
    dark : bool, default False
        Draw light lines on dark paper.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    HeadError
        The folder has no model or no predictions.
    PictureError
        The model has no probabilities, or the images have several labels.

    Examples
    --------
    >>> import numpy as np
    >>> import featcache
    >>> y = np.arange(60) % 2
    >>> x = np.random.default_rng(0).normal(size=(60, 4)) + 3 * y[:, None]
    >>> cache = featcache.FeatureCache.from_arrays(x, y)
    >>> fit = featcache.fit_head(cache, "calibrated-head")
    >>> featcache.plot_reliability("calibrated-head").axes[0].get_ylabel()
    'accuracy'
    """
    return draw(model_figures.reliability_figure(model), dark)


def plot_history(model: _Path, *, dark: bool = False) -> Figure:
    """Draw loss and accuracy by epoch, on train and val.

    Parameters
    ----------
    model : path
        A folder of `finetune`, or of `fit_head` with head="sgd".
    dark : bool, default False
        Draw light lines on dark paper.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    PictureError
        The model was not trained in epochs.

    Examples
    --------
    >>> import numpy as np
    >>> import featcache
    >>> y = np.arange(60) % 2
    >>> x = np.random.default_rng(0).normal(size=(60, 4)) + 3 * y[:, None]
    >>> cache = featcache.FeatureCache.from_arrays(x, y)
    >>> fit = featcache.fit_head(cache, "sgd-head", head="sgd", parameters={"epochs": 2})
    >>> [axes.get_ylabel() for axes in featcache.plot_history("sgd-head").axes]
    ['cross-entropy (nats)', 'accuracy']
    """
    return draw(model_figures.history_figure(model), dark)


def plot_similar(result: SimilarSamples, data: _Path, *, dark: bool = False) -> Figure:
    """Draw samples with their most similar ones in a cache: each query at the left, then its neighbors.

    Parameters
    ----------
    result : SimilarSamples
        What `similar` returned, of up to 24 queries.
    data : path
        The data that the cache was made from.
    dark : bool, default False
        Draw light lines on dark paper.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    PictureError
        No query could be read.

    Examples
    --------
    >>> import featcache
    >>> extraction = featcache.extract("photos", "near.h5", backbone="timm/test_resnet", weights="none", views=0)
    >>> result = featcache.similar("near.h5", "photos/bees/001.png", n=3)
    >>> len(featcache.plot_similar(result, "photos").axes)
    4
    """
    figure = similar_figure(result, data)
    if figure is None:
        raise PictureError("there is nothing to draw: no query could be read.")
    return draw(figure, dark)


def plot_curve(report: _Path, over: str | None = None, *, dark: bool = False) -> Figure:
    """Draw accuracy and seconds against views or labels.

    Parameters
    ----------
    report : path
        A file with the output of `featcache curve --json`, or the report.json of a benchmark.
    over : "views" or "labels", optional
        Which curve. None takes the first one.
    dark : bool, default False
        Draw light lines on dark paper.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    PictureError
        The file has no such curve.

    Examples
    --------
    >>> import json
    >>> import numpy as np
    >>> import featcache
    >>> y = np.arange(60) % 2
    >>> x = np.random.default_rng(0).normal(size=(60, 4)) + 3 * y[:, None]
    >>> cache = featcache.FeatureCache.from_arrays(x, y)
    >>> with open("curve.json", "w") as file:
    ...     json.dump(featcache.curve(cache, fractions=(0.5, 1.0)).to_dict(), file)
    >>> featcache.plot_curve("curve.json").get_suptitle()
    'linear head, 24 to 48 labels: accuracy 1.000 to 1.000'
    """
    return draw(model_figures.curve_figure(report, over), dark)


def plot_map(
    cache: _Path | FeatureCache,
    data: _Path | None = None,
    *,
    dark: bool = False,
    method: Method = "pca",
    split: str = "val",
    images: int = 2000,
    thumbnails: int = 12,
    layer: str = PENULTIMATE,
    seed: int = 0,
) -> Figure:
    """Draw clean features in two dimensions, coloured by class.

    Parameters
    ----------
    cache : path or FeatureCache
        The cache.
    data : path, optional
        The folder or CSV that the cache was made from. With it the map shows images that lie among another class.
    dark : bool, default False
        Draw light lines on dark paper.
    method : "pca", "tsne" or "umap", default "pca"
        The projection: principal components; t-SNE (van der Maaten and Hinton 2008); UMAP (McInnes et al. 2018).
    split : "train", "val", "test" or "unlabeled", default "val"
        Whose images are drawn.
    images : int, default 2000
        Highest number of points, from all classes in turn.
    thumbnails : int, default 12
        Highest number of images on the map.
    layer : str, default "penultimate"
        One layer, or several; see `featcache.core.layer_names`.
    seed : int, default 0
        Seed of the choice of images and of the projection.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    CacheError
        The cache cannot be read, or lacks the layer.
    MissingExtraError
        UMAP is not installed.
    PictureError
        There are fewer than three images, or a file is missing or has changed.

    Examples
    --------
    >>> import numpy as np
    >>> import featcache
    >>> y = np.arange(60) % 2
    >>> x = np.random.default_rng(0).normal(size=(60, 4)) + 3 * y[:, None]
    >>> figure = featcache.plot_map(featcache.FeatureCache.from_arrays(x, y))
    >>> figure.axes[0].get_title()
    'features of 12 val images; 4 are among those of another class'
    """
    figure = cache_figures.map_figure(
        cache, data, method=method, split=split, images=images, thumbnails=thumbnails, layer=layer, seed=seed
    )
    return draw(figure, dark)
