"""Recipe "crop": a random square of the resized image and flip, as in the transfer-learning tutorial of Gluon."""

from __future__ import annotations

from numpy.random import Generator

from featcache.core.specs import ViewSpec
from featcache.core.view_recipes import VIEW_RECIPES, ViewPlan
from featcache.vision.views.geometry import draws_flip, plan_resize, planned_recipe


def plan_crop(height: int, width: int, spec: ViewSpec, rng: Generator) -> ViewPlan:
    """See `PlanView`."""
    rows, columns = (
        axis._replace(start=int(rng.integers(axis.resized - spec.image_size + 1)))
        for axis in plan_resize(height, width, spec)
    )
    return ViewPlan(rows, columns, draws_flip(rng))


VIEW_RECIPES.register("crop", planned_recipe(plan_crop))
