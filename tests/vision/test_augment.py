"""LAW 1: a view is a pure function of pixels, spec, seed, content hash and view number."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchvision.transforms import v2

from featcache.core.rng import generator
from featcache.core.specs import AUGMENTS, ViewSpec
from featcache.vision.augment import make_views
from featcache.vision.views import gentle, trivial
from featcache.vision.views.geometry import crop_box
from featcache.vision.views.trivial import apply_trivial, trivial_augment
from toys import random_image

SHA = bytes(range(32))
INTERPOLATIONS = {"bilinear": v2.InterpolationMode.BILINEAR, "bicubic": v2.InterpolationMode.BICUBIC}
OPERATIONS = v2.TrivialAugmentWide._AUGMENTATION_SPACE

Pixels = NDArray[np.uint8]


def noise(width: int, height: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def to_tensor(image: Pixels) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)


def to_array(tensor: torch.Tensor) -> Pixels:
    return tensor.permute(1, 2, 0).numpy()


def torchvision_clean(image: Pixels, spec: ViewSpec) -> Pixels:
    resize = v2.Resize(spec.resize_size, interpolation=INTERPOLATIONS[spec.interpolation], antialias=True)
    return to_array(v2.Compose([resize, v2.CenterCrop(spec.image_size)])(to_tensor(image)))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("width", "height"), [(50, 37), (37, 50), (16, 16), (5, 3), (1, 1), (2, 16), (97, 13)])
def test_view_0_is_torchvisions_resize_and_centre_crop(width: int, height: int, interpolation: str) -> None:
    image = noise(width, height)
    spec = ViewSpec(14, 16, interpolation)
    np.testing.assert_array_equal(make_views(image, spec, SHA, [0])[0], torchvision_clean(image, spec))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.integers(0, 6))
@settings(max_examples=60, deadline=None)
def test_view_0_is_torchvisions_at_any_size(width: int, height: int, size: int, margin: int) -> None:
    if max(width, height) > 8 * min(width, height):
        return
    image = noise(width, height)
    spec = ViewSpec(size, size + margin)
    np.testing.assert_array_equal(make_views(image, spec, SHA, [0])[0], torchvision_clean(image, spec))


@pytest.mark.parametrize(("width", "height"), [(400, 20), (20, 400)])
def test_view_0_of_a_long_strip_is_its_centre(width: int, height: int) -> None:
    slope = np.linspace(0, 255, max(width, height))
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[...] = slope.reshape((1, -1, 1) if width > height else (-1, 1, 1))
    spec = ViewSpec(14, 16)
    view = make_views(image, spec, SHA, [0])[0].astype(int)
    assert np.abs(view - torchvision_clean(image, spec)).max() <= 1


@pytest.mark.parametrize("augment", AUGMENTS)
def test_view_0_does_not_depend_on_recipe_seed_or_hash(augment: str) -> None:
    image = noise(30, 20)
    expected = torchvision_clean(image, ViewSpec(14, 16))
    np.testing.assert_array_equal(
        make_views(image, ViewSpec(14, 16, augment=augment, seed=7), b"x" * 32, [0])[0], expected
    )


def test_recipe_none_shows_view_0_every_time() -> None:
    image, spec = noise(30, 20), ViewSpec(14, 16, augment="none")
    shown = make_views(image, spec, SHA, [0, 1, 2, 9])
    np.testing.assert_array_equal(shown, np.broadcast_to(shown[0], shown.shape))
    np.testing.assert_array_equal(shown[0], torchvision_clean(image, spec))


@pytest.mark.parametrize("augment", AUGMENTS)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=6))
@settings(max_examples=15, deadline=None)
def test_a_view_does_not_depend_on_the_views_asked_before_it(augment: str, numbers: list[int]) -> None:
    image, spec = noise(30, 20), ViewSpec(14, 16, augment=augment)
    together = make_views(image, spec, SHA, numbers)
    for index, number in enumerate(numbers):
        np.testing.assert_array_equal(together[index], make_views(image, spec, SHA, [number])[0])


@pytest.mark.parametrize("augment", AUGMENTS)
def test_views_ignore_the_global_random_state(augment: str) -> None:
    image, spec = noise(30, 20), ViewSpec(14, 16, augment=augment)
    shown = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)
        shown.append(make_views(image, spec, SHA, range(5)))
    np.testing.assert_array_equal(*shown)


@pytest.mark.parametrize("augment", ["tutorial", "crop", "trivial", "gentle", "gentle-flip"])
def test_seed_hash_and_number_each_change_an_augmented_view(augment: str) -> None:
    image = noise(60, 40)
    shown = [
        make_views(image, ViewSpec(14, 24, augment=augment, seed=seed), sha, [number])[0].tobytes()
        for seed, sha, number in [(0, SHA, 1), (1, SHA, 1), (0, SHA[::-1], 1), (0, SHA, 2)]
    ]
    assert len(set(shown)) == 4


@pytest.mark.parametrize("augment", AUGMENTS)
def test_making_views_leaves_the_image_alone(augment: str) -> None:
    image = noise(30, 20)
    before = image.copy()
    make_views(image, ViewSpec(14, 16, augment=augment), SHA, range(8))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 50), (300, 2)])
def test_every_recipe_takes_images_of_any_shape(augment: str, width: int, height: int) -> None:
    image = np.full((height, width, 3), (10, 20, 30), dtype=np.uint8)
    spec = ViewSpec(8, 10, augment="tutorial" if augment == "trivial" else augment)
    assert (make_views(image, spec, SHA, range(4)) == (10, 20, 30)).all()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("augment", "shape"), [("tutorial", (0.08,)), ("gentle-flip", (0.5, 50 / 37))])
def test_a_view_is_the_resized_box_flipped_or_not(augment: str, shape: tuple[float, ...], interpolation: str) -> None:
    image, spec = noise(50, 37), ViewSpec(14, 16, interpolation, augment=augment, seed=3)
    flips = []
    for number in range(1, 21):
        view = make_views(image, spec, SHA, [number])[0]
        box = crop_box(37, 50, generator(3, "view", SHA, number), *shape)
        resized = v2.functional.resized_crop(
            to_tensor(image), *box, [14, 14], interpolation=INTERPOLATIONS[interpolation], antialias=True
        )
        straight = to_array(resized)
        flips.append(not np.array_equal(view, straight))
        np.testing.assert_array_equal(view, straight[:, ::-1] if flips[-1] else straight)
    assert 0 < sum(flips) < 20


def test_a_gentle_view_is_the_resized_box() -> None:
    image, spec = noise(50, 37), ViewSpec(14, 16, augment="gentle", seed=3)
    for number in range(1, 21):
        box = crop_box(37, 50, generator(3, "view", SHA, number), 0.5, 50 / 37)
        resized = v2.functional.resized_crop(to_tensor(image), *box, [14, 14], antialias=True)
        np.testing.assert_array_equal(make_views(image, spec, SHA, [number])[0], to_array(resized))


@pytest.mark.parametrize("augment", ["gentle", "gentle-flip"])
@pytest.mark.parametrize(
    ("height", "width"), [(300, 300), (300, 400), (200, 500), (100, 300), (300, 100), (100, 1000), (2000, 100)]
)
def test_a_gentle_crop_of_any_image_has_at_least_half_of_the_area(
    height: int, width: int, augment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = []
    drawn = crop_box
    monkeypatch.setattr(gentle, "crop_box", lambda *draw, **options: boxes.append(drawn(*draw, **options)) or boxes[-1])
    make_views(noise(width, height), ViewSpec(8, 8, augment=augment), SHA, range(1, 401))
    _, _, heights, widths = np.array(boxes).T
    areas = heights * widths / (height * width)
    shapes = widths / heights / (width / height)
    assert len(boxes) == 400
    assert min(areas) == pytest.approx(0.5, abs=0.02)
    assert max(areas) > 0.9
    assert min(shapes) == pytest.approx(3 / 4, rel=0.05)
    assert max(shapes) == pytest.approx(4 / 3, rel=0.05)
    assert len(set(boxes)) > 200  # not always the same one


def test_a_crop_view_is_a_window_of_the_resized_image_flipped_or_not() -> None:
    image, spec = noise(33, 25), ViewSpec(9, 12, augment="crop")
    resized = to_array(v2.Resize(12, antialias=True)(to_tensor(image)))
    windows = {}
    for top in range(resized.shape[0] - 8):
        for left in range(resized.shape[1] - 8):
            window = resized[top : top + 9, left : left + 9]
            windows[window.tobytes()] = (top, left, False)
            windows[window[:, ::-1].tobytes()] = (top, left, True)
    matches = [windows[view.tobytes()] for view in make_views(image, spec, SHA, range(1, 301))]
    tops, lefts, flips = (Counter(values) for values in zip(*matches, strict=True))
    assert set(tops) == set(range(resized.shape[0] - 8))
    assert set(lefts) == set(range(resized.shape[1] - 8))
    assert set(flips) == {False, True}


@pytest.mark.parametrize("augment", ["crop", "tutorial", "gentle-flip"])
def test_half_of_the_views_are_flipped(augment: str) -> None:
    image = np.zeros((10, 10, 3), dtype=np.uint8)
    image[...] = np.linspace(0, 250, 10)[None, :, None]
    shown = make_views(image, ViewSpec(10, 10, augment=augment), SHA, range(1, 801)).astype(float)
    falling = shown[:, :, 0].mean((1, 2)) > shown[:, :, -1].mean((1, 2))
    assert abs(falling.mean() - 0.5) < 0.06  # 3.4 standard errors


def test_a_trivial_view_is_a_tutorial_view_and_one_operation() -> None:
    image = noise(50, 37)
    tutorial, trivial = (ViewSpec(14, 16, augment=augment) for augment in ("tutorial", "trivial"))
    for number in range(1, 30):
        rng = generator(0, "view", SHA, number)
        crop_box(37, 50, rng)
        rng.random()
        base = make_views(image, tutorial, SHA, [number])[0]
        np.testing.assert_array_equal(
            make_views(image, trivial, SHA, [number])[0], to_array(trivial_augment(to_tensor(base), rng))
        )


@pytest.mark.parametrize(
    ("smallest", "boxes"),
    [
        (0.08, [(10, 22, 287, 368), (9, 130, 284, 231), (87, 217, 174, 142)]),
        (0.5, [(3, 15, 296, 379), (8, 24, 284, 230), (11, 4, 263, 345)]),
    ],
)
def test_crop_box_is_pinned_for_a_seed(smallest: float, boxes: list[tuple[int, int, int, int]]) -> None:
    rng = generator(0, "view", SHA, 1)
    assert [crop_box(300, 400, rng, smallest) for _ in range(3)] == boxes


GOLDEN_VIEWS = {
    "tutorial": [[42, 210], [229, 131], [42, 210], [125, 19], [4, 124]],
    "crop": [[73, 203], [153, 23], [203, 73], [173, 43], [173, 43]],
    "gentle": [[8, 228], [62, 230], [31, 217], [14, 178], [6, 186]],
    "gentle-flip": [[228, 8], [230, 62], [31, 217], [178, 14], [6, 186]],
}
"""Red at the left and at the right edge of views 1 to 5: a recipe whose pixels change needs another name."""


@pytest.mark.parametrize("augment", list(GOLDEN_VIEWS))
def test_the_views_of_a_recipe_are_pinned(augment: str) -> None:
    rows, columns = np.mgrid[:40, :60]
    image = np.stack([4 * columns, 6 * rows, 2 * (rows + columns)], axis=2).astype(np.uint8)
    views = make_views(image, ViewSpec(14, 16, augment=augment, seed=3), SHA, range(1, 6))
    np.testing.assert_allclose(views[:, 7, [0, -1], 0], GOLDEN_VIEWS[augment], atol=1)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 2**40))
@settings(max_examples=300, deadline=None)
def test_crop_box_lies_inside_the_image(height: int, width: int, seed: int) -> None:
    top, left, h, w = crop_box(height, width, generator(seed, "box"))
    assert h >= 1
    assert w >= 1
    assert 0 <= top <= height - h
    assert 0 <= left <= width - w


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(10, 1000, (0, 493, 10, 13)), (1000, 10, (493, 0, 13, 10)), (1, 1, (0, 0, 1, 1))],
)
def test_crop_box_without_a_fit_is_the_central_one(height: int, width: int, box: tuple[int, int, int, int]) -> None:
    class Never(np.random.Generator):
        def uniform(self, low: float, high: float) -> float:  # type: ignore[override]
            return high

    rng = Never(np.random.Philox(0))
    assert crop_box(height, width, rng) == box


@pytest.mark.parametrize(("height", "width"), [(300, 400), (224, 224), (100, 150)])
def test_crop_box_is_distributed_as_torchvisions(height: int, width: int) -> None:
    draws = 4000
    torch.manual_seed(0)
    crop = v2.RandomResizedCrop(8)
    blank = torch.zeros(3, height, width, dtype=torch.uint8)
    theirs = [crop.make_params([blank]) for _ in range(draws)]
    theirs = [(box["top"], box["left"], box["height"], box["width"]) for box in theirs]
    ours = [crop_box(height, width, generator(0, "box", number)) for number in range(draws)]
    for statistic in (_area, _log_ratio, _centre_x, _centre_y):
        a, b = statistic(np.array(ours), height, width), statistic(np.array(theirs), height, width)
        error = np.sqrt((a.var() + b.var()) / draws)
        assert abs(a.mean() - b.mean()) < 4 * error
        assert a.std() == pytest.approx(b.std(), rel=0.06)
        np.testing.assert_allclose(np.quantile(a, [0.1, 0.5, 0.9]), np.quantile(b, [0.1, 0.5, 0.9]), atol=0.2 * b.std())


def _area(boxes: NDArray[np.int64], height: int, width: int) -> NDArray[np.float64]:
    return boxes[:, 2] * boxes[:, 3] / (height * width)


def _log_ratio(boxes: NDArray[np.int64], height: int, width: int) -> NDArray[np.float64]:
    return np.log(boxes[:, 3] / boxes[:, 2])


def _centre_x(boxes: NDArray[np.int64], height: int, width: int) -> NDArray[np.float64]:
    return (boxes[:, 1] + boxes[:, 3] / 2) / width


def _centre_y(boxes: NDArray[np.int64], height: int, width: int) -> NDArray[np.float64]:
    return (boxes[:, 0] + boxes[:, 2] / 2) / height


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_trivial_operation_is_torchvisions(name: str) -> None:
    pixels = to_tensor(np.array(random_image(5, 40, 36)))
    reference = v2.TrivialAugmentWide()
    magnitudes_of, signed = OPERATIONS[name]
    magnitudes = magnitudes_of(31, 36, 40)
    for step in (0, 1, 4, 11, 16, 23, 30):
        for sign in (1.0, -1.0) if signed else (1.0,):
            magnitude = 0.0
            if magnitudes is not None:
                # torchvision's own steps are float32: 1e-7 off, which flips the rounding of some pixels
                first, last = (round(float(magnitudes[end]), 6) for end in (0, -1))
                magnitude = sign * (first + (last - first) * step / 30)
                magnitude = round(magnitude) if name == "Posterize" else magnitude
                assert magnitude == pytest.approx(sign * float(magnitudes[step]), abs=1e-5)
            expected = reference._apply_image_or_video_transform(
                pixels, name, magnitude, interpolation=reference.interpolation, fill=reference._fill
            )
            result = apply_trivial(pixels, name, step / 30, sign)
            np.testing.assert_array_equal(result.numpy(), expected.numpy(), err_msg=f"{step=} {sign=}")


def test_unsigned_operations_ignore_the_sign() -> None:
    pixels = to_tensor(noise(20, 20))
    for name in ("Posterize", "Solarize", "Equalize"):
        positive, negative = (apply_trivial(pixels, name, 0.7, sign) for sign in (1.0, -1.0))
        np.testing.assert_array_equal(positive.numpy(), negative.numpy())


def test_trivial_draws_every_operation_strength_and_sign_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, float, float]] = []

    def record(pixels: torch.Tensor, name: str, strength: float, sign: float) -> torch.Tensor:
        drawn.append((name, strength, sign))
        return pixels

    monkeypatch.setattr(trivial, "apply_trivial", record)
    blank = torch.zeros(3, 2, 2, dtype=torch.uint8)
    for number in range(3100):
        trivial_augment(blank, generator(0, "draw", number))
    names, strengths, signs = (Counter(values) for values in zip(*drawn, strict=True))
    assert set(names) == set(OPERATIONS)
    assert all(abs(count - 3100 / 14) < 4 * (3100 / 14) ** 0.5 for count in names.values())
    assert sorted(strengths) == [step / 30 for step in range(31)]
    assert all(60 < count < 140 for count in strengths.values())
    assert abs(signs[1.0] - 1550) < 4 * 28
    assert set(signs) == {1.0, -1.0}
