"""Kill an extraction with SIGKILL at random moments, again and again: what is lost?

    python benchmarks/kill_test.py [--kills 200] [--seed 0]

Each round makes a cache of 240 images with a cheap network. A child is killed after a random time, or right before a
random system call of creating, finishing or renaming; then the next child goes on. Counted: files that do not open
(must be 0), rows that were there and are gone or differ (must be 0), rows extracted twice (at most the block under
way at each kill), finished caches that differ from an undisturbed one (must be 0). Writes results/kills.json.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from PIL import Image
from torch import nn

from featcache import extract
from featcache.backbones import Backbone
from featcache.cache import FeatureCache, partial_path
from featcache.checksums import damaged_rows

IMAGES, VIEWS, BLOCK = 240, 3, 8
SECONDS_A_BLOCK = 0.02
MOMENTS = ["time", "time", "time", "posix_fallocate", "link", "fsync", "replace"]


class Cheap(nn.Module):
    """Channel means of 4 x 4 cells: 48 features."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)


def run(data: str, out: str, moment: str, skip: int, shown: Any) -> None:
    """Extract; die right before call number `skip` of a function of os, where one is given."""
    torch.set_num_threads(1)
    if moment != "time":
        call, left = getattr(os, moment), [skip]

        def deadly(*arguments: Any, **options: Any) -> Any:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return call(*arguments, **options)

        setattr(os, moment, deadly)

    class Counting(Backbone):
        def embed_layers(self, pixels: Any) -> Any:
            found = super().embed_layers(pixels)
            with shown.get_lock():
                shown.value += len(pixels)
            time.sleep(SECONDS_A_BLOCK)
            return found

    backbone = Counting(Cheap(), name="cheap", image_size=32, resize_size=36)
    shown.value -= 1  # its own probe
    extract(data, out, backbone=backbone, views=VIEWS, batch_size=BLOCK * (1 + VIEWS), workers=1)


def write_images(folder: Path) -> None:
    """Noise in two classes."""
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        place = folder / ("val" if number % 6 == 0 else "train") / ("a" if number % 2 else "b") / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(place)


def rows_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """How many views of each row are there, and all features."""
    cache = FeatureCache.open(path, partial=True)
    return cache.done.astype(int), np.array(cache.layout.layers["penultimate"].of(cache.layout.data))


def main() -> None:
    """Run, count, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    measured = record.commit()
    chance = random.Random(options.seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["featcache.extraction", __name__])
    counts = {"kills": 0, "unopenable": 0, "rows lost": 0, "rows changed": 0, "rounds": 0, "rounds that differ": 0}
    kills_by_moment: dict[str, int] = {}
    twice = 0
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        write_images(data)
        shown = context.Value("q", 0)
        child = context.Process(target=run, args=(str(data), str(Path(folder, "whole.h5")), "time", 0, shown))
        child.start()
        child.join()
        undisturbed = shown.value
        _, expected = rows_of(Path(folder, "whole.h5"))
        while counts["kills"] < options.kills:
            counts["rounds"] += 1
            out = Path(folder, f"{counts['rounds']}.h5")
            shown.value = 0
            before = np.zeros(IMAGES, int)
            kills_here = 0
            while not out.exists():
                moment = chance.choice(MOMENTS)
                child = context.Process(target=run, args=(str(data), str(out), moment, chance.randrange(2), shown))
                child.start()
                if moment == "time":
                    child.join(chance.uniform(0, SECONDS_A_BLOCK * IMAGES / BLOCK))
                    child.kill()
                child.join()
                if child.exitcode == -signal.SIGKILL:
                    counts["kills"] += 1
                    kills_here += 1
                    kills_by_moment[moment] = kills_by_moment.get(moment, 0) + 1
                elif child.exitcode:
                    sys.exit(f"a child ended with status {child.exitcode}")
                if not (out.exists() or partial_path(out).exists()):
                    continue
                try:
                    done, found = rows_of(out)
                    cache = FeatureCache.open(out, partial=True)
                except Exception as error:
                    counts["unopenable"] += 1
                    sys.exit(f"unopenable after {moment}: {error}")
                there = np.flatnonzero(done)
                counts["rows lost"] += int(np.count_nonzero(before & ~(done > 0)))
                counts["rows changed"] += int(np.count_nonzero((found[there] != expected[there]).any(axis=(1, 2))))
                counts["rows changed"] += len(damaged_rows(cache.layout, there))
                before = (done > 0).astype(int)
            twice = max(twice, (shown.value - undisturbed) // max(1, kills_here * (1 + VIEWS)))
            counts["rounds that differ"] += int(not np.array_equal(rows_of(out)[1], expected))
            out.unlink()
    answer = {
        **counts,
        "kills by moment": kills_by_moment,
        "images extracted twice per kill, at most": twice,
        "images a block": BLOCK,
    }
    record.write("kills", answer, measured)
    lost = [counts[name] for name in ("unopenable", "rows lost", "rows changed", "rounds that differ")]
    sys.exit(1 if any(lost) or twice > BLOCK else 0)


if __name__ == "__main__":
    main()
