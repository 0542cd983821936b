"""TrivialAugmentWide (Müller and Hutter 2021), drawn from a generator of its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from torch import Tensor
from torchvision.transforms.v2 import functional as F


def _shear(pixels: Tensor, x: float, y: float) -> Tensor:
    degrees = [float(np.degrees(np.arctan(x))), float(np.degrees(np.arctan(y)))]
    return F.affine(pixels, angle=0.0, translate=[0, 0], scale=1.0, shear=degrees, center=[0, 0])


def _translate(pixels: Tensor, x: float, y: float) -> Tensor:
    return F.affine(pixels, angle=0.0, translate=[int(x), int(y)], scale=1.0, shear=[0.0, 0.0])


# Operation, greatest magnitude, whether its sign is drawn (Müller and Hutter 2021, the "wide" space).
_TRIVIAL: dict[str, tuple[Callable[[Tensor, float], Tensor], float, bool]] = {
    "Identity": (lambda p, m: p, 0.0, False),
    "ShearX": (lambda p, m: _shear(p, m, 0.0), 0.99, True),
    "ShearY": (lambda p, m: _shear(p, 0.0, m), 0.99, True),
    "TranslateX": (lambda p, m: _translate(p, m, 0.0), 32.0, True),
    "TranslateY": (lambda p, m: _translate(p, 0.0, m), 32.0, True),
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
_TRIVIAL_BINS = 31


def trivial_augment(pixels: Tensor, rng: Generator) -> Tensor:
    """One random operation at a random strength, as torchvision's TrivialAugmentWide; shape (3, h, w), uint8."""
    name = str(rng.choice(list(_TRIVIAL)))
    strength = float(rng.integers(_TRIVIAL_BINS)) / (_TRIVIAL_BINS - 1)
    sign = -1.0 if rng.random() < 0.5 else 1.0
    return apply_trivial(pixels, name, strength, sign)


def apply_trivial(pixels: Tensor, name: str, strength: float, sign: float) -> Tensor:
    """One operation of TrivialAugmentWide at a strength of 0..1."""
    operation, greatest, signed = _TRIVIAL[name]
    return operation(pixels, greatest * strength * (sign if signed else 1.0))
