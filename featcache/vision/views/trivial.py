"""Recipe "trivial": random resized crop, flip and TrivialAugmentWide (Müller and Hutter 2021), as in torchvision."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from featcache.core.specs import ViewSpec
from featcache.core.view_recipes import VIEW_RECIPES, ViewRecipe
from featcache.vision.views.geometry import Pixels, draw_plan
from featcache.vision.views.tutorial import plan_tutorial

_BINS = 31


def draw_trivial(image: Pixels, spec: ViewSpec, rng: Generator) -> Pixels:
    """See `DrawView`."""
    plan = plan_tutorial(image.shape[0], image.shape[1], spec, rng)
    view = torch.from_numpy(draw_plan(image, plan, spec)).permute(2, 0, 1)
    return trivial_augment(view, rng).permute(1, 2, 0).numpy()


def trivial_augment(pixels: Tensor, rng: Generator) -> Tensor:
    """One random operation at a random strength, as torchvision's TrivialAugmentWide; shape (3, h, w), uint8."""
    name = str(rng.choice(list(_operations())))
    strength = float(rng.integers(_BINS)) / (_BINS - 1)
    sign = -1.0 if rng.random() < 0.5 else 1.0
    return apply_trivial(pixels, name, strength, sign)


def apply_trivial(pixels: Tensor, name: str, strength: float, sign: float) -> Tensor:
    """One operation of TrivialAugmentWide at a strength of 0 to 1."""
    operation, maximum, is_signed = _operations()[name]
    return operation(pixels, maximum * strength * (sign if is_signed else 1.0))


@cache
def _operations() -> dict[str, tuple[Callable[[Tensor, float], Tensor], float, bool]]:
    """Operation, maximal magnitude, and whether its sign is drawn (Müller and Hutter 2021, the "wide" space)."""
    from torchvision.transforms.v2 import functional as F  # takes seconds to import

    return {
        "Identity": (lambda p, m: p, 0.0, False),
        "ShearX": (lambda p, m: _shear(F, p, m, 0.0), 0.99, True),
        "ShearY": (lambda p, m: _shear(F, p, 0.0, m), 0.99, True),
        "TranslateX": (lambda p, m: _translate(F, p, m, 0.0), 32.0, True),
        "TranslateY": (lambda p, m: _translate(F, p, 0.0, m), 32.0, True),
        "Rotate": (lambda p, m: F.rotate(p, m), 135.0, True),
        "Brightness": (lambda p, m: F.adjust_brightness(p, 1 + m), 0.99, True),
        "Color": (lambda p, m: F.adjust_saturation(p, 1 + m), 0.99, True),
        "Contrast": (lambda p, m: F.adjust_contrast(p, 1 + m), 0.99, True),
        "Sharpness": (lambda p, m: F.adjust_sharpness(p, 1 + m), 0.99, True),
        "Posterize": (lambda p, m: F.posterize(p, 8 - round(m)), 6.0, False),
        "Solarize": (lambda p, m: F.solarize(p, 255 * (1 - m)), 1.0, False),
        "AutoContrast": (lambda p, m: F.autocontrast(p), 0.0, False),
        "Equalize": (lambda p, m: F.equalize(p), 0.0, False),
    }


def _shear(functional: Any, pixels: Tensor, x: float, y: float) -> Tensor:
    degrees = [float(np.degrees(np.arctan(x))), float(np.degrees(np.arctan(y)))]
    return functional.affine(pixels, angle=0.0, translate=[0, 0], scale=1.0, shear=degrees, center=[0, 0])


def _translate(functional: Any, pixels: Tensor, x: float, y: float) -> Tensor:
    return functional.affine(pixels, angle=0.0, translate=[int(x), int(y)], scale=1.0, shear=[0.0, 0.0])


VIEW_RECIPES.register("trivial", ViewRecipe(draw_trivial))
