"""A toy backbone with a known answer, and noise for images. On the pytest path: tests import `toys`."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import nn

from featcache.backbones.backbone import Backbone
from featcache.models.inputs.image import ImageInputs

TOY_SIZE = 8
TOY_MEAN, TOY_STD = (0.5, 0.25, 0.75), (0.5, 1.0, 0.25)
TOY_BN_MEAN, TOY_BN_VAR = (0.1, -0.2, 0.3), (4.0, 0.25, 1.0)


class ToyNet(nn.Module):
    """Channel means through a BatchNorm with set statistics: wrong as soon as it runs in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3, eps=1e-12)  # torch 2.11 refuses 0
        self.norm.running_mean = torch.tensor(TOY_BN_MEAN)
        self.norm.running_var = torch.tensor(TOY_BN_VAR)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.mean((2, 3)))


def toy_backbone(**options: object) -> Backbone:
    options = {
        "image_size": TOY_SIZE,
        "resize_size": TOY_SIZE + 2,
        "mean": TOY_MEAN,
        "std": TOY_STD,
        **options,
    }
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


def image_inputs() -> ImageInputs:
    """Images for a model on features of the toy backbone."""
    return ImageInputs(toy_backbone().extract_spec(views=0, dtype="float32"))
