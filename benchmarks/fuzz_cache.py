"""Damage a cache in random ways and open it: always a CacheError, within a second, and never a crash.

    python benchmarks/fuzz_cache.py [--cases 10000] [--seed 0]

A case flips bits, overwrites, cuts, inserts or doubles some bytes, half of the time sealing the file again as somebody
with bad intentions would. Cases run in children, 250 each: a child that dies is
counted as a crash and named by its seed. Writes results/fuzz.json; exit status 1 where anything but a CacheError came out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import record

from featcache import FeatureCache, fit_head, verify
from featcache.errors import CacheError, HeadError
from featcache.layout import write_header
from featcache.samples import Samples
from featcache.spec import ExtractSpec, ViewSpec
from featcache.writer import CacheWriter

CASES_A_CHILD = 250


def make_cache(path: Path) -> None:
    """40 rows, K = 2, d = 8."""
    rng, n = np.random.default_rng(0), 40
    samples = Samples(
        tuple(f"class {row % 2}/{row}.jpg" for row in range(n)),
        np.arange(n) % 2,
        np.repeat([0, 1], [30, 10]).astype(np.uint8),
        rng.integers(0, 256, (n, 32), dtype=np.uint8),
        ("ants", "bees"),
    )
    spec = ExtractSpec("none", "0" * 64, ViewSpec(), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), views=2)
    with CacheWriter(path, spec, samples, {"penultimate": 8}, {"weights": "none"}) as writer:
        writer.write(np.arange(30), {"penultimate": rng.normal(size=(30, 3, 8))})
        writer.write(np.arange(30, 40), {"penultimate": rng.normal(size=(10, 1, 8))})
        writer.finish({})


def damage(whole: bytes, chance: random.Random) -> bytearray:
    """One to five random changes."""
    data = bytearray(whole)
    for _ in range(chance.randint(1, 5)):
        start = chance.randrange(len(data)) if data else 0
        length = chance.choice([1, 2, 4, 8, 64, 512])
        kind = chance.choice(["flip", "flip", "flip", "noise", "zeros", "ones", "cut", "insert", "double"])
        if kind == "flip" and data:
            data[start] ^= 1 << chance.randrange(8)
        elif kind in ("noise", "zeros", "ones"):
            fill = {"noise": chance.randbytes(length), "zeros": bytes(length), "ones": b"\xff" * length}[kind]
            data[start : start + length] = fill[: len(data) - start]
        elif kind == "cut":
            del data[start:]
        elif kind == "insert":
            data[start:start] = chance.randbytes(length)
        elif kind == "double":
            data[start:start] = data[start : start + length]
    return data


def seal_again(path: Path) -> None:
    """Give a damaged file a header that fits it, where that is possible."""
    raw = path.read_bytes()
    try:
        first, second, _ = raw.split(b"\n", 2)
        header, body = int(first.split()[2]), json.loads(second)
        with path.open("r+b") as file:
            write_header(file, header, {"size": len(raw), "arrays": body["arrays"]})
    except Exception:  # the header itself is damaged
        return


def child(folder: str, seed: int, results: Any) -> None:
    """Run the cases of one seed."""
    chance, path = random.Random(seed), Path(folder, f"{seed}.h5")
    make_cache(path)
    whole = path.read_bytes()
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for _ in range(CASES_A_CHILD):
        path.write_bytes(damage(whole, chance))
        if chance.random() < 0.5:
            seal_again(path)
        for call in (FeatureCache.open, verify, fit_head):
            started = time.perf_counter()
            try:
                result = call(path)
                fine = getattr(result, "ok", True)
                outcomes[f"{call.__name__}: {'read' if fine else 'damage named'}"] += 1
            except (CacheError, HeadError) as error:
                outcomes[f"{call.__name__}: {type(error).__name__}"] += 1
            except BaseException as error:
                outcomes[f"{call.__name__}: ESCAPED {type(error).__name__}: {str(error)[:80]} (seed {seed})"] += 1
            slowest = max(slowest, time.perf_counter() - started)
    path.unlink()
    results.put((outcomes, slowest))


def main() -> None:
    """Run, count, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    measured = record.commit()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["featcache.fitting", "featcache.linear", "featcache.writer"])
    outcomes: Counter[str] = Counter()
    crashes, slowest = [], 0.0
    children = -(-options.cases // CASES_A_CHILD)
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seed, options.seed + children):
            results = context.SimpleQueue()
            process = context.Process(target=child, args=(folder, seed, results))
            process.start()
            process.join(120)
            if process.exitcode != 0:
                process.kill()
                crashes.append({"seed": seed, "exitcode": process.exitcode})
                continue
            found, longest = results.get()
            outcomes += found
            slowest = max(slowest, longest)
    answer = {
        "cases": children * CASES_A_CHILD,
        "crashes": crashes,
        "slowest_s": slowest,
        "outcomes": dict(sorted(outcomes.items())),
    }
    record.write("fuzz", answer, measured)
    sys.exit(1 if crashes or any("ESCAPED" in name for name in outcomes) else 0)


if __name__ == "__main__":
    main()
