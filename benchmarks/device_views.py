"""Views made on a GPU: are they the pixels of the CPU, and how many are made in a second?

Without a GPU the kernels run in Triton's interpreter: the comparison then takes minutes, and nothing is timed. The
clock covers a batch of 256 views from decoded images in memory to pixels on the device, planning and copying included.
The CPU makes them in one thread.

    python benchmarks/device_views.py [--images 60] [--seed 0]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import record
import torch

from featcache.core.specs import AUGMENTS, ViewSpec
from featcache.vision.augment import make_views
from featcache.vision.device_views.device_views import TILE, DecodedViews, DeviceViews
from featcache.vision.device_views.packing import PlannedView

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
RECIPES = [augment for augment in AUGMENTS if augment != "trivial"]
SIZES = (7, 32, 96, 224, 518) if ON_GPU else (7, 32, 48)
LONGEST = 3000 if ON_GPU else 300
TIMED_SIZES = ((375, 500), (1200, 1600))


def noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def random_size(rng: np.random.Generator) -> tuple[int, int]:
    """Height and width, each from 1 pixel on: as many small as large ones, square and long ones."""
    height, width = np.exp(rng.uniform(0, np.log(LONGEST), 2)).astype(int).tolist()
    return height, width


def compare(spec: ViewSpec, images: int, rng: np.random.Generator) -> tuple[int, int]:
    """Number of values that differ, of all values."""
    maker = DeviceViews(spec, TILE if ON_GPU else (256, 256), DEVICE)
    views, expected = [], []
    for _ in range(images):
        image, sha256 = noise(rng, *random_size(rng)), rng.bytes(32)
        planned = maker.plan(image, sha256, range(3))
        assert planned
        views += planned
        expected.append(make_views(image, spec, sha256, range(3)))
    made = DecodedViews(maker, views).to(DEVICE).cpu().numpy()
    assert not maker.note, maker.note
    return int((made != np.concatenate(expected)).sum()), made.size


def rate(job: Callable[[], Any], views: int) -> list[float]:
    """Views per second of nine runs: median, minimum and maximum."""
    job()
    return record.spread([views / record.seconds(job) for _ in range(9)])


def measure(height: int, width: int, rng: np.random.Generator) -> dict[str, list[float]]:
    """Views per second of the device and of one thread, 256 images with one view each."""
    spec = ViewSpec(augment="gentle-flip")
    maker = DeviceViews(spec, device=DEVICE)
    images = [noise(rng, height, width) for _ in range(32)] * 8
    hashes = [rng.bytes(32) for _ in images]

    def on_device() -> None:
        views: list[PlannedView] = []
        for image, sha256 in zip(images, hashes, strict=True):
            views += maker.plan(image.view(), sha256, [1]) or []  # a view of an array, so that each is copied
        DecodedViews(maker, views).to(DEVICE)
        torch.cuda.synchronize()

    def on_cpu() -> None:
        for image, sha256 in zip(images[:32], hashes, strict=False):
            make_views(image, spec, sha256, [1])

    return {"device": rate(on_device, len(images)), "cpu_thread": rate(on_cpu, 32)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60, help="of each recipe, size and interpolation")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not ON_GPU:
        os.environ["TRITON_INTERPRET"] = "1"  # before the first batch imports Triton
    measured, rng = record.commit(), np.random.default_rng(options.seed)
    values, different = 0, {}
    for augment in RECIPES:
        for size in SIZES:
            for interpolation in ("bilinear", "bicubic"):
                spec = ViewSpec(size, size * 8 // 7, interpolation, augment)  # type: ignore[arg-type]
                wrong, of = compare(spec, options.images, rng)
                values += of
                if wrong:
                    different[f"{augment} {size} {interpolation}"] = wrong
                print(f"{augment} {size} {interpolation}: {wrong} of {of} values differ", file=sys.stderr, flush=True)
    figures: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if ON_GPU else "Triton's interpreter",
        "values_compared": values,
        "values_that_differ": different,
    }
    if ON_GPU:
        figures["views_per_s"] = {f"{width}x{height}": measure(height, width, rng) for height, width in TIMED_SIZES}
    record.write("device_views", figures, measured)


if __name__ == "__main__":
    main()
