"""Recipes "gentle" and "gentle-flip": a random resized crop of at least half of the area, without and with flip.

The smallest crop of the tutorials' recipe, 8 % of the area, often misses the object. The shape of a crop follows that
of the image: a crop of aspect ratio 4/3 has less than half of the area of an image of aspect ratio 3. A flip changes
the class where classes are mirror images, and where images are text.
"""

from __future__ import annotations

from numpy.random import Generator

from featcache.core.specs import ViewSpec
from featcache.core.view_recipes import VIEW_RECIPES, ViewRecipe
from featcache.vision.views.geometry import Pixels, crop_box, random_flip, resized_box

_SMALLEST_AREA = 0.5  # of the image


def draw_gentle(image: Pixels, spec: ViewSpec, rng: Generator) -> Pixels:
    """See `DrawView`."""
    height, width = image.shape[:2]
    return resized_box(image, crop_box(height, width, rng, _SMALLEST_AREA, aspect=width / height), spec)


def draw_gentle_flip(image: Pixels, spec: ViewSpec, rng: Generator) -> Pixels:
    """See `DrawView`."""
    return random_flip(draw_gentle(image, spec, rng), rng)


VIEW_RECIPES.register("gentle", ViewRecipe(draw_gentle))
VIEW_RECIPES.register("gentle-flip", ViewRecipe(draw_gentle_flip))
