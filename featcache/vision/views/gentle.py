"""Recipes "gentle" and "gentle-flip": a random resized crop of at least half of the area, without and with flip.

The smallest crop of the tutorials' recipe, 8 % of the area, often misses the object. A flip changes the class where
classes are mirror images, and where images are text.
"""

from __future__ import annotations

from numpy.random import Generator

from featcache.core.specs import ViewSpec
from featcache.core.view_recipes import VIEW_RECIPES, ViewRecipe
from featcache.vision.views.geometry import Pixels, random_flip, random_resized_crop

_SMALLEST_AREA = 0.5  # of the image


def draw_gentle(image: Pixels, spec: ViewSpec, rng: Generator) -> Pixels:
    """See `DrawView`."""
    return random_resized_crop(image, spec, rng, _SMALLEST_AREA)


def draw_gentle_flip(image: Pixels, spec: ViewSpec, rng: Generator) -> Pixels:
    """See `DrawView`."""
    return random_flip(draw_gentle(image, spec, rng), rng)


VIEW_RECIPES.register("gentle", ViewRecipe(draw_gentle))
VIEW_RECIPES.register("gentle-flip", ViewRecipe(draw_gentle_flip))
