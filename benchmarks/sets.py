"""Labelled image sets of the benchmarks. For each set it is known which property determines the class.

A set is a folder with train, val and test. It is written once; the same seed gives the same bytes. Drawn images have
96 x 96 pixels. Photos and digits are divided into the three parts by a seed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, zoom

from featcache.vision.demo_datasets import ants_bees
from featcache.vision.image_files import write_png

SIDE = 96
COUNTS = {"train": 240, "val": 300, "test": 300}

Draw = Callable[[int, np.random.Generator], NDArray[np.float64]]
"""An image of a class, (SIDE, SIDE, 3); values outside 0 to 255 are clipped."""


def write_set(name: str, folder: Path, seed: int = 0) -> Path:
    """Write one of SETS to `folder`/train, val and test, unless it exists."""
    if not folder.exists():
        draft = folder.with_name(folder.name + ".draft")
        shutil.rmtree(draft, ignore_errors=True)
        SETS[name](draft, np.random.default_rng([seed, *name.encode()]))
        draft.rename(folder)
    return folder


def _drawn(classes: list[str], draw: Draw) -> Callable[[Path, np.random.Generator], None]:
    def write(folder: Path, rng: np.random.Generator) -> None:
        for split, count in COUNTS.items():
            for number in range(count):
                label = number % len(classes)
                _save(draw(label, rng), folder / split / classes[label] / f"{number:04d}.png")

    return write


def _save(pixels: NDArray[np.float64], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(pixels.clip(0, 255).astype(np.uint8), path)


def _grid() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Row and column coordinates of the pixels."""
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(float)
    return rows, columns


def _texture(rng: np.random.Generator) -> NDArray[np.float64]:
    """Grey texture with structures of several sizes."""
    grain = sum(gaussian_filter(rng.normal(size=(SIDE, SIDE)), size) * size for size in (0.7, 2.0, 5.0))
    return np.asarray(130 + 22 * grain)


