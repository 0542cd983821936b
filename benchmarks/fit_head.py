"""Measure time and memory of fit-head as a process.

    python benchmarks/fit_head.py [--repeats 5] [--rows 200000] [--texts TABLE] [--only CASE ...]

- ants_bees: `featcache fit-head` on FEATCACHE_ANTS_BEES, from process start to the saved head, against `python -c
  "import sklearn.linear_model"`. The cache exists before. The commands take turns. The results are the median, the
  minimum and the maximum; ratios are computed within each repeat.
- texts: the same on a table with the columns text,label (--texts), with the choice among all layers and with the
  encoder's own features alone (`--head linear --layer penultimate`).
- memory: peak resident memory of a process that fits a head on a memory-mapped float16 file, minus that of a process
  that does everything except fitting, divided by the bytes of the features. Measured with features in memory
  (float32) and streamed from the file.
- streamed: the same fit of --rows x 1280, streamed from the file and in memory, in turns. It shows the cost of
  converting and centring features larger than half a gigabyte in each pass. The file is in the page cache.

Writes results/fit_head.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import record

ROWS, WIDTH = 20_000, 1280
TOOL = [sys.executable, "-m", "featcache_cli.main"]


def features(path: Path, rows: int) -> int:
    """Write noise as float16, not centred, as after a ReLU; return the number of bytes."""
    rng = np.random.default_rng(0)
    x = np.lib.format.open_memmap(path, "w+", np.float16, (rows, WIDTH))
    for start in range(0, rows, 10_000):
        x[start : start + 10_000] = np.maximum(rng.standard_normal((len(x[start : start + 10_000]), WIDTH)) + 0.3, 0)
    x.flush()
    return x.nbytes


def ants_bees(folder: Path, repeats: int) -> dict[str, Any] | None:
    data = os.environ.get("FEATCACHE_ANTS_BEES")
    if not data:
        return None
    results: dict[str, Any] = {}
    for views in (0, 8):
        cache = folder / f"ants-bees-{views}.h5"
        subprocess.run([*TOOL, "extract", data, "-o", cache, "--views", str(views)], check=True, capture_output=True)
        results[f"views {views}"] = against_import(folder, cache, repeats)
    return results


def texts(folder: Path, table: Path, repeats: int) -> dict[str, Any]:
    cache = folder / "texts.h5"
    subprocess.run([*TOOL, "extract", table, "-o", cache, "--allow-leak"], check=True, capture_output=True)
    return {
        "default": against_import(folder, cache, repeats),
        "penultimate": against_import(folder, cache, repeats, "--head", "linear", "--layer", "penultimate"),
    }


def against_import(folder: Path, cache: Path, repeats: int, *options: str) -> dict[str, Any]:
    """Seconds of `fit-head` and of an import of scikit-learn in turns."""
    fit = [*TOOL, "fit-head", cache, "-o", folder / "head", "--overwrite", *options]
    bare = [sys.executable, "-c", "import sklearn.linear_model"]
    times = []
    for _ in range(repeats + 1):  # the first warms the disk's cache and is not counted
        times.append(tuple(
            record.seconds(lambda line=line: subprocess.run(line, check=True, capture_output=True))
            for line in (fit, bare)
        ))  # fmt: skip
    times = times[1:]
    return {
        "fit_head_s": record.spread([a for a, _ in times]),
        "import_s": record.spread([b for _, b in times]),
        "ratio": record.spread([a / b for a, b in times]),
    }


_FIT = """
import sys
import time
import numpy as np
from featcache import LinearHead
from featcache.cache import lazy_arrays
from featcache._utils.environment import peak_memory_bytes
lazy_arrays.MAX_CACHED_BYTES = int(sys.argv[2])
x = np.load(sys.argv[1], mmap_mode="r")
y = np.arange(len(x)) % 10
started = time.perf_counter()
if sys.argv[3] == "fit":
    LinearHead(max_iter=20, tol=1e-12).fit(x, y)
print(peak_memory_bytes(), time.perf_counter() - started)
"""
KEPT, STREAMED = 2**40, 0


def fit(path: Path, kept_bytes: int, what: str = "fit") -> tuple[int, float]:
    """Peak memory in bytes, and seconds, of a process that fits for twenty iterations, or does all except fitting."""
    line = [sys.executable, "-W", "ignore", "-c", _FIT, str(path), str(kept_bytes), what]
    memory, took = subprocess.run(line, check=True, capture_output=True, text=True).stdout.split()
    return int(memory), float(took)


def memory(folder: Path) -> dict[str, Any]:
    """Compare memory use. Pages of the file count too: the system keeps them while memory is free."""
    path = folder / "features.npy"
    size = features(path, ROWS)
    return {
        "feature_bytes": size,
        "kept_over_features": (fit(path, KEPT)[0] - fit(path, KEPT, "load")[0]) / size,
        "streamed_over_features": (fit(path, STREAMED)[0] - fit(path, STREAMED, "load")[0]) / size,
    }


def streamed(folder: Path, rows: int, repeats: int) -> dict[str, Any]:
    path = folder / "many.npy"
    size = features(path, rows)
    runs = [(fit(path, STREAMED), fit(path, KEPT)) for _ in range(repeats)]
    return {
        "feature_bytes": size,
        "streamed_s": record.spread([from_file[1] for from_file, _ in runs]),
        "kept_s": record.spread([in_memory[1] for _, in_memory in runs]),
        "ratio": record.spread([from_file[1] / in_memory[1] for from_file, in_memory in runs]),
        "memory_ratio": record.spread([from_file[0] / in_memory[0] for from_file, in_memory in runs]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--only", nargs="*", help="cases to measure; the others keep their figures")
    options = parser.parse_args()
    measured = record.commit()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases: dict[str, Callable[[], Any]] = {
            "ants_bees": lambda: ants_bees(folder, options.repeats),
            "texts": lambda: texts(folder, options.texts, options.repeats) if options.texts else None,
            "memory": lambda: memory(folder),
            "streamed": lambda: streamed(folder, options.rows, options.repeats),
        }
        figures = record.read("fit_head") if options.only else {}
        for case in options.only or cases:
            figures[case] = {**(cases[case]() or {}), "commit": measured}
    record.write("fit_head", figures, measured)


if __name__ == "__main__":
    main()
