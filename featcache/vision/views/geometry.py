"""Resize, crop and flip pixels, as torchvision does it."""

from __future__ import annotations

from math import exp, log, sqrt

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from featcache.core.specs import Interpolation, ViewSpec

Pixels = NDArray[np.uint8]
"""Shape (h, w, 3). PyTorch only resizes them: its copies and flips would use all cores in each thread."""

# The centre crop discards what is farther away; resizing a 20,000 x 10 strip whole would take gigabytes.
_MAX_ASPECT = 8


def reduced_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width with the short side at most `side`."""
    short = min(height, width)
    return (height, width) if short <= side else (side * height // short, side * width // short)


def shrink(image: Pixels, side: int) -> Pixels:
    """An image with the short side at most `side`, antialiased."""
    height, width = reduced_size(image.shape[0], image.shape[1], side)
    return image if (height, width) == image.shape[:2] else scale(image, height, width, "bilinear")


def resize(pixels: Pixels, spec: ViewSpec) -> Pixels:
    """Short side to resize_size, antialiased, as torchvision's Resize does."""
    height, width = pixels.shape[:2]
    limit = _MAX_ASPECT * min(height, width)
    pixels = crop_center(pixels, min(height, limit), min(width, limit))
    height, width = pixels.shape[:2]
    short = min(height, width)
    return scale(pixels, spec.resize_size * height // short, spec.resize_size * width // short, spec.interpolation)


def scale(pixels: Pixels, height: int, width: int, interpolation: Interpolation) -> Pixels:
    """The same pixels as torchvision's antialiased `resize`, in C order.

    The batch axis comes before the permutation. Added after it, its stride is that of one pixel. PyTorch then returns
    channels first, and each copy of the result takes several times as long.
    """
    batch = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))[None].permute(0, 3, 1, 2)  # channels last
    resized = interpolate(batch, [height, width], mode=interpolation, antialias=True)
    return resized.permute(0, 2, 3, 1)[0].numpy()


def crop_center(pixels: Pixels, height: int, width: int) -> Pixels:
    """The middle of an image, rounded as torchvision rounds it."""
    top, left = round((pixels.shape[0] - height) / 2), round((pixels.shape[1] - width) / 2)
    return pixels[top : top + height, left : left + width]


def random_flip(pixels: Pixels, rng: Generator) -> Pixels:
    """The image, mirrored with probability 1/2."""
    return mirror(pixels) if rng.random() < 0.5 else pixels


def mirror(pixels: Pixels) -> Pixels:
    """The image with left and right exchanged, in C order."""
    mirrored = np.empty(pixels.shape, pixels.dtype)
    # In one assignment NumPy's innermost loop is the three channels of a pixel, which takes four times as long.
    for channel in range(pixels.shape[2]):
        mirrored[:, :, channel] = pixels[:, ::-1, channel]
    return mirrored


def random_resized_crop(pixels: Pixels, spec: ViewSpec, rng: Generator) -> Pixels:
    """A random crop, aspect ratio 3/4 to 4/3, resized (Szegedy et al. 2015)."""
    return resized_box(pixels, crop_box(pixels.shape[0], pixels.shape[1], rng), spec)


def resized_box(pixels: Pixels, box: tuple[int, int, int, int], spec: ViewSpec) -> Pixels:
    """A part of an image at the size of a view; box : top, left, height, width."""
    top, left, height, width = box
    crop = pixels[top : top + height, left : left + width]
    return scale(crop, spec.image_size, spec.image_size, spec.interpolation)


def crop_box(
    height: int, width: int, rng: Generator, smallest_area: float = 0.08, aspect: float = 1.0
) -> tuple[int, int, int, int]:
    """Top, left, height, width of a random crop, by default drawn as torchvision's RandomResizedCrop draws it.

    smallest_area : of the crop, as a fraction of the image.
    aspect : the ratio of width to height is 3/4 to 4/3 times this one.
    """
    smallest, largest = aspect * 3 / 4, aspect * 4 / 3
    for _ in range(10):
        area = height * width * rng.uniform(smallest_area, 1.0)
        ratio = aspect * exp(rng.uniform(log(3 / 4), log(4 / 3)))
        h, w = round(sqrt(area / ratio)), round(sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    h, w = height, width  # no crop fits: the largest central one with an allowed ratio
    if width < height * smallest:
        h = round(width / smallest)
    elif width > height * largest:
        w = round(height * largest)
    return (height - h) // 2, (width - w) // 2, h, w
