"""Resize, crop and flip pixels, as torchvision does it."""

from __future__ import annotations

from math import exp, log, sqrt

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from featcache.core.specs import Interpolation, ViewSpec
from featcache.core.view_recipes import AxisPlan, PlanView, ViewPlan, ViewRecipe

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


def planned_recipe(plan: PlanView) -> ViewRecipe:
    """A recipe whose views are crops, a resize and a flip."""

    def draw(image: Pixels, spec: ViewSpec, rng: Generator) -> Pixels:
        return draw_plan(image, plan(image.shape[0], image.shape[1], spec, rng), spec)

    return ViewRecipe(draw, plan=plan)


def draw_plan(image: Pixels, plan: ViewPlan, spec: ViewSpec) -> Pixels:
    """The view of a plan."""
    rows, columns = plan.rows, plan.columns
    part = image[_part(rows.offset, rows.length), _part(columns.offset, columns.length)]
    resized = scale(part, rows.resized, columns.resized, spec.interpolation)
    view = resized[_part(rows.start, spec.image_size), _part(columns.start, spec.image_size)]
    return mirror(view) if plan.is_mirrored else view


def plan_resize(height: int, width: int, spec: ViewSpec) -> tuple[AxisPlan, AxisPlan]:
    """Rows and columns: short side to resize_size, as torchvision's Resize does."""
    limit = _MAX_ASPECT * min(height, width)
    lengths = min(height, limit), min(width, limit)
    short = min(lengths)
    rows, columns = (
        AxisPlan(center_start(whole, length), length, spec.resize_size * length // short)
        for whole, length in zip((height, width), lengths, strict=True)
    )
    return rows, columns


def plan_box(box: tuple[int, int, int, int], spec: ViewSpec) -> tuple[AxisPlan, AxisPlan]:
    """Rows and columns: a part of an image at the size of a view; box : top, left, height, width."""
    top, left, height, width = box
    return AxisPlan(top, height, spec.image_size), AxisPlan(left, width, spec.image_size)


def center_start(whole: int, length: int) -> int:
    """First pixel of the middle, rounded as torchvision rounds it."""
    return round((whole - length) / 2)


def draws_flip(rng: Generator) -> bool:
    """True with probability 1/2."""
    return rng.random() < 0.5


def scale(pixels: Pixels, height: int, width: int, interpolation: Interpolation) -> Pixels:
    """The same pixels as torchvision's antialiased `resize`, in C order.

    The batch axis comes before the permutation. Added after it, its stride is that of one pixel. PyTorch then returns
    channels first, and each copy of the result takes several times as long.
    """
    batch = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))[None].permute(0, 3, 1, 2)  # channels last
    resized = interpolate(batch, [height, width], mode=interpolation, antialias=True)
    return resized.permute(0, 2, 3, 1)[0].numpy()


def mirror(pixels: Pixels) -> Pixels:
    """The image with left and right exchanged, in C order."""
    mirrored = np.empty(pixels.shape, pixels.dtype)
    # In one assignment NumPy's innermost loop is the three channels of a pixel, which takes four times as long.
    for channel in range(pixels.shape[2]):
        mirrored[:, :, channel] = pixels[:, ::-1, channel]
    return mirrored


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


def _part(start: int, length: int) -> slice:
    return slice(start, start + length)
