"""Measure the overhead of a Ray cluster if one machine would be enough. Writes results/cluster.json.

    python benchmarks/cluster.py [--images 2000] [--repeats 3] [--views 0,4]

The embedded network extracts photos of ants and bees. Each photo is used several times, with different bytes at its
end, so that all files have different contents. Extractions without a cluster and with one worker of a Ray cluster on
this machine take turns. The clock of an extraction runs from the first image to the finished cache. Starting and
stopping Ray, the worker and the network is reported separately. The local engine has already run in this process; the
process of the worker is new. Ratios compare runs of the same repeat. The difference of the features is in the
results.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import record

from featcache import Cluster, extract
from featcache.cache.feature_cache import FeatureCache
from featcache.data.file_listing import list_images
from featcache.vision.demo_datasets import ants_bees


def many(folder: Path, count: int) -> Path:
    """Write `count` different photos."""
    photos = list_images(ants_bees())
    for number in range(count):
        path = photos[number % len(photos)]
        target = folder / ("val" if number % 5 == 0 else "train") / path.parent.name / f"{number:06d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes() + number.to_bytes(4, "little"))
    return folder


def apart(a: FeatureCache, b: FeatureCache) -> float:
    """The largest relative error of a row of features."""
    x, y = (np.asarray(cache.features("val").clean(), np.float64) for cache in (a, b))
    return float((np.linalg.norm(x - y, axis=1) / np.linalg.norm(x, axis=1)).max())


def extract_once(data: Path, out: Path, views: int, cluster: Cluster | None) -> tuple[FeatureCache, float, float]:
    """The cache, the seconds of its extraction, and the seconds before the first and after the last image."""
    extraction = extract(data, out, views=views, cluster=cluster)
    seconds = extraction.report.seconds
    around = seconds["start"] + seconds.get("convert", 0.0) + seconds["stop"]
    return extraction.cache, seconds["wall"] - seconds["hash"] - around, around


def compare(data: Path, folder: Path, views: int, repeats: int) -> dict[str, Any]:
    """Extract without and with a cluster, in turns."""
    rows = []
    for repeat in range(repeats):
        alone, local_s, _ = extract_once(data, folder / f"{views}-{repeat}-here.h5", views, None)
        clustered, cluster_s, around_s = extract_once(data, folder / f"{views}-{repeat}-there.h5", views, Cluster())
        same = bool(np.array_equal(alone.done, clustered.done))
        rows.append({"local_s": local_s, "cluster_s": cluster_s, "ratio": cluster_s / local_s, "around_s": around_s,
                     "apart": apart(alone, clustered), "same": same})  # fmt: skip
        print(
            f"K={views}: {local_s:.1f} s without a cluster, {cluster_s:.1f} s with one worker, and {around_s:.1f} s to "
            "start and stop it"
        )
    return {"views": views, "images": len(alone.samples), "runs": rows,
            "ratio": record.spread([row["ratio"] for row in rows])}  # fmt: skip


def main() -> None:
    """Measure, write and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--views", default="0,4")
    options, measured = parser.parse_args(), record.commit()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = many(folder / "photos", options.images)
        extract(data, folder / "first.h5", views=0)  # converts the network
        comparisons = [compare(data, folder, int(views), options.repeats) for views in options.views.split(",")]
    record.write("cluster", {"overhead": comparisons}, measured)


if __name__ == "__main__":
    main()