def _scratched(label: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A noisy surface. Class 1 has one fine scratch or one small hole."""
    surface = _texture(rng)
    rows, columns = _grid()
    at = rng.uniform(25, SIDE - 25, 2)
    if label and rng.random() < 0.5:
        angle, length = rng.uniform(0, np.pi), rng.uniform(12, 24)
        along = (rows - at[0]) * np.sin(angle) + (columns - at[1]) * np.cos(angle)
        across = (rows - at[0]) * np.cos(angle) - (columns - at[1]) * np.sin(angle)
        surface = surface + 34 * np.exp(-(across**2) / 1.2) * (np.abs(along) < length)
    elif label:
        surface = surface - 40 * np.exp(-((rows - at[0]) ** 2 + (columns - at[1]) ** 2) / 10)
    return np.repeat(surface[..., None], 3, axis=2)


def _grating(label: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Stripes under noise, tilted by 0, 10, 20 or 30 degrees, plus or minus three."""
    angle = np.deg2rad(10 * label + rng.uniform(-3, 3))
    rows, columns = _grid()
    wave = np.sin(2 * np.pi / rng.uniform(7, 14) * (rows * np.cos(angle) + columns * np.sin(angle)) + rng.uniform(0, 7))
    grey = 128 + 22 * wave + rng.normal(0, 55, (SIDE, SIDE))
    return np.repeat(grey[..., None], 3, axis=2) * rng.uniform(0.7, 1.1, 3)


def _dots(label: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Two to six separate discs of any size, so the covered area does not reveal the number."""
    rows, columns = _grid()
    picture = np.full((SIDE, SIDE, 3), rng.uniform(20, 110)) + rng.normal(0, 6, (SIDE, SIDE, 3))
    discs: list[tuple[float, float, float]] = []
    while len(discs) < label + 2:
        radius = float(rng.uniform(4, 11))
        row, column = rng.uniform(14 + radius, SIDE - 14 - radius, 2).tolist()
        if all(np.hypot(row - r, column - c) > radius + other + 3 for r, c, other in discs):
            discs.append((row, column, radius))
            picture[np.hypot(rows - row, columns - column) < radius] = rng.uniform(130, 255, 3)
    return picture


def _inside(shape: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Pixels inside a rotated disc, square, triangle or cross at a random position."""
    rows, columns = _grid()
    angle, size = rng.uniform(0, 2 * np.pi), rng.uniform(14, 26)
    row, column = rng.uniform(size + 8, SIDE - size - 8, 2)
    u = (rows - row) * np.cos(angle) - (columns - column) * np.sin(angle)
    v = (rows - row) * np.sin(angle) + (columns - column) * np.cos(angle)
    if shape == 0:
        return np.asarray(np.hypot(u, v) < size)
    if shape == 1:
        return np.asarray(np.maximum(np.abs(u), np.abs(v)) < 0.85 * size)
    if shape == 2:
        return np.asarray((v > -0.55 * size) & (v + np.sqrt(3) * np.abs(u) < size))
    return np.asarray((np.minimum(np.abs(u), np.abs(v)) < 0.3 * size) & (np.maximum(np.abs(u), np.abs(v)) < size))


def _shapes(label: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A disc, square, triangle or cross of any colour on texture of any colour."""
    picture = _texture(rng)[..., None] * rng.uniform(0.4, 1.0, 3)
    picture[_inside(label, rng)] = rng.uniform(0, 255, 3)
    return picture


def _colours(label: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Any shape on texture, in one of five similar hues. Only the hue determines the class."""
    hue = (40 * label + rng.uniform(-9, 9)) / 360
    colour = 255 * np.clip(np.abs((hue + np.array([0, 2 / 3, 1 / 3])) % 1 * 6 - 3) - 1, 0, 1)
    picture = np.repeat(_texture(rng)[..., None], 3, axis=2)
    picture[_inside(int(rng.integers(4)), rng)] = colour
    return picture


def _pairs(label: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Two discs, of one colour in class 1, of two colours in class 0. No part of the image alone shows the class."""
    rows, columns = _grid()
    picture = np.repeat(_texture(rng)[..., None], 3, axis=2)
    first = rng.uniform(0, 255, 3)
    other = first if label else rng.uniform(0, 255, 3)
    for colour, column in ((first, 28), (other, 68)):
        row = rng.uniform(28, 68)
        picture[np.hypot(rows - row, columns - column) < rng.uniform(9, 15)] = colour
    return picture


def _flags(label: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A pole with a flag to the left or to the right. A flip turns one class into the other."""
    picture = _texture(rng)[..., None] * rng.uniform(0.4, 1.0, 3)
    row, column, length = rng.uniform(20, 36), rng.uniform(38, 58), rng.uniform(36, 52)
    rows, columns = _grid()
    along, across = rows - row, (columns - column) * (1 if label else -1)
    picture[(np.abs(across) < 2) & (along > 0) & (along < length)] = rng.uniform(0, 60, 3)
    height, width = rng.uniform(14, 22), rng.uniform(16, 26)
    picture[(across > 0) & (across < width) & (along > 0) & (along < height)] = rng.uniform(120, 255, 3)
    return picture


def _coins(_label: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Shapes with random labels: there is nothing to learn."""
    return _shapes(int(rng.integers(4)), rng)


def _digits(
    counts: dict[str, int], digits: tuple[int, ...] = tuple(range(10)), noise: float = 0.0
) -> Callable[[Path, np.random.Generator], None]:
    """scikit-learn's digits. With noise: pale, on a background of any colour."""

    def write(folder: Path, rng: np.random.Generator) -> None:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        rows = rng.permutation(np.flatnonzero(np.isin(bunch.target, digits)))
        for split, count in counts.items():
            chosen, rows = rows[:count], rows[count:]
            for row in chosen.tolist():
                pixels = zoom(bunch.images[row] * (255 / 16), 8, order=3)[..., None].repeat(3, axis=2)
                if noise:
                    pixels = 0.35 * pixels + rng.uniform(20, 140, 3) + rng.normal(0, noise, pixels.shape)
                _save(pixels, folder / split / str(bunch.target[row]) / f"{row:04d}.png")

    return write


def _photos(dull: bool) -> Callable[[Path, np.random.Generator], None]:
    """Ants and bees. test is the tutorial's val; val is a third of its train. dull: small, grey, noisy."""

    def write(folder: Path, rng: np.random.Generator) -> None:
        source = ants_bees()
        for name in ("ants", "bees"):
            train = sorted((source / "train" / name).glob("*.jpg"))
            held = set(rng.permutation(len(train))[: len(train) // 3].tolist())
            parts = [("val" if index in held else "train", path) for index, path in enumerate(train)]
            parts += [("test", path) for path in sorted((source / "val" / name).glob("*.jpg"))]
            for split, path in parts:
                with Image.open(path) as image:
                    image = image.convert("RGB")
                    image.thumbnail((160, 160) if not dull else (64, 64))
                    pixels = np.asarray(image, float)
                if dull:
                    pixels = pixels.mean(axis=2, keepdims=True).repeat(3, axis=2)
                    pixels = 70 + 0.5 * pixels + rng.normal(0, 25, (*pixels.shape[:2], 1))
                _save(pixels, folder / split / name / f"{path.stem}.png")

    return write


SETS: dict[str, Callable[[Path, np.random.Generator], None]] = {
    "digits": _digits(COUNTS),
    "digits, 900 labels": _digits({**COUNTS, "train": 900}),
    "digits, 60 labels": _digits({**COUNTS, "train": 60}),
    "digits 0 1 2": _digits({"train": 120, "val": 200, "test": 200}, (0, 1, 2)),
    "digits, pale": _digits(COUNTS, noise=30.0),
    "ants and bees": _photos(dull=False),
    "ants and bees, dull": _photos(dull=True),
    "scratches": _drawn(["sound", "torn"], _scratched),
    "gratings": _drawn(["00", "10", "20", "30"], _grating),
    "dots": _drawn(list("23456"), _dots),
    "shapes": _drawn(["disc", "square", "triangle", "xcross"], _shapes),
    "colours": _drawn(list("abcde"), _colours),
    "pairs": _drawn(["other", "same"], _pairs),
    "flags": _drawn(["left", "right"], _flags),
    "coins": _drawn(["heads", "tails"], _coins),
}
"""Name -> function that writes the set."""
