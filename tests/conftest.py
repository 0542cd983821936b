"""Shared instruments: a toy backbone with a known answer, small image folders, the real photos."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from featcache.backbones import Backbone

TOY_SIZE = 8
TOY_MEAN, TOY_STD = (0.5, 0.25, 0.75), (0.5, 1.0, 0.25)
TOY_BN_MEAN, TOY_BN_VAR = (0.1, -0.2, 0.3), (4.0, 0.25, 1.0)


class ToyNet(nn.Module):
    """Channel means through a BatchNorm with set statistics: wrong as soon as it runs in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3, eps=0.0)
        self.norm.running_mean = torch.tensor(TOY_BN_MEAN)
        self.norm.running_var = torch.tensor(TOY_BN_VAR)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.mean((2, 3)))


def toy_backbone(**options: object) -> Backbone:
    options = {"image_size": TOY_SIZE, "resize_size": TOY_SIZE + 2, "mean": TOY_MEAN, "std": TOY_STD, **options}
    return Backbone(ToyNet(), name="toy", **options)


def toy_answer(pixels: np.ndarray) -> np.ndarray:
    """What ToyNet says of uint8 pixels (..., s, s, 3), in two lines of numpy."""
    normalised = (pixels.astype(np.float64).mean((-3, -2)) / 255 - TOY_MEAN) / np.array(TOY_STD)
    return (normalised - TOY_BN_MEAN) / np.sqrt(TOY_BN_VAR)


def random_image(seed: int, width: int = 20, height: int = 14, tint: int = 0) -> Image.Image:
    """Noise on a slope, brighter in channel `tint`."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 120, (height, width, 3)) + np.linspace(0, 60, width)[None, :, None]
    pixels[..., tint % 3] += 70
    return Image.fromarray(pixels.astype(np.uint8))


MakeFolder = Callable[..., Path]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """make_folder({"train/ants": 3, "val/ants": 1, ...}): PNG images, all different, tinted by class."""

    def make(counts: dict[str, int], name: str = "data") -> Path:
        root = tmp_path / name
        classes = sorted({Path(folder).name for folder in counts})
        for place, (folder, count) in enumerate(counts.items()):
            (root / folder).mkdir(parents=True)
            for number in range(count):
                image = random_image(1000 * place + number, tint=classes.index(Path(folder).name))
                image.save(root / folder / f"{number:03d}.png")
        return root

    return make


@pytest.fixture
def split_folder(make_folder: MakeFolder) -> Path:
    """Two classes, 7 + 6 training and 3 + 2 val images."""
    return make_folder({"train/ants": 7, "train/bees": 6, "val/ants": 3, "val/bees": 2})


def _from_environment(name: str) -> Path:
    value = os.environ.get(name)
    if not value:
        pytest.skip(f"{name} is not set")
    return Path(value)


@pytest.fixture
def ants_bees() -> Path:
    """The folder of the real photos."""
    return _from_environment("FEATCACHE_ANTS_BEES")


@pytest.fixture
def mobilenet_weights() -> Path:
    """Real ImageNet weights of torchvision's mobilenet_v2."""
    return _from_environment("FEATCACHE_WEIGHTS")
