"""Kill workers, nodes and drivers of a cluster at random moments. Writes results/cluster_kills.json.

    python benchmarks/cluster_kills.py [--images 600] [--kills 30]

A Ray cluster of two nodes on this machine, with one core and one worker each, extracts photos of ants and bees with
the embedded network (`featcache extract --cluster`). Each photo is used several times, with different bytes at its
end. At a random moment after the first features, the script kills a worker, or the node on which the command does not
run (it joins again afterwards), or the command (which then runs again). Each cache must be equal, bit for bit, to the
cache of an extraction without a cluster. "again" counts images that the second command extracted although their
features were in the file. "longer_s" is the time beyond an undisturbed run, for the other kills.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import record
from cluster import many

from featcache import extract
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.paths import partial_path

KINDS = ("worker", "machine", "command")


def command(data: Path, out: Path, address: str) -> subprocess.Popen[str]:
    """Start the extraction."""
    line = [sys.executable, "-m", "featcache_cli.main", "extract", str(data), "-o", str(out), "--views", "0", "--json",
            "--cluster", address]  # fmt: skip
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def count_stored(out: Path) -> int:
    """Number of images whose features are in the unfinished file."""
    path = partial_path(out)
    return int(np.count_nonzero(FeatureCache.open(path, partial=True).done)) if path.exists() else 0


def workers() -> list[int]:
    """Ids of the worker processes."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes().startswith(b"ray::ExtractionWorker"):
                pids.append(int(process.name))
        except OSError:
            continue
    return pids


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for the command; return its JSON output."""
    output, _ = process.communicate()
    if process.returncode:
        sys.exit(f"the command ended with status {process.returncode}")
    result: dict[str, Any] = json.loads(output)
    return result


def main() -> None:
    """Kill, compare and write the results."""
    from ray.cluster_utils import Cluster

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options, measured = parser.parse_args(), record.commit()
    rng, log = random.Random(options.seed), []
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    other = machines.add_node(num_cpus=1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = many(folder / "photos", options.images)
        alone = extract(data, folder / "alone.h5", views=0).cache
        started = time.perf_counter()
        plain = ended(command(data, folder / "plain.h5", machines.address))
        undisturbed = time.perf_counter() - started
        span = plain["seconds"]["wall"] - plain["seconds"]["start"] - plain["seconds"]["stop"]
        for number in range(options.kills):
            kind, out = KINDS[number % len(KINDS)], folder / f"{number}.h5"
            started = time.perf_counter()
            process = command(data, out, machines.address)
            while not count_stored(out) and process.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, span))
            running, before = process.poll() is None, count_stored(out)
            line: dict[str, Any] = {"kind": kind, "after_s": time.perf_counter() - started, "there": before,
                                    "hit": running and before > 0}  # fmt: skip
            if kind == "worker" and running:
                pids = workers()
                line["hit"] = bool(pids)
                if pids:
                    os.kill(rng.choice(pids), signal.SIGKILL)
            elif kind == "machine" and running:
                machines.remove_node(other, allow_graceful=False)
            elif running:
                process.send_signal(signal.SIGKILL)
                process.wait()
                before = count_stored(out)
                again = ended(command(data, out, machines.address))["extracted"]
                line["again"] = again - (options.images - before)
            if kind != "command" or not running:
                ended(process)
                line["longer_s"] = time.perf_counter() - started - undisturbed
            if kind == "machine" and running:
                other = machines.add_node(num_cpus=1)
            cache = FeatureCache.open(out)
            pairs = [(cache.features(split).clean(), alone.features(split).clean()) for split in ("train", "val")]
            line["equal"] = all(np.array_equal(features, same) for features, same in pairs)
            log.append(line)
            print(line, flush=True)
    machines.shutdown()
    hit = [line for line in log if line["hit"]]
    results = {
        "images": options.images,
        "kills": {kind: sum(line["kind"] == kind for line in hit) for kind in KINDS},
        "equal": sum(line["equal"] for line in hit),
        "again": max((line.get("again", 0) for line in hit), default=0),
        "longer_s": record.spread([line["longer_s"] for line in hit if "longer_s" in line]),
        "log": log,
    }
    record.write("cluster_kills", results, measured)


if __name__ == "__main__":
    main()
