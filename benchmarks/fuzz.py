"""Damage caches and heads in random ways and use them: always an error that says so, within a second, never a crash.

    python benchmarks/fuzz.py [--cases 10000] [--seed 0]

As many cases of each kind. A case flips bits, overwrites, cuts, inserts or doubles some bytes; half of the time as
somebody with bad intentions would, who seals the cache again, or who changes an array or the types inside of the
head's archive and packs it well. Then the cache is opened, verified and fitted on, and the head loaded and predicted
with. Cases run in children, 250 each: a child that dies is counted as a crash and named by its seed. Writes
results/fuzz.json; exit status 1 where anything but a CacheError or HeadError came out.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import random
import re
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import record

from featcache import FeatureCache, fit_head, verify
from featcache.errors import CacheError, HeadError
from featcache.features import FlatFeatures
from featcache.headfile import dump_head, load_head
from featcache.heads import HEADS, classify, fit_estimator, make_head
from featcache.layout import CACHE
from featcache.samples import Samples
from featcache.sealed import write_header
from featcache.spec import ExtractSpec, ViewSpec
from featcache.writer import CacheWriter

CASES_A_CHILD = 250
NUMBERS = [-1, 0, 1, 2, 3, 7, 1000, 10**9, 2**31 - 1, 2**31, 2**63 - 1]

Calls = dict[str, Callable[[], Any]]


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
            write_header(file, CACHE, header, {"size": len(raw), "arrays": body["arrays"]})
    except Exception:  # the header itself is damaged
        return


def broken_caches(folder: Path, chance: random.Random) -> Iterator[Calls]:
    """What to call on one damaged cache after the other."""
    path = folder / "cache.h5"
    make_cache(path)
    whole = path.read_bytes()
    while True:
        path.write_bytes(damage(whole, chance))
        if chance.random() < 0.5:
            seal_again(path)
        yield {"open": lambda: FeatureCache.open(path), "verify": lambda: verify(path), "fit": lambda: fit_head(path)}


def repacked(whole: bytes, chance: random.Random) -> bytes:
    """A head's archive with one member changed: numbers of an array, its shape, or the text that names types."""
    source, target = zipfile.ZipFile(io.BytesIO(whole)), io.BytesIO()
    changed = chance.choice(source.namelist())
    with zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            data = source.read(name)
            if name == changed and name.endswith(".npy"):
                array = np.load(io.BytesIO(data))
                if array.size and chance.random() < 0.7:
                    field = array[chance.choice(array.dtype.names)] if array.dtype.names else array
                    field.flat[chance.randrange(array.size)] = np.array(chance.choice(NUMBERS)).astype(field.dtype)
                if chance.random() < 0.5:
                    array = np.resize(array, [chance.choice([0, 1, 2, 3, 8, 99]) for _ in array.shape])
                buffer = io.BytesIO()
                np.save(buffer, array)
                data = buffer.getvalue()
            elif name == changed:
                text = data.decode()
                pattern = chance.choice([r"-?\d+", r'"__class__": "\w+"', r'"\w+"', r"true|false|null"])
                found = list(re.finditer(pattern, text))
                if found:
                    here, there = chance.choice(found), chance.choice(found)
                    new = str(chance.choice(NUMBERS)) if pattern == r"-?\d+" else there.group()
                    text = text[: here.start()] + new + text[here.end() :]
                data = text.encode()
            archive.writestr(name, data)
    return target.getvalue()


def broken_heads(folder: Path, chance: random.Random) -> Iterator[Calls]:
    """What to call on one damaged head after the other, of all kinds."""
    y = np.arange(60) % 3
    x = (np.random.default_rng(0).normal(size=(60, 8)) + 3 * np.eye(3, 8)[y]).astype(np.float32)
    features = FlatFeatures(x, y, np.arange(60), np.ones(60))
    whole = []
    for name in [*HEADS, "sklearn.naive_bayes.GaussianNB", "sklearn.svm.NuSVC"]:
        estimator = make_head(name, {"n_estimators": 3, "n_jobs": 1} if name == "forest" else {})
        fit_estimator(estimator, features)
        whole.append(dump_head(estimator))
    while True:
        name, data = chance.choice(whole)
        if name.endswith(".skops") and chance.random() < 0.5:
            data = repacked(data, chance)
        else:
            data = bytes(damage(data, chance))
        path = folder / name
        path.write_bytes(data)

        def use(path: Path = path) -> None:
            head = load_head(path)
            classify(head, x, 3)

        yield {"load and predict": use}


KINDS = {"caches": broken_caches, "heads": broken_heads}


def child(kind: str, folder: str, seed: int, results: Any) -> None:
    """Run the cases of one seed."""
    warnings.simplefilter("ignore")
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for calls in islice(KINDS[kind](Path(place), random.Random(seed)), CASES_A_CHILD):
            for name, call in calls.items():
                started = time.perf_counter()
                try:
                    fine = getattr(call(), "ok", True)
                    outcomes[f"{name}: {'fine' if fine else 'damage named'}"] += 1
                except (CacheError, HeadError) as error:
                    outcomes[f"{name}: {type(error).__name__}"] += 1
                except BaseException as error:
                    outcomes[f"{name}: ESCAPED {type(error).__name__}: {str(error)[:80]} (seed {seed})"] += 1
                slowest = max(slowest, time.perf_counter() - started)
    results.put((outcomes, slowest))


def main() -> None:
    """Run, count, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    measured = record.commit()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["featcache.fitting", "featcache.headfile", "featcache.linear", "featcache.writer", "skops.io"]
    )
    children = -(-options.cases // CASES_A_CHILD)
    answer: dict[str, Any] = {}
    failed = False
    for kind in KINDS:
        outcomes: Counter[str] = Counter()
        crashes, slowest = [], 0.0
        with tempfile.TemporaryDirectory() as folder:
            for seed in range(options.seed, options.seed + children):
                results = context.SimpleQueue()
                process = context.Process(target=child, args=(kind, folder, seed, results))
                process.start()
                process.join(120)
                if process.exitcode != 0:
                    process.kill()
                    crashes.append({"seed": seed, "exitcode": process.exitcode})
                    continue
                found, longest = results.get()
                outcomes += found
                slowest = max(slowest, longest)
        answer[kind] = {
            "cases": children * CASES_A_CHILD,
            "crashes": crashes,
            "slowest_s": round(slowest, 2),
            "outcomes": dict(sorted(outcomes.items())),
        }
        failed = failed or bool(crashes) or any("ESCAPED" in name for name in outcomes)
    record.write("fuzz", answer, measured)
    sys.exit(failed)


if __name__ == "__main__":
    main()
