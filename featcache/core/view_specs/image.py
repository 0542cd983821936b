"""`ViewSpec`: how pixels become a view."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from featcache.core.view_specs.base import Augment, Recipes, SampleView, check_choice
from featcache.core.view_specs.registry import VIEW_SPECS
from featcache.errors import SpecError

Interpolation = Literal["bilinear", "bicubic"]

CACHED_AUGMENT = "gentle"
"""Default recipe of views of images in a cache: the best in the mean of benchmarks/views.py."""
LIVE_AUGMENT = "tutorial"
"""Default recipe of live training on images. A cache without views has it, too, as in older versions."""
AUGMENTS: tuple[str, ...] = ("tutorial", "crop", "trivial", "gentle", "gentle-flip", "none")
"""The view recipes of featcache for images."""
_SCALE_FREE = ("tutorial", "gentle", "gentle-flip", "none")  # recipes that do the same at all sizes of a view
MOST_PIXELS = 4096  # of the side of a view; larger values are rejected as invalid


@dataclass(frozen=True)
class ViewSpec(SampleView):
    """How pixels become a view. View 0 is resized and centre-cropped; views 1, 2, ... are augmented.

    Parameters
    ----------
    image_size : int, default 224
        Height and width of a view, in pixels.
    resize_size : int, default 256
        Short side of the image before the centre crop, in pixels.
    interpolation : {"bilinear", "bicubic"}, default "bilinear"
        How images are resized.
    augment : str, default "tutorial"
        Name of the view recipe for views 1, 2, ...: "tutorial", "crop", "trivial", "gentle", "gentle-flip", "none", or
        one that another package adds, which becomes "NAME@VERSION".
    seed : int, default 0
        Seed of the augmentation.
    value_range : (float, float), optional
        For pixels with more than 8 bits a channel: the values that become black and white. None keeps the upper 8 bits
        of 16.
    decode_side : int, optional
        JPEG files are decoded at 1/8, 1/4 or 1/2 of their size: the smallest at which the short side of the image has
        at least this many pixels, and in full if there is none. At least `resize_size`. None decodes all files in full.
        Views are then not exactly those of the whole image: with twice `resize_size`, the features of clean views
        changed by a mean cosine distance of 5e-4 (`benchmarks/reduced_decoding.py`), as by bf16.
    mean : (float, float, float), default that of ImageNet
        Mean of each RGB channel, for pixels scaled to 0..1. The network normalizes a view with it.
    std : (float, float, float), default that of ImageNet
        Standard deviation of each RGB channel, for pixels scaled to 0..1.

    Raises
    ------
    SpecError
        A value is not possible.

    Examples
    --------
    >>> ViewSpec(image_size=160, resize_size=182).augment
    'tutorial'
    """

    modality: ClassVar[str] = "image"
    recipes: ClassVar[Recipes] = Recipes(
        AUGMENTS, CACHED_AUGMENT, LIVE_AUGMENT, LIVE_AUGMENT, ("gentle", "gentle-flip", "crop", "tutorial")
    )
    newer: ClassVar[Mapping[str, Any]] = MappingProxyType({"value_range": None, "decode_side": None})

    image_size: int = 224
    resize_size: int = 256
    interpolation: Interpolation = "bilinear"
    augment: Augment = "tutorial"
    seed: int = 0
    value_range: tuple[float, float] | None = None
    decode_side: int | None = None
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.value_range is not None:
            object.__setattr__(self, "value_range", _range(self.value_range))
        object.__setattr__(self, "augment", _recipe_name(self.augment))
        check_choice("interpolation", self.interpolation, Interpolation)
        for name in ("mean", "std"):  # 1 and 1.0 are equal, so they must have one digest
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        if not 1 <= self.image_size <= self.resize_size <= MOST_PIXELS:
            raise SpecError(
                f"image_size {self.image_size} and resize_size {self.resize_size}: need "
                f"1 <= image_size <= resize_size <= {MOST_PIXELS}"
            )
        if self.decode_side is not None and self.decode_side < self.resize_size:
            raise SpecError(
                f"decode_side is {self.decode_side}; it must be at least resize_size, which is {self.resize_size}, or "
                "the views would be enlarged"
            )

    @property
    def input_size(self) -> int:
        """Size of the network's input, which its engine is prepared for: the side of a view."""
        return self.image_size

    def shows_same(self, other: SampleView) -> bool:
        """See `SampleView`. Most recipes crop a part of the image, whatever the size of the view.

        Parameters
        ----------
        other : SampleView
            The view to compare with.
        """
        if not (isinstance(other, ViewSpec) and super().shows_same(other)):
            return False
        sizes = [(view.image_size, view.resize_size) for view in (self, other)]
        return self.decode_side == other.decode_side and (self.augment in _SCALE_FREE or sizes[0] == sizes[1])


def _recipe_name(augment: str) -> str:
    """The name of a view recipe as the digest has it; of one that another package adds with its version."""
    from featcache.core.view_recipes import VIEW_RECIPES, versioned_name  # which no help needs

    name = versioned_name(augment, AUGMENTS) if isinstance(augment, str) else None
    if name is None:
        added = [name for name in VIEW_RECIPES.names() if name not in AUGMENTS]
        raise SpecError(f"augment is {augment!r}; it must be one of {', '.join([*AUGMENTS, *added])}")
    return name


def _range(value: Any) -> tuple[float, float]:
    try:
        low, high = map(float, value)
    except (TypeError, ValueError) as error:
        raise SpecError(f"value_range is {value!r}; it must be two numbers, low and high") from error
    if not -math.inf < low < high < math.inf:
        raise SpecError(f"value_range is {low:g} to {high:g}; the low value must be below the high one")
    return low, high


VIEW_SPECS.register(ViewSpec.modality, ViewSpec)
