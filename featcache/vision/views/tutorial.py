"""Recipe "tutorial": random resized crop and flip, as in the transfer-learning tutorials of PyTorch and MindSpore."""

from __future__ import annotations

from numpy.random import Generator

from featcache.core.specs import ViewSpec
from featcache.core.view_recipes import VIEW_RECIPES, ViewRecipe
from featcache.vision.views.geometry import Pixels, random_flip, random_resized_crop


def draw_tutorial(image: Pixels, spec: ViewSpec, rng: Generator) -> Pixels:
    """See `DrawView`."""
    return random_flip(random_resized_crop(image, spec, rng), rng)


VIEW_RECIPES.register("tutorial", ViewRecipe(draw_tutorial))
