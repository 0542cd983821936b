"""Recipes "gentle" and "gentle-flip": a random resized crop of at least half of the area, without and with flip.

The smallest crop of the tutorials' recipe, 8 % of the area, often misses the object. The shape of a crop follows that
of the image: a crop of aspect ratio 4/3 has less than half of the area of an image of aspect ratio 3. A flip changes
the class where classes are mirror images, and where images are text.
"""

from __future__ import annotations

from numpy.random import Generator

from featcache.core.specs import ViewSpec
from featcache.core.view_recipes import VIEW_RECIPES, ViewPlan
from featcache.vision.views.geometry import crop_box, draws_flip, plan_box, planned_recipe

_SMALLEST_AREA = 0.5  # of the image


def plan_gentle(height: int, width: int, spec: ViewSpec, rng: Generator) -> ViewPlan:
    """See `PlanView`."""
    return ViewPlan(*plan_box(crop_box(height, width, rng, _SMALLEST_AREA, aspect=width / height), spec))


def plan_gentle_flip(height: int, width: int, spec: ViewSpec, rng: Generator) -> ViewPlan:
    """See `PlanView`."""
    return plan_gentle(height, width, spec, rng)._replace(is_mirrored=draws_flip(rng))


VIEW_RECIPES.register("gentle", planned_recipe(plan_gentle))
VIEW_RECIPES.register("gentle-flip", planned_recipe(plan_gentle_flip))
