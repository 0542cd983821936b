"""Compare `featcache predict` with `featcache extract --views 0` on the same 2,000 photos and networks.

    python benchmarks/predict.py [DATA] [--images 2000] [--networks efficientnet_lite0 resnet18] [--repeats 5]

DATA defaults to FEATCACHE_ANTS_BEES. Its JPEG photos are copied in turn until there are --images of them. Each
command is a separate process, timed from start to end, including imports and loading. The same command also runs on
the first 20 photos, which gives the startup time. The rate after the start is that of the other photos in the time
difference. Each repeat runs all commands once, one after the other, so that a slow moment of the machine affects all
of them. The results are the median, the minimum and the maximum; ratios are computed within each repeat. All photos
are in the page cache, and an untimed run stores the conversions of the networks before. resnet18 has random weights.
extract reads every file twice (it first hashes all of them) and writes a cache. predict reads each file once and
writes a CSV file.

Writes results/predict.json.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from itertools import cycle
from pathlib import Path
from typing import Any

import record

import featcache

START = 20
COMMAND = [sys.executable, "-c", "from featcache_cli.main import main; main()"]


def run(*arguments: object) -> float:
    """Seconds of one command, from the start to the end of its process."""
    line = [*COMMAND, *map(str, arguments)]
    return record.seconds(lambda: subprocess.run(line, capture_output=True, check=True))


def copied(data: str, images: int, folder: Path) -> Path:
    """Copy the photos of DATA in turn into two class folders."""
    photos = sorted(path for path in Path(data).rglob("*.jpg") if path.is_file())
    for number, photo in zip(range(images), cycle(photos), strict=False):
        target = folder / "ab"[number % 2] / f"{number:05d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(photo, target)
    return folder


def one_round(photos: Path, few: Path, network: list[str], head: Path, scratch: Path) -> dict[str, float]:
    """Seconds of each command on all photos and on the first photos."""
    seconds_by_name = {}
    for name, data in (("few", few), ("all", photos)):
        cache = scratch / "cache.h5"
        cache.unlink(missing_ok=True)
        seconds_by_name[f"extract {name}"] = run("extract", data, "-o", cache, "--views", 0, "--allow-leak", *network)
        seconds_by_name[f"predict {name}"] = run("predict", head, data, "--format", "csv", "-o", scratch / "out.csv")
    return seconds_by_name


def summary(rounds: list[dict[str, float]], images: int, few: int) -> dict[str, Any]:
    """Rates and ratios: median, minimum, maximum."""
    figures = defaultdict(list)
    for round_seconds in rounds:
        for name in ("extract", "predict"):
            whole, start = round_seconds[f"{name} all"], round_seconds[f"{name} few"]
            figures[f"{name}, s"].append(whole)
            figures[f"{name}, s to start (with {few} photos)"].append(start)
            figures[f"{name}, images/s from start to end"].append(images / whole)
            figures[f"{name}, images/s after the start"].append((images - few) / (whole - start))
        for what in ("from start to end", "after the start"):
            ratio = figures[f"predict, images/s {what}"][-1] / figures[f"extract, images/s {what}"][-1]
            figures[f"predict / extract, {what}"].append(ratio)
    return {name: record.spread(values) for name, values in figures.items()}


def main() -> None:
    """Parse options, measure, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default=os.environ.get("FEATCACHE_ANTS_BEES"))
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--networks", nargs="+", default=["efficientnet_lite0", "resnet18"])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if not options.data:
        sys.exit("give DATA, or set FEATCACHE_ANTS_BEES to a folder of photos")
    measured, results = record.commit(), {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        photos = copied(options.data, options.images, scratch / "photos")
        few = copied(options.data, START, scratch / "few")
        for name in options.networks:
            weights = "pretrained" if name == "efficientnet_lite0" else "none"
            network = ["--backbone", name, "--weights", weights]
            first = scratch / f"{name}.h5"
            run("extract", photos, "-o", first, "--views", 0, "--allow-leak", *network)
            featcache.fit_head(first, scratch / name, parameters={"C": 0.1})
            rounds = []
            for number in range(options.repeats):
                rounds.append(one_round(photos, few, network, scratch / name, scratch))
                print(name, number + 1, {k: round(v, 2) for k, v in rounds[-1].items()}, file=sys.stderr)
            results[name] = summary(rounds, options.images, START)
    record.write("predict", {"images": options.images, "repeats": options.repeats, **results}, measured)


if __name__ == "__main__":
    main()
