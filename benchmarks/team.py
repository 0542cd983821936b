"""Compare a head fitted by several workers with a fit on one machine. Writes results/team.json.

    python benchmarks/team.py [--images 101000] [--repeats 3]

Features are random: 1,280 per image in float16, with decreasing variance, in ten overlapping classes. With more than
105,000 images they are read again in each pass instead of kept in memory. Three ways take turns: without a cluster;
by one worker of a Ray cluster on this machine with all cores; by two workers with half of the cores each. The clock
of a fit runs from the first pass of the solver to the tuned head; for `linear`, this includes all folds and
strengths. The start of Ray, and the first reading of the rows by each worker, are reported separately. "apart" is the
largest difference of a coefficient divided by the largest coefficient; for probabilities of held-out images, the
largest difference. Memory is the peak private memory (RssAnon) of this process and of a worker.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import record

from featcache import Cluster
from featcache._utils.environment import usable_cores
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.writer import CacheWriter
from featcache.core.samples import Samples
from featcache.core.specs import ExtractSpec, ViewSpec
from featcache.heads.ray.coordinator import TrainingCluster
from featcache.heads.registry import HEADS as KINDS
from featcache.heads.tuning.tuning_data import TunedHead, TuningData

WIDTH, CLASSES, BLOCK = 1280, 10, 8192
HEADS = ("linear", "ridge", "centroid")


def write_cache(path: Path, n: int) -> FeatureCache:
    """Write n training and 100 val images."""
    rng = np.random.default_rng(0)
    labels = np.arange(n + 100) % CLASSES
    means, widths = rng.normal(size=(CLASSES, WIDTH)) * 0.15, np.logspace(0.5, -1, WIDTH)
    names = tuple("abcdefghij"[:CLASSES])
    samples = Samples(
        tuple(f"{row:08d}" for row in range(n + 100)), labels, (np.arange(n + 100) >= n).astype(np.uint8),
        rng.integers(0, 256, (n + 100, 32), dtype=np.uint8), names,
    )  # fmt: skip
    spec = ExtractSpec("drawn", "ab" * 32, ViewSpec(8, 10, mean=(0.5,) * 3, std=(0.25,) * 3), views=0)
    with CacheWriter(path, spec, samples, {"penultimate": WIDTH}, {"device": "cpu"}) as writer:
        for start in range(0, n + 100, BLOCK):
            rows = np.arange(start, min(n + 100, start + BLOCK))
            x = (means[labels[rows]] + rng.normal(size=(len(rows), WIDTH))) * widths
            writer.write(rows, {"penultimate": x[:, None].astype(np.float32)})
        return writer.finish({})


class Memory:
    """Peak private memory, in MB, of this process and of any of Ray's workers, while it is open."""

    def __enter__(self) -> Memory:
        self.here = self.member = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self.here = max(self.here, _private(Path("/proc/self")))
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    if (process / "cmdline").read_bytes().startswith(b"ray::TrainingWorker"):
                        self.member = max(self.member, _private(process))
                except OSError:
                    continue


def _private(process: Path) -> int:
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return int(status.get("RssAnon", "0 kB").split()[0]) // 1024


def fit(cache: FeatureCache, head: str, cluster: Cluster | None) -> tuple[TunedHead, dict[str, float]]:
    """The head, and seconds and megabytes."""
    started = time.perf_counter()
    team = TrainingCluster(cluster, cache.path, "penultimate") if cluster else None
    with closing(team) if team else nullcontext(), Memory() as memory:
        tuning = TuningData(cache.features("train"), cluster=team)
        begun = time.perf_counter()
        tune = KINDS.get(head).tune
        tuned = tune(tuning, lambda: False) if tune else None
        ended = time.perf_counter()
    if tuned is None:
        raise AssertionError("there is time enough")
    return tuned, {"before_s": begun - started, "fit_s": ended - begun, "driver_mb": memory.here,
                   "member_mb": memory.member}  # fmt: skip


def main() -> None:
    """Measure, write and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=101_000)
    parser.add_argument("--repeats", type=int, default=3)
    options, measured = parser.parse_args(), record.commit()
    half = max(1, usable_cores() // 2)
    ways: dict[str, Cluster | None] = {
        "alone": None, "one worker": Cluster(), "two workers": Cluster(cpus_per_worker=half),
    }  # fmt: skip
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = write_cache(Path(folder, "cache.h5"), options.images)
        for head in HEADS:
            runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
            heads: dict[str, TunedHead] = {}
            for _ in range(options.repeats):
                for way, cluster in ways.items():
                    heads[way], figures = fit(cache, head, cluster)
                    runs[way].append(figures)
                    print(head, way, {name: round(value, 2) for name, value in figures.items()})
            results[head] = {"runs": runs, "setting": heads["alone"].setting} | {
                way: {
                    "fit: over alone": record.spread(
                        [run["fit_s"] / alone["fit_s"] for run, alone in zip(runs[way], runs["alone"], strict=True)]
                    ),
                    "same setting": heads[way].setting == heads["alone"].setting,
                    "coefficients apart": apart(heads[way].estimator.coef_, heads["alone"].estimator.coef_),
                    "probabilities apart": float(np.abs(heads[way].probabilities - heads["alone"].probabilities).max()),
                }
                for way in ways
                if way != "alone"
            }
    record.write("team", {"images": options.images, "width": WIDTH, "heads": results}, measured)


def apart(first: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """The largest difference divided by the largest value."""
    return float(np.abs(first - other).max() / np.abs(other).max())


if __name__ == "__main__":
    main()
