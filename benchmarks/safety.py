"""Measure the cost of safety: the share of hashes, checksums, fsync and allocation in extraction and fitting.

    python benchmarks/safety.py [DATA] [--repeats 3]

DATA defaults to FEATCACHE_ANTS_BEES. Each repeat calls extract() with the embedded network and 4 views, then
fit_head(), in this process. A first repeat (imports, conversion of the network) is not counted. The clock covers the
whole call; the time of each safety measure is summed within it. Writes results/safety.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import record

from featcache import extract, fit_head
from featcache.cache import feature_cache, writer


def timed(call: Callable[..., Any], spent: dict[str, float], name: str) -> Callable[..., Any]:
    """Wrap a function: each call adds its seconds to spent[name]."""

    def measured(*arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(*arguments, **options)
        finally:
            spent[name] += time.perf_counter() - started

    return measured


def summary(values: list[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def main() -> None:
    """Run, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default=os.environ.get("FEATCACHE_ANTS_BEES"))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if not options.data:
        sys.exit("give DATA, or set FEATCACHE_ANTS_BEES to a folder of class folders")
    measured = record.commit()
    spent: dict[str, float] = defaultdict(float)
    writer.checksums = timed(writer.checksums, spent, "checksums")  # type: ignore[assignment]
    feature_cache.damaged_rows = timed(feature_cache.damaged_rows, spent, "look at the checksums")  # type: ignore[attr-defined]
    os.fsync = timed(os.fsync, spent, "fsync")
    os.posix_fallocate = timed(os.posix_fallocate, spent, "claim the room")
    seconds: dict[str, list[float]] = defaultdict(list)
    shares: dict[str, list[float]] = defaultdict(list)
    for repeat in range(options.repeats + 1):
        with tempfile.TemporaryDirectory(dir=".") as folder:
            for name in ("extract", "fit_head"):
                spent.clear()
                started = time.perf_counter()
                if name == "extract":
                    done = extract(options.data, Path(folder, "cache.h5"))
                    spent["hash"] = done.report.seconds["hash"]
                else:
                    fit_head(Path(folder, "cache.h5"))
                wall = time.perf_counter() - started
                if repeat:
                    seconds[name].append(wall)
                    for part, value in spent.items():
                        shares[f"{part}, of {name}"].append(value / wall)
    figures = {
        "data": Path(options.data).name,
        "seconds": {name: summary(values) for name, values in seconds.items()},
        "shares": {name: summary(values) for name, values in shares.items()},
    }
    record.write("safety", figures, measured)


if __name__ == "__main__":
    main()
