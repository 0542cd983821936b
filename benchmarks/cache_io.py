"""Compare the speed of writing and reading a cache with plain files and with other layouts in HDF5.

    python benchmarks/cache_io.py [--mb 256] [--width 1280] [--views 0 8] [--repeats 5]

A row holds the 1 + K views of an image. Each repeat runs every measurement once. The results are the median, the
minimum and the maximum over the repeats; ratios are computed within each repeat.

- write: write all rows to a cache in blocks. A block holds as many images as make 32 views. The time includes
  checksums, the `done` values, fsync, the rename and opening the finished cache. The comparison writes the same bytes
  in the same blocks to a plain file, with one fsync at the end. Both are measured on a disk and in memory-backed
  files; the latter show the cost of the writer without the disk. The time to create and allocate the files is not
  counted.
- read, warm: read and sum all features once from the page cache, through the memory map of the cache and of a plain
  file. "with checksums": `FeatureCache.features` verifies all rows first.
- mini-batches: copy random mini-batches of 256 rows into an array (200 batches, 5 for chunked data), from the memory
  map, from an array in memory, with h5py from the same contiguous data, and with h5py from chunks of 64 and 1,024
  rows.

Writes results/cache_io.json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import record

from featcache import ExtractSpec, FeatureCache, ViewSpec
from featcache.cache.writer import CacheWriter
from featcache.core.samples import Samples

VIEWS_A_BLOCK, MINI_BATCH = 32, 256
KEY = "features/penultimate"


def block_of(x: np.ndarray) -> int:
    """Number of images per write."""
    return max(1, VIEWS_A_BLOCK // x.shape[1])


def write_cache(path: Path, x: np.ndarray) -> float:
    """Seconds to write the rows of x (n, v, d) and finish the cache."""
    n, views, d = x.shape
    ids = tuple(f"train/a/{row:07d}.png" for row in range(n))
    hashes = np.random.default_rng(0).integers(0, 256, (n, 32), dtype=np.uint8)
    samples = Samples(ids, np.zeros(n, np.int64), np.zeros(n, np.uint8), hashes, ("a",))
    spec = ExtractSpec("none", "0" * 64, ViewSpec(mean=(0.5,) * 3, std=(0.5,) * 3), views=views - 1)
    with CacheWriter(path, spec, samples, {"penultimate": d}, {}) as writer:
        started = time.perf_counter()
        for start in range(0, n, block_of(x)):
            rows = np.arange(start, min(n, start + block_of(x)))
            writer.write(rows, {"penultimate": x[start : start + len(rows)]})
        writer.finish({})
    return time.perf_counter() - started


def write_raw(path: Path, x: np.ndarray) -> float:
    """Seconds to write the same bytes into a preallocated file; the cache is preallocated too."""
    with path.open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, x.nbytes)
        started = time.perf_counter()
        for start in range(0, len(x), block_of(x)):
            file.write(x[start : start + block_of(x)].data)
        os.fsync(file.fileno())
    return time.perf_counter() - started


def mini_batches(take: Callable[[np.ndarray], np.ndarray], n: int, number: int = 200) -> float:
    """Rows per second."""
    rng = np.random.default_rng(1)
    picks = [np.sort(rng.choice(n, MINI_BATCH, replace=False)) for _ in range(number)]

    def job() -> None:
        for rows in picks:
            take(rows)

    return MINI_BATCH * number / record.seconds(job)


def add_up(x: np.ndarray) -> int:
    """Read every byte, at the speed of memory."""
    return int(x.reshape(-1).view(np.uint64).sum())


def one_round(folder: Path, memory: Path, x: np.ndarray, number: int) -> dict[str, float]:
    """All rates by name, in bytes or rows per second. The order of the writers alternates between repeats."""
    n = len(x)
    cache, raw = folder / "cache.h5", folder / "raw"
    rates = {}
    writers = [("cache", write_cache, "cache.h5"), ("plain file", write_raw, "raw")]
    for name, target in (("disk", folder), ("memory", memory)):
        for what, write, file in writers if number % 2 else reversed(writers):
            rates[f"write to {name}: {what}"] = x.nbytes / write(target / file, x)
    (memory / "cache.h5").unlink()
    (memory / "raw").unlink()
    opened = FeatureCache.open(cache)
    mapped = opened.layout.layers["penultimate"].view(opened.layout.data)
    plain = np.memmap(raw, dtype=x.dtype, mode="r", shape=x.shape)
    for array in (mapped, plain):
        add_up(array)  # warm
    rates["read: cache"] = x.nbytes / record.seconds(lambda: add_up(mapped))
    rates["read: plain file"] = x.nbytes / record.seconds(lambda: add_up(plain))
    rates["read: cache with checksums"] = x.nbytes / record.seconds(lambda: add_up(opened.features("train").x))
    rates["mini-batches: cache"] = mini_batches(lambda rows: mapped[rows], n)
    rates["mini-batches: array in memory"] = mini_batches(lambda rows: x[rows], n)
    with h5py.File(cache, "r") as file:
        rates["mini-batches: h5py, contiguous"] = mini_batches(lambda rows: file[KEY][rows], n)
    for chunk in (64, 1024):
        with h5py.File(folder / "chunked.h5", "w") as file:
            file.create_dataset("x", data=x, chunks=(chunk, *x.shape[1:]))
        with h5py.File(folder / "chunked.h5", "r") as file:
            rates[f"mini-batches: h5py, chunks of {chunk}"] = mini_batches(lambda rows, f=file: f["x"][rows], n, 5)
    for path in folder.iterdir():
        path.unlink()
    return rates


def main() -> None:
    """Parse options, measure, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=256, help="MB of features for each K, at least 10")
    parser.add_argument("--width", type=int, default=1_280)
    parser.add_argument("--views", type=int, nargs="+", default=[0, 8])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    measured, results = record.commit(), {}
    for views in options.views:
        shape = (options.mb * 10**6 // (2 * options.width * (1 + views)), 1 + views, options.width)
        x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32).astype(np.float16)
        rates, ratios = defaultdict(list), defaultdict(list)
        for number in range(options.repeats):
            with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
                figures = one_round(Path(folder), Path(memory), x, number)
            for name, rate in figures.items():
                job, _, what = name.partition(": ")
                rates[name].append(rate)
                if what != "cache":
                    ratios[f"{job}: cache / {what}"].append(figures[f"{job}: cache"] / rate)
        results[f"K={views}"] = {
            "images": len(x),
            "bytes/s, mini-batches rows/s": {name: record.spread(values) for name, values in rates.items()},
            "ratios": {name: record.spread(values) for name, values in ratios.items()},
        }
    record.write("cache_io", {"width": options.width, "repeats": options.repeats, **results}, measured)


if __name__ == "__main__":
    main()
