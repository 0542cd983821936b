"""Resize, crop and flip give the pixels of a plain reference, at any size and memory layout, in C order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from featcache.core.rng import generator
from featcache.core.specs import AUGMENTS, ViewSpec
from featcache.core.view_recipes import recipe_of
from featcache.vision.augment import make_views
from featcache.vision.views.geometry import crop_box, mirror, scale
from featcache.vision.views.trivial import trivial_augment

Pixels = NDArray[np.uint8]

SHA = bytes(range(32))
SIZES = [
    (1, 1), (1, 2), (2, 1), (1, 3000), (3000, 1), (3, 5), (8, 3000), (3000, 9), (31, 33), (37, 50), (223, 224),
    (224, 224), (257, 225), (256, 256), (375, 500), (500, 375), (769, 1023), (1999, 3000), (3000, 1201),
]  # fmt: skip
"""Heights and widths."""
LAYOUTS: dict[str, Callable[[Pixels], Pixels]] = {
    "C order": lambda image: image,
    "Fortran order": np.asfortranarray,
    "channels first": lambda image: np.ascontiguousarray(image.transpose(2, 0, 1)).transpose(1, 2, 0),
    "negative strides": lambda image: np.ascontiguousarray(image[::-1, ::-1, ::-1])[::-1, ::-1, ::-1],
    "window": lambda image: np.pad(image, [(2, 3), (5, 1), (0, 0)])[2:-3, 5:-1],
    "three of four channels": lambda image: np.pad(image, [(0, 0), (0, 0), (0, 1)])[:, :, :3],
    "every second pixel": lambda image: image.repeat(2, axis=0).repeat(2, axis=1)[::2, ::2],
    "read-only": lambda image: np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape),
}
"""The same image in another arrangement in memory."""


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), dtype=np.uint8)


def plain_scale(pixels: Pixels, height: int, width: int, interpolation: str) -> Pixels:
    """Each channel resized alone, in the default layout of PyTorch."""
    planes = torch.from_numpy(np.array([pixels[:, :, channel] for channel in range(3)]))[:, None]
    return interpolate(planes, [height, width], mode=interpolation, antialias=True)[:, 0].permute(1, 2, 0).numpy()


def plain_resize(pixels: Pixels, spec: ViewSpec) -> Pixels:
    height, width = pixels.shape[:2]
    longest = 8 * min(height, width)
    pixels = plain_center(pixels, min(height, longest), min(width, longest))
    height, width = pixels.shape[:2]
    short, side = min(height, width), spec.resize_size
    return plain_scale(pixels, side * height // short, side * width // short, spec.interpolation)


def plain_center(pixels: Pixels, height: int, width: int) -> Pixels:
    top, left = round((pixels.shape[0] - height) / 2), round((pixels.shape[1] - width) / 2)
    return pixels[top : top + height, left : left + width]


def plain_view(image: Pixels, spec: ViewSpec, number: int) -> Pixels:
    """A view of a recipe by indexing and `plain_scale` alone."""
    recipe, size, rng = spec.augment, spec.image_size, generator(spec.seed, "view", SHA, number)
    if recipe == "none":
        return plain_center(plain_resize(image, spec), size, size)
    if recipe == "crop":
        resized = plain_resize(image, spec)
        top, left = (int(rng.integers(length - size + 1)) for length in resized.shape[:2])
        view = resized[top : top + size, left : left + size]
    else:
        gentle = (0.5, image.shape[1] / image.shape[0]) if recipe.startswith("gentle") else ()
        top, left, height, width = crop_box(*image.shape[:2], rng, *gentle)
        view = plain_scale(image[top : top + height, left : left + width], size, size, spec.interpolation)
    if recipe != "gentle":
        view = view[:, ::-1] if rng.random() < 0.5 else view
    if recipe == "trivial":
        view = trivial_augment(torch.from_numpy(view.copy()).permute(2, 0, 1), rng).permute(1, 2, 0).numpy()
    return view


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_views_of_any_size_are_those_of_the_reference(height: int, width: int, augment: str) -> None:
    image, numbers = noise(height, width), range(1, 5)
    spec = ViewSpec(30, 33, "bicubic" if (height + width) % 2 else "bilinear", augment=augment, seed=1)
    expected = np.stack([plain_view(image, spec, number) for number in numbers])
    np.testing.assert_array_equal(make_views(image, spec, SHA, numbers), expected)


@pytest.mark.parametrize("augment", AUGMENTS)
def test_views_of_224_pixels_are_those_of_the_reference(augment: str) -> None:
    image, spec = noise(375, 500), ViewSpec(224, 256, augment=augment)
    for number in range(1, 9):
        np.testing.assert_array_equal(
            make_views(image, spec, SHA, [number])[0], plain_view(image, spec, number), err_msg=f"{number=}"
        )


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_views_do_not_depend_on_the_layout_of_the_image(layout: str, augment: str) -> None:
    image, spec = noise(61, 83), ViewSpec(30, 33, augment=augment)
    arranged = LAYOUTS[layout](image)
    np.testing.assert_array_equal(arranged, image)
    expected = np.stack([plain_view(image, spec, number) for number in range(1, 9)])
    np.testing.assert_array_equal(make_views(arranged, spec, SHA, range(1, 9)), expected)


@pytest.mark.parametrize("left", [slice(None, 41), slice(-41, None), slice(None)])
@pytest.mark.parametrize("top", [slice(None, 17), slice(-17, None), slice(None)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_resized_crop_at_a_border_is_that_of_the_reference(interpolation: Any, top: slice, left: slice) -> None:
    crop = noise(61, 83)[top, left]
    for height, width in ((30, 30), (17, 41), (100, 7), (1, 1)):
        np.testing.assert_array_equal(
            scale(crop, height, width, interpolation), plain_scale(crop, height, width, interpolation)
        )


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=150, deadline=None)
def test_a_resized_image_is_that_of_the_reference_in_c_order(h: int, w: int, height: int, width: int) -> None:
    image = noise(h, w)
    resized = scale(image, height, width, "bilinear")
    np.testing.assert_array_equal(resized, plain_scale(image, height, width, "bilinear"))
    assert resized.flags.c_contiguous  # or each crop and copy of it takes several times as long


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize(("height", "width"), SIZES[:12])
def test_a_mirrored_image_is_the_reversed_one_in_c_order(height: int, width: int, layout: str) -> None:
    image = noise(height, width)
    mirrored = mirror(LAYOUTS[layout](image))
    np.testing.assert_array_equal(mirrored, image[:, ::-1])
    assert mirrored.flags.c_contiguous


@pytest.mark.parametrize("augment", [augment for augment in AUGMENTS if augment != "trivial"])
def test_the_rows_of_a_view_can_be_copied_whole(augment: str) -> None:
    spec = ViewSpec(30, 33, augment=augment)
    for number in range(1, 9):
        view = recipe_of(augment).draw(noise(61, 83), spec, generator(0, "view", SHA, number))
        assert view.strides[1:] == (3, 1)
