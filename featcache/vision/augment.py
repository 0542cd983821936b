"""The view function: from an image's pixels to the square that the network sees.

A view is a pure function of the pixels, the `ViewSpec` and the key (seed, content hash, view number). View 0 is
the clean evaluation view; view e is what live training shows in epoch e. The content hash, not the path, names
the image, so that a renamed or relabelled file keeps its views.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, log, sqrt

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from featcache.core.rng import generator
from featcache.core.specs import Augment, Interpolation, ViewSpec

Pixels = NDArray[np.uint8]
"""(h, w, 3). PyTorch resizes them and does nothing else: it would copy and flip with all cores in each thread."""

_Recipe = Callable[[Pixels, ViewSpec, Generator], Pixels]

# The centre crop throws away what lies beyond; resizing a 20,000 x 10 strip whole would cost gigabytes.
_MAX_ASPECT = 8


def make_views(image: Pixels, spec: ViewSpec, sha256: bytes, numbers: Sequence[int]) -> NDArray[np.uint8]:
    """Some views of one image.

    Parameters
    ----------
    image : ndarray, shape (h, w, 3), uint8. Upright RGB.
    sha256 : hash of the image file's bytes, which names the image.
    numbers : view numbers; 0 is the clean view.

    Returns
    -------
    views : ndarray, shape (len(numbers), s, s, 3), uint8, with s = spec.image_size.
    """
    views = np.empty((len(numbers), spec.image_size, spec.image_size, 3), dtype=np.uint8)
    for place, number in enumerate(numbers):
        recipe = _RECIPES["none" if number == 0 else spec.augment]
        views[place] = recipe(image, spec, generator(spec.seed, "view", sha256, number))
    return views


def reduced_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width with the short side at most `side`."""
    short = min(height, width)
    return (height, width) if short <= side else (side * height // short, side * width // short)


def shrink(image: Pixels, side: int) -> Pixels:
    """An image with the short side at most `side`, antialiased."""
    height, width = reduced_size(image.shape[0], image.shape[1], side)
    return image if (height, width) == image.shape[:2] else _scaled(image, height, width, "bilinear")


def _resize(pixels: Pixels, spec: ViewSpec) -> Pixels:
    """Short side to resize_size, antialiased, as torchvision's Resize does."""
    height, width = pixels.shape[:2]
    limit = _MAX_ASPECT * min(height, width)
    pixels = _centre(pixels, min(height, limit), min(width, limit))
    height, width = pixels.shape[:2]
    short = min(height, width)
    return _scaled(pixels, spec.resize_size * height // short, spec.resize_size * width // short, spec.interpolation)


def _scaled(pixels: Pixels, height: int, width: int, interpolation: Interpolation) -> Pixels:
    """What torchvision's antialiased `resize` gives, in a third of the time: the kernel is told of the layout."""
    batch = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(2, 0, 1)[None]  # channels last
    resized = interpolate(batch, [height, width], mode=interpolation, antialias=True)[0]
    return resized.permute(1, 2, 0).numpy()


def _centre(pixels: Pixels, height: int, width: int) -> Pixels:
    """The middle, rounded as torchvision rounds it."""
    top, left = round((pixels.shape[0] - height) / 2), round((pixels.shape[1] - width) / 2)
    return pixels[top : top + height, left : left + width]


def _flip(pixels: Pixels, rng: Generator) -> Pixels:
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def _random_resized_crop(pixels: Pixels, spec: ViewSpec, rng: Generator) -> Pixels:
    """Inception's crop (Szegedy et al. 2015): 8-100 % of the area, aspect ratio 3/4 to 4/3, resized."""
    top, left, height, width = crop_box(pixels.shape[0], pixels.shape[1], rng)
    crop = pixels[top : top + height, left : left + width]
    return _scaled(crop, spec.image_size, spec.image_size, spec.interpolation)


def crop_box(height: int, width: int, rng: Generator) -> tuple[int, int, int, int]:
    """Top, left, height, width of a random crop, drawn as torchvision's RandomResizedCrop draws it."""
    for _ in range(10):
        area = height * width * rng.uniform(0.08, 1.0)
        ratio = exp(rng.uniform(log(3 / 4), log(4 / 3)))
        h, w = round(sqrt(area / ratio)), round(sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    h, w = height, width  # no crop fitted: the largest central one with an allowed ratio
    if width < height * 3 / 4:
        h = round(width / (3 / 4))
    elif width > height * 4 / 3:
        w = round(height * (4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def _tutorial(pixels: Pixels, spec: ViewSpec, rng: Generator) -> Pixels:
    """RandomResizedCrop and flip: the PyTorch and MindSpore tutorials."""
    return _flip(_random_resized_crop(pixels, spec, rng), rng)


def _crop(pixels: Pixels, spec: ViewSpec, rng: Generator) -> Pixels:
    """A random square of the resized image, and flip: the Gluon tutorial."""
    resized = _resize(pixels, spec)
    height, width = resized.shape[:2]
    size = spec.image_size
    top, left = int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
    return _flip(resized[top : top + size, left : left + size], rng)


def _trivial(pixels: Pixels, spec: ViewSpec, rng: Generator) -> Pixels:
    """RandomResizedCrop, flip, TrivialAugmentWide: torchvision's training recipe."""
    from featcache.vision.trivial_augment import trivial_augment  # of torchvision, which takes seconds to import

    view = torch.from_numpy(_tutorial(pixels, spec, rng).copy()).permute(2, 0, 1)
    return trivial_augment(view, rng).permute(1, 2, 0).numpy()


def _clean(pixels: Pixels, spec: ViewSpec, rng: Generator) -> Pixels:
    """Resize and centre crop: view 0 of every recipe."""
    return _centre(_resize(pixels, spec), spec.image_size, spec.image_size)


_RECIPES: dict[Augment, _Recipe] = {
    "tutorial": _tutorial,
    "crop": _crop,
    "trivial": _trivial,
    "none": _clean,
}
