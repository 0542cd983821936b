"""Compare `featcache plan` with real extractions. Writes results/plan.json and results/plan.png.

    python benchmarks/plan.py [--images 2000] [--repeats 3]

- checks: rates are measured as `featcache plan` does, on ants and bees, and give an estimate for an extraction of
  --images photos (each photo is used several times, with different bytes at its end), without a cluster and by one
  worker of a Ray cluster on this machine. The extraction is then run; its clock runs from the first image to the
  finished cache.
- driver: seconds per image that the thread of the driver computes while it receives features from that worker and
  writes them. Without the measured time of writing, the rest is the cost of Ray
  (`featcache.analysis.planning.rates.RAY_S`).
- passes: the number of passes of a linear head that selects its strength, counted on five data sets.
- plan: the plan from these rates, on CPUs like this one, and with an example rate of a GPU, which is not measured.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import record
from cluster import many

from featcache import Cluster, extract
from featcache.analysis.planning.capacity import Rates, plan_capacity
from featcache.analysis.planning.rates import RAY_S, measure_rates
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.features import Features
from featcache.core.samples import Samples
from featcache.data.manifest import read_manifest
from featcache.extraction import extract as extraction
from featcache.heads.kinds import linear
from featcache.heads.tuning.tuning_data import TuningData
from featcache.reports.plots import plot_capacity
from featcache.reports.style import save
from featcache.vision.demo_datasets import ants_bees

EXAMPLE = {"forward_s": 1 / 5000, "on_gpu": True, "cores": 16, "solver_s_per_row": 1 / 50e6}
SETS = ((5_000, 256, 10, 1.0), (5_000, 256, 10, 3.0), (20_000, 512, 100, 2.0))


@contextmanager
def driver_cpu(spent: list[float]) -> Iterator[None]:
    """Add the processor time of this thread while features arrive."""
    fill = extraction.fill_cache

    def timed(*arguments: Any) -> Any:
        before = time.thread_time()
        result = fill(*arguments)
        spent.append(time.thread_time() - before)
        return result

    extraction.fill_cache = timed
    try:
        yield
    finally:
        extraction.fill_cache = fill


def foretold(data: Path, folder: Path, views: int, repeats: int) -> dict[str, Any]:
    """Rates, and the estimated and the real seconds of an extraction."""
    rows, spent, written = [], [], []
    manifest = read_manifest(data)
    n = len(manifest.samples)
    for repeat in range(repeats):
        rates = measure_rates(str(data), views=views)
        plan = plan_capacity(rates, [n], [1], hashed=True)
        written.append(rates.write_s_per_sample - RAY_S)
        estimated = plan.scenarios[0].seconds["extract"]
        seconds = []
        for name, cluster in (("alone", None), ("ray", Cluster())):
            with driver_cpu(spent if cluster else []):
                extraction = extract(manifest, folder / f"{views}-{repeat}-{name}.h5", views=views, cluster=cluster)
            took = extraction.report.seconds
            seconds.append(took["wall"] - took["start"] - took.get("convert", 0.0) - took["stop"])
        rows.append({"foretold_s": estimated, "alone_s": seconds[0], "ray_s": seconds[1]})
        print(f"K={views}: {estimated:.1f} s estimated, {seconds[0]:.1f} s alone, {seconds[1]:.1f} s with one worker")
    return {
        "views": views,
        "images": n,
        "runs": rows,
        "alone / foretold": record.spread([row["alone_s"] / row["foretold_s"] for row in rows]),
        "ray / foretold": record.spread([row["ray_s"] / row["foretold_s"] for row in rows]),
        "driver_s an image": record.spread([cpu_s / n for cpu_s in spent]),
        "driver_s of it for Ray": record.spread([cpu_s / n - w for cpu_s, w in zip(spent, written, strict=True)]),
        "rates": vars(rates),
    }


def count_passes(features: Features) -> dict[str, int]:
    """Passes of linear, with all its folds and strengths."""
    tuning, passes = TuningData(features), 0
    loss_and_gradient = tuning.rows.loss_and_gradient

    def counted(*arguments: Any) -> Any:
        nonlocal passes
        passes += 1
        return loss_and_gradient(*arguments)

    tuning.rows.__dict__["loss_and_gradient"] = counted
    tuned = linear.tune(tuning)
    return {"passes": passes, "strengths": len(tuned.trials), "problems": tuning.problem.k}


def drawn(n: int, d: int, classes: int, apart: float) -> Features:
    """Gaussian clusters of features with decreasing variance."""
    rng = np.random.default_rng(0)
    means = 4 * apart * rng.normal(size=(classes, d)) / np.sqrt(d)
    labels = np.arange(n) % classes
    x = means[labels] + rng.normal(size=(n, d)) * np.logspace(0, -1.5, d)
    hashes = rng.integers(0, 256, (n, 32), dtype=np.uint8)
    names = tuple(map(str, range(classes)))
    samples = Samples(tuple(map(str, range(n))), labels, np.zeros(n, np.uint8), hashes, names)
    return Features(x[:, None].astype(np.float32), samples)


def main() -> None:
    """Measure, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    options, measured = parser.parse_args(), record.commit()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = many(folder / "photos", options.images)
        extract(data, folder / "first.h5", views=0)  # converts the network
        checks = [foretold(data, folder, views, options.repeats) for views in (0, 4)]
        extract(ants_bees(), folder / "ants-bees.h5", views=4)
        train = FeatureCache.open(folder / "ants-bees.h5").features("train")
        passes = {
            "ants/bees, 4 views": count_passes(train),
            "ants/bees, clean": count_passes(train.with_views(0)),
        } | {f"clouds {n:,} x {d}, {c} classes, {apart} apart": count_passes(drawn(n, d, c, apart))
             for n, d, c, apart in SETS}  # fmt: skip
    rates = Rates(**checks[0]["rates"])
    plans = {
        "CPUs as this one": plan_capacity(rates, workers=(1, 8, 64, 512)),
        "GPUs: an example, not measured": plan_capacity(
            replace(rates, **EXAMPLE, provided=tuple(EXAMPLE)), workers=(1, 8, 64), hashed=True
        ),
    }
    save(partial(plot_capacity, plans["CPUs as this one"]), record.RESULTS / "plan.png")
    for title, plan in plans.items():
        print(f"{title}\n{plan}\n")
    record.write(
        "plan", {"checks": checks, "passes": passes, "plans": {k: v.to_dict() for k, v in plans.items()}}, measured
    )


if __name__ == "__main__":
    main()
