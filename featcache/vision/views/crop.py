"""Recipe "crop": a random square of the resized image and flip, as in the transfer-learning tutorial of Gluon."""

from __future__ import annotations

from numpy.random import Generator

from featcache.core.specs import ViewSpec
from featcache.core.view_recipes import VIEW_RECIPES, ViewRecipe
from featcache.vision.views.geometry import Pixels, random_flip, resize


def draw_crop(image: Pixels, spec: ViewSpec, rng: Generator) -> Pixels:
    """See `DrawView`."""
    resized = resize(image, spec)
    height, width = resized.shape[:2]
    size = spec.image_size
    top, left = int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
    return random_flip(resized[top : top + size, left : left + size], rng)


VIEW_RECIPES.register("crop", ViewRecipe(draw_crop))
