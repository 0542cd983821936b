"""`why_figure`: images with the places that a model decides by."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from featcache.core.model_card import ModelCard
from featcache.errors import PictureError
from featcache.models.activation_maps import activation_maps
from featcache.reports.image_grids import HeatImage, plot_heat
from featcache.reports.style import DrawFigure

MOST_IMAGES = 24


def why_figure(model: str | os.PathLike[str], images: Any, label: str | None = None, **settings: Any) -> DrawFigure:
    """Images with the places that speak for a class and against it.

    Parameters
    ----------
    model : path
        See `activation_maps`.
    images : one or several images
        See `activation_maps`; at most 24.
    label : str, optional
        The class. Default: the most probable one of each image.
    **settings
        Weights, device and backbone, see `Classifier.load`.

    Raises
    ------
    PictureError
        There are too many images.
    HeadError, BackboneError, UnreadableImageError
        See `activation_maps`.
    """
    if isinstance(images, list) and len(images) > MOST_IMAGES:
        raise PictureError(f"{len(images)} images are too many for one figure: give at most {MOST_IMAGES}")
    found = activation_maps(model, images, label=label, **settings)
    several = ModelCard.read(Path(model)).multilabel
    shown = [
        HeatImage(one.pixels, one.heat, Path(one.path).name, f"{one.label} {one.probability:.0%}") for one in found
    ]
    other = "no such label" if several else "other classes"
    return partial(plot_heat, shown, f"clean view: places that speak for the class (orange), or for {other} (blue)")
