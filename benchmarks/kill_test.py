"""Kill an extraction and an update with SIGKILL at random moments, and count what is lost.

    python benchmarks/kill_test.py [--kills 200] [--seed 0]

Each round extracts 240 images with a cheap network. It then updates the cache to a folder in which 60 of the images
are gone and 60 are new. A child process is killed after a random time, or immediately before a random system call
that creates, finishes or renames a file. The next child process continues. The script counts:

- files that do not open (must be 0); during an update, the old cache must open too,
- stored rows that are lost or changed (must be 0),
- rows that are extracted twice (at most the block in progress, for each kill),
- finished caches that differ from an undisturbed one (must be 0),
- files that are left over (must be 0).

Writes results/kills.json.
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
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from PIL import Image
from torch import nn

from featcache import extract, update
from featcache.backbones.backbone import Backbone
from featcache.cache.checksums import damaged_rows
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.paths import partial_path

IMAGES, VIEWS, BLOCK = 240, 3, 8
SECONDS_A_BLOCK = 0.02
MOMENTS = ["time", "time", "time", "posix_fallocate", "link", "fsync", "replace"]


class Cheap(nn.Module):
    """Channel means of 4 x 4 cells: 48 features."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)


class Counting(Backbone):
    """A slow backbone that counts the views it receives."""

    shown: Any

    def submit(self, pixels: Any) -> Any:
        """Submit a batch, and count it."""
        pending = super().submit(pixels)
        self.shown.value += len(pixels)
        time.sleep(SECONDS_A_BLOCK)
        return pending


def load(shown: Any) -> Backbone:
    """Create the cheap network, with its counter at zero."""
    Counting.shown = shown
    backbone = Counting(Cheap(), name="cheap", image_size=32, resize_size=36)
    shown.value -= 1  # its own probe
    return backbone


def run(step: str, data: str, out: str, moment: str, skip: int, shown: Any) -> None:
    """Extract or update. If a function of os is named, die immediately before its call number `skip`."""
    torch.set_num_threads(1)
    if moment != "time":
        call, left = getattr(os, moment), [skip]

        def deadly(*arguments: Any, **options: Any) -> Any:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return call(*arguments, **options)

        setattr(os, moment, deadly)
    batch_size = BLOCK * (1 + VIEWS)
    if step == "extract":
        extract(data, out, backbone=load(shown), views=VIEWS, batch_size=batch_size, workers=1)
    else:
        update(out, data, backbone=load(shown), batch_size=batch_size, workers=1, engine="pytorch")


def write_images(folder: Path, first: int) -> None:
    """Write noise images in two classes."""
    for number in range(first, first + IMAGES):
        target = folder / ("val" if number % 6 == 0 else "train") / ("a" if number % 2 else "b") / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(target)


def rows_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Number of stored views of each row, and all features."""
    cache = FeatureCache(path)
    return cache.done.astype(int), np.array(cache.layout.layers["penultimate"].view(cache.layout.data))


class Trial:
    """Runs child processes and checks their files."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.chance = folder, random.Random(seed)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["featcache.extraction.update", __name__])
        self.shown = self.context.RawValue("q", 0)  # a child that is killed would keep a lock
        self.kills, self.twice = Counter[str](), 0
        self.bad = dict.fromkeys(
            ["unopenable", "rows lost", "rows changed", "rounds that differ", "files left over"], 0
        )

    def child(self, *arguments: Any) -> Any:
        """Start a child process."""
        process = self.context.Process(target=run, args=(*arguments, self.shown))
        process.start()
        return process

    def undisturbed(self, step: str, data: Path, out: Path) -> tuple[np.ndarray, int]:
        """Features, and the number of views, of a run without kills."""
        self.shown.value = 0
        process = self.child(step, str(data), str(out), "time", 0)
        process.join()
        if process.exitcode:
            sys.exit(f"a child ended with status {process.exitcode}")
        return rows_of(out)[1], self.shown.value

    def survive(self, step: str, data: Path, out: Path, expected: np.ndarray, views: int) -> None:
        """Kill and continue until the step finishes."""
        self.shown.value, kills, status = 0, 0, -1
        before = np.zeros(IMAGES, bool)
        while status:
            moment = self.chance.choice(MOMENTS)
            process = self.child(step, str(data), str(out), moment, self.chance.randrange(2))
            if moment == "time":
                process.join(self.chance.uniform(0, SECONDS_A_BLOCK * IMAGES / BLOCK))
                process.kill()
            process.join()
            status = process.exitcode
            if status == -signal.SIGKILL:
                self.kills[f"{step}, {moment}"] += 1
                kills += 1
            elif status:
                sys.exit(f"a child ended with status {status}")
            try:
                if step == "update" or status == 0:
                    FeatureCache.open(out)
                if not partial_path(out).exists():
                    continue
                done, stored = rows_of(partial_path(out))
                damaged = damaged_rows(FeatureCache(partial_path(out)).layout, np.flatnonzero(done))
            except Exception as error:
                self.bad["unopenable"] += 1
                sys.exit(f"cannot be opened after {moment}: {error}")
            is_stored = done > 0
            self.bad["rows lost"] += int(np.count_nonzero(before & ~is_stored))
            self.bad["rows changed"] += int((stored[is_stored] != expected[is_stored]).any(axis=(1, 2)).sum()) + len(
                damaged
            )
            before = is_stored
        self.twice = max(self.twice, (self.shown.value - views) // max(1, kills * (1 + VIEWS)))
        self.bad["rounds that differ"] += int(not np.array_equal(rows_of(out)[1], expected))
        self.bad["files left over"] += len([path for path in out.parent.glob(f"{out.name}*") if path != out])


def main() -> None:
    """Run, count, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    measured = record.commit()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trial = Trial(folder, options.seed)
        steps = [("extract", folder / "data"), ("update", folder / "later")]
        for number, (_, data) in enumerate(steps):
            write_images(data, number * IMAGES // 4)
        whole = folder / "whole.h5"
        expected_results = [trial.undisturbed(step, data, whole) for step, data in steps]
        rounds = 0
        while sum(trial.kills.values()) < options.kills:
            rounds += 1
            out = folder / f"round{rounds}.h5"
            for (step, data), (expected, views) in zip(steps, expected_results, strict=True):
                trial.survive(step, data, out, expected, views)
            out.unlink()
    answer = {
        "kills": sum(trial.kills.values()),
        **trial.bad,
        "rounds": rounds,
        "kills by moment": dict(sorted(trial.kills.items())),
        "images extracted twice per kill, at most": trial.twice,
        "images a block": BLOCK,
    }
    record.write("kills", answer, measured)
    sys.exit(1 if any(trial.bad.values()) or trial.twice > BLOCK else 0)


if __name__ == "__main__":
    main()
