"""`make_views`: from an image's pixels to the squares that the network sees.

A view is a pure function of the pixels, the `ViewSpec` and the key (seed, content hash, view number). View 0 is the
clean evaluation view; view e is the one that live training shows in epoch e. The key has the content hash and not the
path, so that a renamed or relabelled file keeps its views.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from featcache.core.rng import generator
from featcache.core.specs import ViewSpec
from featcache.core.view_recipes import recipe_of
from featcache.errors import SpecError


def make_views(image: NDArray[np.uint8], spec: ViewSpec, sha256: bytes, numbers: Sequence[int]) -> NDArray[np.uint8]:
    """Views of one image.

    Parameters
    ----------
    image : ndarray, shape (h, w, 3), uint8
        Upright RGB.
    spec : ViewSpec
        The recipe, the sizes and the seed.
    sha256 : bytes
        Hash of the image file's bytes: the image's part of the key.
    numbers : sequence of int
        View numbers; 0 is the clean view.

    Returns
    -------
    ndarray, shape (len(numbers), s, s, 3), uint8
        With s = spec.image_size.

    Raises
    ------
    SpecError
        The recipe or its version is not installed, or it does not return a view.
    """
    shape = (spec.image_size, spec.image_size, 3)
    views = np.empty((len(numbers), *shape), dtype=np.uint8)
    for index, number in enumerate(numbers):
        recipe = recipe_of("none" if number == 0 else spec.augment)
        view = recipe.draw(image, spec, generator(spec.seed, "view", sha256, number))
        if view.shape != shape or view.dtype != np.uint8:
            raise SpecError(
                f"the view recipe {spec.augment!r} returns shape {view.shape} and type {view.dtype}; expected {shape} "
                "and uint8. Correct the recipe."
            )
        views[index] = view
    return views
