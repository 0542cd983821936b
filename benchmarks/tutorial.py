"""Compare the whole job on ants and bees with the PyTorch tutorial's ten epochs, from process start to the end.

    python benchmarks/tutorial.py [DATA] [--views 8] [--repeats 3] [--network resnet18]

DATA defaults to FEATCACHE_ANTS_BEES. Weights are random: the time does not depend on them. Each repeat runs every
route once, each in separate processes. Repeats are stored in --work, so an interrupted run continues. Routes:

- tutorial, fine-tune and tutorial, frozen: the code of the tutorial (see peers.py), batches of 4, fp32, no workers.
- cached, first ever: `featcache extract --views K`, then `featcache fit-head`, with an empty cache folder.
- cached, cold: the same, for a network that was used before: its conversion is stored, but no features.
- cached, warm: `featcache fit-head` on the existing cache.
- featcache finetune: ten epochs with featcache's recipe (batches of 32, lr 0.01); fp32, and bf16 with an image cache.

Seconds run from the start of the processes to their ends. "without imports" subtracts the time before the work
begins: for the tutorial everything before the first batch (including building the network), for featcache the start
of Python and the imports of its commands. extract imports PyTorch while it decodes images, so this import is not
subtracted. The results are the median, the minimum and the maximum; ratios are computed within each repeat. Writes
results/tutorial.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import record

Seconds = tuple[float, float]
"""Seconds from the start of the processes, and seconds without imports."""

COLD = ("cached, first ever", "cached, cold", "cached, warm")


def run(line: list[str], home: Path) -> dict[str, Any]:
    """The JSON output of a command, and its seconds as "process_s"."""
    started = time.perf_counter()
    ran = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "XDG_CACHE_HOME": str(home)})
    if ran.returncode:
        sys.exit(f"{' '.join(line)} ended with {ran.returncode}: {ran.stderr}")
    start = ran.stdout.index("{")
    return {**json.loads(ran.stdout[start:]), "process_s": time.perf_counter() - started}


def featcache(home: Path, *arguments: object) -> Seconds:
    """Run one featcache command."""
    answer = run(
        [sys.executable, "-c", "from featcache_cli.main import main; main()", *map(str, arguments), "--json"], home
    )
    return answer["process_s"], answer["seconds"]["wall"]


def tutorial(name: str, data: str, network: str, home: Path) -> Seconds:
    """Run one route of peers.py."""
    answer = run([sys.executable, str(record.HERE / "peers.py"), name, data, os.devnull, "--network", network], home)
    return answer["process_s"], answer["seconds"]


def both(*parts: Seconds) -> Seconds:
    """Run two commands, one after the other."""
    return sum(part[0] for part in parts), sum(part[1] for part in parts)


def one_round(data: str, network: str, views: int, work: Path) -> dict[str, Seconds]:
    """Run every route once."""
    home, cache = work / "home", work / "cache.h5"
    options = ("--backbone", network, "--weights", "none")
    seconds_of: dict[str, Seconds] = {}

    def cold() -> Seconds:
        cache.unlink(missing_ok=True)
        augmented = ("--views", views, "--augment", "tutorial")
        return both(featcache(home, "extract", data, "-o", cache, *augmented, *options), warm())

    def warm() -> Seconds:
        return featcache(home, "fit-head", cache, "--overwrite")

    def finetune(*more: object) -> Seconds:
        shutil.rmtree(work / "run", ignore_errors=True)
        (work / "images.h5").unlink(missing_ok=True)
        return featcache(home, "finetune", data, "-o", work / "run", "--epochs", 10, *options, *more)

    shutil.rmtree(home, ignore_errors=True)
    routes: dict[str, Callable[[], Seconds]] = {
        "cached, first ever": cold,
        "cached, cold": cold,
        "cached, warm": warm,
        "tutorial, frozen": lambda: tutorial("tutorial-frozen", data, network, home),
        "tutorial, fine-tune": lambda: tutorial("tutorial-finetune", data, network, home),
        "featcache finetune, fp32": finetune,
        "featcache finetune, bf16, image cache": lambda: finetune(
            "--precision", "auto", "--image-cache", work / "images.h5"
        ),
    }
    for name, route in routes.items():
        seconds_of[name] = route()
        print(f"{name}: {seconds_of[name][0]:.1f} s, {seconds_of[name][1]:.1f} s without imports", file=sys.stderr)
    return seconds_of


def main() -> None:
    """Parse options, measure, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default=os.environ.get("FEATCACHE_ANTS_BEES"))
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--work", type=Path, help="folder for finished repeats [default: demo/tutorial]")
    options = parser.parse_args()
    if not options.data:
        sys.exit("give DATA, or set FEATCACHE_ANTS_BEES to a folder of class folders")
    measured, rounds = record.commit(), []
    work = options.work or Path("demo/tutorial")
    work.mkdir(parents=True, exist_ok=True)
    for number in range(options.repeats):
        stored = work / f"{measured}-{options.network}-{options.views}-{number}.json"
        if not stored.exists():
            stored.write_text(json.dumps(one_round(options.data, options.network, options.views, work)))
        rounds.append(json.loads(stored.read_text()))
    record.write(
        "tutorial",
        {
            "network": options.network,
            "views": options.views,
            "repeats": options.repeats,
            "seconds": {
                clock: {name: record.spread([seconds_of[name][index] for seconds_of in rounds]) for name in rounds[0]}
                for index, clock in enumerate(("from process start", "without imports"))
            },
            "times faster": {
                clock: {
                    f"{ours} / {theirs}": record.spread(
                        [seconds_of[theirs][index] / seconds_of[ours][index] for seconds_of in rounds]
                    )
                    for ours in rounds[0]
                    for theirs in ("tutorial, frozen", "tutorial, fine-tune")
                    if ours in COLD or (ours.startswith("featcache") and theirs.endswith("fine-tune"))
                }
                for index, clock in enumerate(("from process start", "without imports"))
            },
        },
        measured,
    )


if __name__ == "__main__":
    main()
