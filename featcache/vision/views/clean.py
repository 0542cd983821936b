"""Recipe "none": resize and centre crop. View 0 of every recipe."""

from __future__ import annotations

from numpy.random import Generator

from featcache.core.specs import ViewSpec
from featcache.core.view_recipes import VIEW_RECIPES, ViewRecipe
from featcache.vision.views.geometry import Pixels, crop_center, resize


def draw_clean(image: Pixels, spec: ViewSpec, rng: Generator) -> Pixels:
    """See `DrawView`. Nothing is random."""
    return crop_center(resize(image, spec), spec.image_size, spec.image_size)


VIEW_RECIPES.register("none", ViewRecipe(draw_clean))
