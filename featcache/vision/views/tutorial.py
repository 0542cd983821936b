"""Recipe "tutorial": random resized crop and flip, as in the transfer-learning tutorials of PyTorch and MindSpore."""

from __future__ import annotations

from numpy.random import Generator

from featcache.core.specs import ViewSpec
from featcache.core.view_recipes import VIEW_RECIPES, ViewPlan
from featcache.vision.views.geometry import crop_box, draws_flip, plan_box, planned_recipe


def plan_tutorial(height: int, width: int, spec: ViewSpec, rng: Generator) -> ViewPlan:
    """See `PlanView`. A random crop, aspect ratio 3/4 to 4/3, resized (Szegedy et al. 2015)."""
    rows, columns = plan_box(crop_box(height, width, rng), spec)
    return ViewPlan(rows, columns, draws_flip(rng))


VIEW_RECIPES.register("tutorial", planned_recipe(plan_tutorial))
