"""What test_kill runs in a process of its own: an extraction slow enough to be killed in the middle."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.backbones.backbone import Backbone
from featcache.backbones.engines.base import PendingFeatures
from featcache.extraction.extract import extract
from toys import ToyNet, toy_backbone


class SlowBackbone(Backbone):
    """The toy backbone, 20 ms slower a batch."""

    def submit(self, pixels: NDArray[np.uint8]) -> PendingFeatures:
        time.sleep(0.02)
        return super().submit(pixels)


def extract_slowly(data: str, out: str, started: Connection) -> None:
    toy = toy_backbone()
    options: dict[str, Any] = {
        name: getattr(toy, name) for name in ("image_size", "resize_size", "mean", "std", "name")
    }
    backbone = SlowBackbone(ToyNet(), **options)
    started.send("started")
    extract(data, out, backbone=backbone, views=2, batch_size=3, workers=2)
