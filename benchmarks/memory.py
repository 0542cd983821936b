"""Measure the peak memory of extract and fit-head for increasing numbers of images.

    python benchmarks/memory.py [--images 10000 100000 1000000]

Each size has a folder of small images (hard links to 1,000 different files) and a cheap network with 1,280 features,
so a million images give a cache of 2.6 GB. extract and fit-head run in separate processes. Private memory (RssAnon of
Linux) is sampled every 20 ms. Pages of the memory-mapped cache are not counted, because the system can reclaim them.
The same commands on 1,000 images show the memory of the libraries alone. fit-head stops after 10 iterations: more
iterations take more time but not more memory. Seconds cover the whole process, including imports. Writes
results/memory.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

FLOOR, DISTINCT, WIDTH = 1_000, 1_000, 1_280


def write_images(folder: Path, images: int) -> None:
    """Noise of 8 x 8 pixels in two classes. Equal images have the same class and split."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(images):
        kind = number % DISTINCT
        target = folder / ("val" if kind % 6 == 0 else "train") / ("a" if kind % 2 else "b") / f"{number:07d}.png"
        if number < DISTINCT:
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(target)
        else:
            os.link(target.with_name(f"{kind:07d}.png"), target)


def run_extract(data: str, out: str) -> None:
    """Runs in a separate process: a fixed random layer on the pixels."""
    import torch
    from torch import nn

    from featcache import extract
    from featcache.backbones.backbone import Backbone

    torch.manual_seed(0)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(1), nn.Linear(48, WIDTH), nn.ReLU())
    extract(data, out, backbone=Backbone(net, name="cheap", image_size=8, resize_size=8), views=0, batch_size=256)


def run_fit(cache: str) -> None:
    """Runs in a separate process."""
    from sklearn.exceptions import ConvergenceWarning

    from featcache import fit_head

    warnings.simplefilter("ignore", ConvergenceWarning)
    fit_head(cache, parameters={"max_iter": 10})


def watched(*arguments: str) -> dict[str, float]:
    """Peak private memory in MB, and seconds, of this script with other arguments."""
    started, peak = time.perf_counter(), 0
    process = subprocess.Popen([sys.executable, __file__, *arguments])
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        lines = dict(line.split(":", 1) for line in status.splitlines())
        peak = max(peak, int(lines.get("RssAnon", "0 kB").split()[0]))
        time.sleep(0.02)
    if process.wait():
        sys.exit(f"{' '.join(arguments)} ended with status {process.returncode}")
    return {"peak MB": round(peak / 1024), "seconds": round(time.perf_counter() - started, 1)}


def main() -> None:
    """Run, print and write JSON."""
    import record

    from featcache.cache.feature_cache import FeatureCache

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    options = parser.parse_args()
    measured, results = record.commit(), {}
    for images in (FLOOR, *options.images):
        with tempfile.TemporaryDirectory() as folder:
            data, out = Path(folder, "data"), Path(folder, "cache.h5")
            write_images(data, images)
            extracted = watched("extract", str(data), str(out))
            cache = FeatureCache.open(out)
            regions = (*cache.layout.layers.values(), cache.layout.crc32, cache.layout.done, cache.layout.skipped)
            results[f"{images:,}"] = {
                "features MB": round(cache.layout.layers["penultimate"].size_bytes / 2**20),
                "ids, labels and hashes in the file MB": round(
                    (cache.size_bytes - sum(region.size_bytes for region in regions)) / 2**20
                ),
                "extract": extracted,
                "fit-head": watched("fit-head", str(out)),
            }
        print(f"{images:,}", results[f"{images:,}"], file=sys.stderr)
    record.write("memory", {"images": results}, measured)


if __name__ == "__main__":
    if sys.argv[1:2] == ["extract"]:
        run_extract(*sys.argv[2:])
    elif sys.argv[1:2] == ["fit-head"]:
        run_fit(*sys.argv[2:])
    else:
        main()
