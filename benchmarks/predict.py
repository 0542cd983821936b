"""Compare `featcache predict` with `featcache extract --views 0` on the same 2,000 photos, and with a cache.

    python benchmarks/predict.py [DATA] [--images 2000] [--networks efficientnet_lite0 resnet18] [--repeats 5]
    python benchmarks/predict.py [DATA] --from-cache [--rows 20000] [--images 2000] ...

DATA defaults to FEATCACHE_ANTS_BEES. Its JPEG photos are copied in turn until there are --images of them. Each
command is a separate process, timed from start to end, including imports and loading. The same command also runs on
the first 20 photos, which gives the startup time. The rate after the start is that of the other photos in the time
difference. Each repeat runs all commands once, one after the other, so that a slow moment of the machine affects all
of them. The results are the median, the minimum and the maximum; ratios are computed within each repeat. All photos
are in the page cache, and an untimed run stores the conversions of the networks before. resnet18 has random weights.
extract reads every file twice (it first hashes all of them) and writes a cache. predict reads each file once and
writes a CSV file.

--from-cache compares `predict HEAD PHOTOS` with `predict HEAD CACHE` instead: on the cache of these photos, from
start to end; and on a cache of --rows rows, the features of the photos with noise, against one of 20 rows, which gives
the rate after the start. It also gives the largest difference of a probability between the photos and their cache.

Writes results/predict.json; --from-cache writes a part of it, "from a cache".
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
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


def arrays_of(cache: Path, rows: int, folder: Path) -> tuple[Path, Path, Path]:
    """A cache of 20 rows, one of many rows, and a head: all layers of the rows of a cache, with noise."""
    features = featcache.FeatureCache.open(cache).features("train", "all")
    x, rng = np.asarray(features.clean(), np.float32), np.random.default_rng(0)
    numbers = rng.integers(0, len(x), rows)
    parts = np.array_split(numbers, max(1, rows // 5000))
    noise = (0.1 * rng.standard_normal((len(part), x.shape[1]), np.float32) for part in parts)
    noisy = np.concatenate([(x[part] + one).astype(np.float16) for part, one in zip(parts, noise, strict=True)])
    y = features.y[numbers]
    few, many, head = folder / "few.h5", folder / "many.h5", folder / "arrays-head"
    for path, n in ((few, START), (many, rows)):
        featcache.FeatureCache.from_arrays(noisy[:n], y[:n], path, name="noisy", overwrite=True)
    featcache.fit_head(many, head, head="ridge")
    return few, many, head


def probabilities(path: Path) -> dict[str, tuple[str, float]]:
    """The label and its probability of each file name in a CSV of predictions."""
    with path.open(newline="") as file:
        return {Path(row["path"]).name: (row["label"], float(row["probability"])) for row in csv.DictReader(file)}


def compare_with_cache(photos: Path, few: Path, cache: Path, head: Path, options: Any, scratch: Path) -> dict[str, Any]:
    """Seconds and rates of predicting photos, and their features."""
    few_rows, many_rows, arrays_head = arrays_of(cache, options.rows, scratch)
    jobs = {
        "photos few": (head, few),
        "photos all": (head, photos),
        "cache all": (head, cache),
        "rows few": (arrays_head, few_rows),
        "rows all": (arrays_head, many_rows),
    }
    figures, out = defaultdict(list), scratch / "out.csv"
    written = {}
    for number in range(options.repeats):
        took = {}
        for name, (model, data) in jobs.items():
            took[name] = run("predict", model, data, "--format", "csv", "-o", out, "--overwrite")
            written[name] = probabilities(out) if name in ("photos all", "cache all") else {}
        print(cache.stem, number + 1, {name: round(value, 2) for name, value in took.items()}, file=sys.stderr)
        rate = (options.images - START) / (took["photos all"] - took["photos few"])
        cached_rate = (options.rows - START) / (took["rows all"] - took["rows few"])
        for name, value in (
            ("photos, s", took["photos all"]),
            ("cache of the photos, s", took["cache all"]),
            ("times faster from start to end", took["photos all"] / took["cache all"]),
            (f"photos, s to start (with {START})", took["photos few"]),
            (f"cache, s to start (with {START})", took["rows few"]),
            ("photos/s after the start", rate),
            ("rows/s after the start", cached_rate),
            ("times the rate after the start", cached_rate / rate),
        ):
            figures[name].append(value)
    live, cached = written["photos all"], written["cache all"]
    same = [(live[name], cached[name]) for name in live]
    return {
        **{name: record.spread(values) for name, values in figures.items()},
        "other labels": sum(a[0] != b[0] for a, b in same),
        "largest difference of a probability": float(f"{max(abs(a[1] - b[1]) for a, b in same):.1e}"),
    }


def main() -> None:
    """Parse options, measure, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default=os.environ.get("FEATCACHE_ANTS_BEES"))
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--networks", nargs="+", default=["efficientnet_lite0", "resnet18"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--from-cache", action="store_true")
    parser.add_argument("--rows", type=int, default=20_000)
    options = parser.parse_args()
    if not options.data:
        sys.exit("give DATA, or set FEATCACHE_ANTS_BEES to a folder of photos")
    measured, results, before = record.commit(), {}, os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        photos = copied(options.data, options.images, scratch / "photos")
        few = copied(options.data, START, scratch / "few")
        for name in options.networks:
            weights = "pretrained" if name == "efficientnet_lite0" else "none"
            network = ["--backbone", name, "--weights", weights]
            first = scratch / f"{name}.h5"
            run("extract", photos, "-o", first, "--views", 0, "--allow-leak", *network)
            if options.from_cache:
                featcache.fit_head(first, scratch / name)
                results[name] = compare_with_cache(photos, few, first, scratch / name, options, scratch)
                continue
            featcache.fit_head(first, scratch / name, parameters={"C": 0.1})
            rounds = []
            for number in range(options.repeats):
                rounds.append(one_round(photos, few, network, scratch / name, scratch))
                print(name, number + 1, {k: round(v, 2) for k, v in rounds[-1].items()}, file=sys.stderr)
            results[name] = summary(rounds, options.images, START)
    sizes = {"images": options.images, "repeats": options.repeats}
    if options.from_cache:
        sizes |= {"rows": options.rows, "load before (1 minute)": round(before, 1)}
        record.write_part("predict", "from a cache", {**sizes, **results}, measured)
    else:
        record.write("predict", {**sizes, **results}, measured)


if __name__ == "__main__":
    main()
