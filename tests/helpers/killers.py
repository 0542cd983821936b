"""Networks that are slow or that kill their process, for what is killed in other processes."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.backbones.backbone import Backbone
from featcache.backbones.engines.base import PendingFeatures
from featcache.core.ray_cluster import Cluster
from featcache.extraction.extract import extract
from toys import ToyNet, toy_backbone


class Slow(Backbone):
    """The toy backbone, 20 ms slower a batch.

    fatal : a file that lets it kill its process, once; or "white": an image that is white does so, each time.
    """

    fatal: str | None = None

    def submit(self, pixels: NDArray[np.uint8]) -> PendingFeatures:
        time.sleep(0.02)
        if self.fatal == "white" and np.any(np.all(pixels == 255, axis=(1, 2, 3))):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fatal:
            with suppress(FileNotFoundError):  # one of several workers takes it
                Path(self.fatal).unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().submit(pixels)


def slow_backbone(fatal: str | None = None) -> Slow:
    toy = toy_backbone()
    options: dict[str, Any] = {
        name: getattr(toy, name) for name in ("image_size", "resize_size", "mean", "std", "name")
    }
    backbone = Slow(ToyNet(), **options)
    backbone.fatal = fatal
    return backbone


if __name__ == "__main__":
    data, out, address, *fatal = sys.argv[1:]
    extract(data, out, backbone=slow_backbone(*fatal), views=2, batch_size=3, workers=2, cluster=Cluster(address))
