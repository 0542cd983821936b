"""Recipe "none": resize and centre crop. View 0 of every recipe."""

from __future__ import annotations

from numpy.random import Generator

from featcache.core.specs import ViewSpec
from featcache.core.view_recipes import VIEW_RECIPES, ViewPlan
from featcache.vision.views.geometry import center_start, plan_resize, planned_recipe


def plan_clean(height: int, width: int, spec: ViewSpec, rng: Generator) -> ViewPlan:
    """See `PlanView`. Nothing is random."""
    rows, columns = (
        axis._replace(start=center_start(axis.resized, spec.image_size)) for axis in plan_resize(height, width, spec)
    )
    return ViewPlan(rows, columns)


VIEW_RECIPES.register("none", planned_recipe(plan_clean))
