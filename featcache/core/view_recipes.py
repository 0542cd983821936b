"""`VIEW_RECIPES`: how augmented views are made from images, by name. featcache's own are in `featcache.vision.views`.

Another package adds a recipe by an entry point; its name is then a value of `ViewSpec(augment=...)` and `--augment`:

    [project.entry-points."featcache.views"]
    blur = "my_package.views:BLUR"
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from featcache.core.registry import Registry
from featcache.errors import SpecError

if TYPE_CHECKING:
    import numpy as np
    from numpy.random import Generator
    from numpy.typing import NDArray

    from featcache.core.specs import ViewSpec

_VERSIONED_NAME = re.compile(r"[^@]+@[0-9]+")


class DrawView(Protocol):
    """Makes one view of an image.

    LAW 1: a view is a pure function of the pixels, the spec and the key (seed, content hash, view number). All that is
    random comes from `rng`, which is seeded with the key. The function reads no global state, no clock and no other
    random generator, does not depend on the thread or the machine, and does not change `image`. Only then does a cache
    hold the views that live training would see.
    """

    def __call__(self, image: NDArray[np.uint8], spec: ViewSpec, rng: Generator) -> NDArray[np.uint8]:
        """Make the view.

        Parameters
        ----------
        image : ndarray, shape (h, w, 3), uint8
            Upright RGB pixels of any size.
        spec : ViewSpec
            Sizes in pixels, and the interpolation.
        rng : Generator
            Seeded with the key of this view.

        Returns
        -------
        ndarray, shape (spec.image_size, spec.image_size, 3), uint8
        """


class AxisPlan(NamedTuple):
    """Rows or columns of a view: a part of the image is resized, and a part of that is the view.

    Parameters
    ----------
    offset, length : int
        First pixel and number of pixels of the image that are resized.
    resized : int
        Number of pixels to which they are resized.
    start : int
        First of the resized pixels that is in the view.
    """

    offset: int
    length: int
    resized: int
    start: int = 0


class ViewPlan(NamedTuple):
    """A view that is a crop of the image, resized, cropped again and mirrored.

    Parameters
    ----------
    rows, columns : AxisPlan
    is_mirrored : bool
        Whether left and right are exchanged, last of all.
    """

    rows: AxisPlan
    columns: AxisPlan
    is_mirrored: bool = False


class PlanView(Protocol):
    """Plans one view by the size of its image alone. Law 1 holds as for `DrawView`."""

    def __call__(self, height: int, width: int, spec: ViewSpec, rng: Generator) -> ViewPlan:
        """Plan the view of an image of this size. For `spec` and `rng` see `DrawView`."""


@dataclass(frozen=True)
class ViewRecipe:
    """A way to make augmented views.

    Parameters
    ----------
    draw : callable
        Makes one view, see `DrawView`.
    version : int
        Increase it with every change of the views' pixels: caches of another version are then refused. The digest of a
        cache covers the name and the version of its recipe, as "NAME@VERSION". The recipes of featcache have no version
        in the digest: their pixels do not change.
    plan : callable, optional
        Plans the view that `draw` makes, see `PlanView`. A GPU then makes it. None: a view is more than crops, a resize
        and a flip.
    """

    draw: DrawView
    version: int = 1
    plan: PlanView | None = None


VIEW_RECIPES: Registry[ViewRecipe] = Registry("view recipe", "featcache.vision.views", "featcache.views", SpecError)


def versioned_name(augment: str, own_names: tuple[str, ...]) -> str | None:
    """The name of a recipe as a spec holds it; None if there is no such recipe.

    Parameters
    ----------
    augment : str
        A name, or "NAME@VERSION" as in a cache, for which the recipe need not be installed.
    own_names : tuple of str
        The recipes of featcache.
    """
    if augment in own_names:
        return augment
    if _VERSIONED_NAME.fullmatch(augment) and augment.partition("@")[0] not in own_names:
        return augment
    if augment in VIEW_RECIPES:
        return f"{augment}@{VIEW_RECIPES.get(augment).version}"
    return None


def recipe_of(augment: str) -> ViewRecipe:
    """The recipe that a spec names.

    Raises
    ------
    SpecError
        The recipe is not installed, or another version of it.
    """
    name, _, version = augment.partition("@")
    recipe = VIEW_RECIPES.get(name)
    if version and int(version) != recipe.version:
        raise SpecError(
            f"the views need version {version} of the view recipe {name!r}; version {recipe.version} is installed. "
            f"Install the package that has version {version}, or extract the features again."
        )
    return recipe
