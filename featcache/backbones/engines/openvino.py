"""`OpenVinoEngine`: a frozen network for images in OpenVINO, two to three times as fast as PyTorch on CPUs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featcache.backbones.engines import openvino_files
from featcache.backbones.engines.base import PendingFeatures
from featcache.backbones.engines.openvino_network import OpenVinoNetwork, compare_features
from featcache.core.specs import Precision

if TYPE_CHECKING:
    from featcache.backbones.feature_extractor import FeatureExtractor
    from featcache.data.sample_loader import Inputs

_VIEWS_AT_ONCE = 8
"""Per stream: the activations of 8 views stay in the cache of a core (32 took a tenth to a quarter longer)."""


class OpenVinoEngine:
    """A converted network for images of one size; see `OpenVinoNetwork` and `Engine`.

    Parameters
    ----------
    extractor : returns the network; called only if there is no cached conversion.
    path : file of the cached conversion; None to cache none.

    Raises
    ------
    RuntimeError : OpenVINO cannot convert this network, or returns other features.
    """

    note = ""

    def __init__(
        self, extractor: Callable[[], FeatureExtractor], image_size: int, precision: Precision, path: Path | None
    ) -> None:
        def check(network: OpenVinoNetwork) -> None:
            pixels, original = noise_pictures(image_size), extractor()
            converted = network.submit([pixels]).result()
            compare_features(converted, original.embed(pixels), original.embed(pixels, "fp32"), precision)

        self._network = OpenVinoNetwork(
            path,
            precision,
            convert=lambda: _convert(extractor(), image_size),
            check=check,
            smallest=[np.zeros((1, image_size, image_size, 3), np.uint8)],
        )
        self.max_in_flight = 2 * self._network.streams * _VIEWS_AT_ONCE

    def submit(self, pixels: Inputs) -> PendingFeatures:
        """See `Engine`."""
        pixels = np.asarray(pixels)
        size = min(_VIEWS_AT_ONCE, max(_VIEWS_AT_ONCE // 2, -(-len(pixels) // self._network.streams)))
        starts = range(0, len(pixels), size)
        batches = [self._network.submit([pixels[start : start + size]]) for start in starts]
        return lambda: [np.concatenate(layer) for layer in zip(*(batch.result() for batch in batches), strict=True)]


def _convert(extractor: FeatureExtractor, image_size: int) -> Any:
    import torch

    example = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    return openvino_files.convert(extractor, [example], [(-1, image_size, image_size, 3)])


def noise_pictures(size: int) -> NDArray[np.uint8]:
    """Four pictures (4, size, size, 3) of noise on a coarse grid, which is as smooth as photos."""
    cell = max(1, size // 14)
    grid = np.random.default_rng(0).integers(0, 256, (4, -(-size // cell), -(-size // cell), 3), dtype=np.uint8)
    return grid.repeat(cell, axis=1).repeat(cell, axis=2)[:, :size, :size].copy()
