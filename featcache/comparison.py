"""`compare`: the four routes on the same images, views, split and metrics, with all their costs."""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from featcache.card import write_json
from featcache.curves import Curve
from featcache.errors import FeatcacheError, RunError
from featcache.families import FAMILIES
from featcache.files import Progress
from featcache.heads import make_head
from featcache.manifest import read_manifest
from featcache.metrics import wilson_interval
from featcache.report import machine, versions
from featcache.routes import ROUTES, Order, run_in_process
from featcache.spec import EMBEDDED

_DRAWS = 1  # of each share of the labels: `featcache curve` repeats, which takes minutes
COLD, WARM = "cached head, cold", "cached head, warm"

_Run = list[dict[str, Any]]  # what the processes of one run answered, one after the other


@dataclass(frozen=True)
class Outcome:
    """One route, over all its repeats.

    Lists hold one value a repeat. wall_s : seconds from process start to end. cpu_s : core-seconds of user and
    system, which other tenants of a shared machine hardly touch. epoch_s : median seconds of an
    epoch, None for the cached head. shown : views that the network was run on. seconds : by phase, of the run
    with the median time. skipped : images that could not be read. device, precision : of the network.
    """

    route: str
    accuracy: list[float]
    n: int
    test_accuracy: list[float]
    test_n: int
    wall_s: list[float]
    cpu_s: list[float]
    seconds: dict[str, float]
    shown: int
    epoch_s: float | None
    skipped: list[str]
    device: str | None
    precision: str | None
    peak_memory_bytes: int | None
    peak_gpu_memory_bytes: int | None
    size_bytes: int

    @property
    def median_s(self) -> float:
        """Median wall time in seconds."""
        return statistics.median(self.wall_s)

    @property
    def median_accuracy(self) -> float:
        """Median val accuracy over the repeats."""
        return statistics.median(self.accuracy)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the median val accuracy."""
        return wilson_interval(round(self.median_accuracy * self.n), self.n)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        low, high = self.interval
        return {
            **asdict(self),
            "median_s": self.median_s,
            "median_accuracy": self.median_accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
        }


@dataclass(frozen=True)
class Comparison:
    """What `compare` returns; `settings` are those of the run. curves : over views and over labels, of the
    cache. no_curves : why there are none."""

    outcomes: list[Outcome]
    settings: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=machine)
    versions: dict[str, str] = field(default_factory=versions)
    curves: list[Curve] = field(default_factory=list)
    no_curves: str = ""

    def outcome(self, route: str) -> Outcome | None:
        """The outcome of one route, None where it did not run."""
        return next((outcome for outcome in self.outcomes if outcome.route == route), None)

    def break_even_epoch(self) -> int | None:
        """From how many live epochs on the cold cached head is the faster way; None without both routes."""
        cold, frozen = self.outcome(COLD), self.outcome(ROUTES["frozen"])
        if cold is None or frozen is None or not frozen.epoch_s:
            return None
        fixed = frozen.median_s - self.settings["recipe"]["epochs"] * frozen.epoch_s
        return max(1, math.ceil((cold.median_s - fixed) / frozen.epoch_s))

    def break_even_head(self) -> int | None:
        """From how many heads on the cold cached head is faster than training each live; None where it never is."""
        cold, warm, frozen = self.outcome(COLD), self.outcome(WARM), self.outcome(ROUTES["frozen"])
        if cold is None or warm is None or frozen is None or frozen.median_s <= warm.median_s:
            return None
        return max(1, math.ceil((cold.median_s - warm.median_s) / (frozen.median_s - warm.median_s)))

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "outcomes": [outcome.to_dict() for outcome in self.outcomes],
            "curves": [curve.to_dict() for curve in self.curves],
            "break_even_epoch": self.break_even_epoch(),
            "break_even_head": self.break_even_head(),
            "settings": self.settings,
            "machine": self.machine,
            "versions": self.versions,
        }


def compare(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    routes: Sequence[str] = tuple(ROUTES),
    backbone: str = EMBEDDED,
    weights: str = "pretrained",
    views: int = 4,
    head: str = "linear",
    augment: str = "tutorial",
    image_size: int | None = None,
    recipe: Mapping[str, Any] | None = None,
    repeats: int = 1,
    seed: int = 0,
    workers: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    train_precision: str = "fp32",
    val_fraction: float = 0.2,
    allow_leak: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Run the routes, each in fresh processes, and gather what they reached and cost.

    Finished routes are kept in `out`; the same call after a crash goes on with the rest.

    Parameters
    ----------
    routes : of "cached", "frozen", "finetune", "scratch".
    recipe : fields of `training.Recipe` for the live routes, such as {"epochs": 10}.
    repeats : seeds seed, seed + 1, ...; the split stays the same.
    precision : of the extraction. train_precision : of the live routes, where "fp32" is what the tutorials do.

    Raises
    ------
    FeatcacheError
    """
    unknown = [route for route in routes if route not in ROUTES]
    if unknown or not routes:
        raise RunError(f"there is no route {', '.join(unknown) or '(none given)'}; use {', '.join(ROUTES)}")
    out = Path(out)
    if head not in ("sgd", "auto"):
        make_head(head)  # a bad name is told before hours of extraction
    manifest = read_manifest(data, val_fraction=val_fraction, allow_leak=allow_leak, progress=progress)
    samples = manifest.single_label("benchmark").samples
    counts = {split: len(samples.rows(split)) for split in ("train", "val", "test")}
    shared = {
        "data": os.path.abspath(data),
        "backbone": backbone,
        "augment": augment,
        "image_size": image_size,
        "workers": workers,
        "device": device,
        "val_fraction": val_fraction,
        "allow_leak": allow_leak,
    }
    full_recipe = {"epochs": 10, "batch_size": 32, "lr": 0.01, **(recipe or {})}
    settings = {
        **shared,
        "weights": weights,
        "views": views,
        "head": head,
        "recipe": full_recipe,
        "precision": precision,
        "train_precision": train_precision,
        "images": counts,
        "images_sha256": samples.digest(),
        "seed": seed,
    }
    _claim(out, {**settings, "versions": versions()})
    runs: dict[str, list[_Run]] = {}
    for repeat in range(repeats):
        split = {**shared, "seed": seed + repeat}
        for route in ROUTES:
            if route not in routes:
                continue
            folder = out / "work" / f"{route}-{seed + repeat}"
            if route == "cached":
                extraction = {"views": views, "precision": precision, "weights": weights, **split}
                orders: list[Order] = [
                    {"task": "extract", "out": str(folder / "cache.h5"), **extraction},
                    {
                        "task": "fit-head",
                        "cache": str(folder / "cache.h5"),
                        "out": str(folder / "head"),
                        "head": head,
                        "seed": seed + repeat,
                    },
                ]
            else:
                live = {
                    "mode": "head" if route == "frozen" else "all",
                    "weights": "none" if route == "scratch" else weights,
                    "precision": train_precision,
                    "recipe": full_recipe,
                }
                orders = [{"task": "finetune", "out": str(folder / "run"), **live, **split}]
            runs.setdefault(route, []).append(_once(folder, orders, progress))
    outcomes = [outcome for route, found in runs.items() for outcome in _outcomes(route, found, out)]
    curves, no_curves = _curves(out, seed, head, progress) if "cached" in runs else ([], "")
    # Reports travel: they name the data and a weights file, not where these lie on this machine.
    names = {"data": Path(data).resolve().name, "weights": Path(weights).name}
    return Comparison(outcomes, {**settings, **names, "repeats": repeats}, curves=curves, no_curves=no_curves)


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Take the folder, or take up the same comparison in it; refuse to mix two."""
    path = out / "settings.json"
    if path.exists() and any(out.glob("work/*/result.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        differing = [
            f"{name}={found.get(name)}, you asked for {value}"
            for name, value in settings.items()
            if found.get(name) != value
        ]
        if differing:
            raise RunError(f"{out} holds a comparison with {'; '.join(differing)}. Give another folder.")
    elif out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file. Give an empty or a new folder.")
    elif out.exists() and not path.exists() and any(out.iterdir()):
        raise RunError(f"{out} holds other files. Give an empty or a new folder.")
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def _once(folder: Path, orders: list[Order], progress: Progress | None) -> _Run:
    """The results of some orders, run one after the other; those of an earlier, finished run if there are any."""
    path = folder / "result.json"
    if path.exists():
        results: _Run = json.loads(path.read_text(encoding="utf-8"))
        return results
    shutil.rmtree(folder, ignore_errors=True)  # an unfinished route is timed anew, from its start
    folder.mkdir(parents=True)

    def named(what: str, done: int, total: int) -> None:
        if progress:
            progress(f"{folder.name}: {what}", done, total)

    results = [run_in_process(order, named) for order in orders]
    write_json(path, results)
    return results


def _curves(out: Path, seed: int, head: str, progress: Progress | None) -> tuple[list[Curve], str]:
    """What more views and more labels bring, from the first repeat's cache, or why that cannot be told."""
    order = {
        "task": "curve",
        "cache": str(out / "work" / f"cached-{seed}" / "cache.h5"),
        "head": head if head in FAMILIES else "linear",
        "seed": seed,
    }
    orders = [{**order, "over": "views"}, {**order, "over": "labels", "repeats": _DRAWS}]
    try:
        return [Curve.from_dict(found) for found in _once(out / "work" / "curves", orders, progress)], ""
    except FeatcacheError as error:  # too little to tune by, or the cache is gone: the routes have run
        return [], str(error)


def _outcomes(route: str, runs: list[_Run], out: Path) -> list[Outcome]:
    first = runs[0][0]
    if route != "cached":
        epochs = len(first["history"])
        shown = first["images"] + first["n"] * epochs + (first["test"]["n"] if first["test"] else 0)
        size = max(_folder_bytes(folder) for folder in out.glob(f"work/{route}-*/run"))
        return [_outcome(ROUTES[route], runs, shown, size)]
    size = max(run[0]["size_bytes"] for run in runs)
    return [
        _outcome(COLD, runs, first["shown"], size),
        _outcome(WARM, [run[1:] for run in runs], 0, size),
    ]


def _outcome(name: str, runs: list[_Run], shown: int, size: int) -> Outcome:
    """Join the processes of each run, then the runs."""
    last = [run[-1] for run in runs]
    wall = [sum(part["wall_s"] for part in run) for run in runs]
    median_run = runs[wall.index(statistics.median_low(wall))]
    seconds: dict[str, float] = {}
    for part in median_run:
        for phase, value in {**part["seconds"], "imports": part["wall_s"] - part["seconds"]["wall"]}.items():
            if phase != "wall":
                seconds[phase] = seconds.get(phase, 0.0) + value
    epochs = [epoch["seconds"] for run in last for epoch in run["history"]] if "best_epoch" in last[0] else []
    tests = [run["test"] for run in last if run["test"]]
    return Outcome(
        route=name,
        accuracy=[run["accuracy"] for run in last],
        n=last[0]["n"],
        test_accuracy=[test["accuracy"] for test in tests],
        test_n=tests[0]["n"] if tests else 0,
        wall_s=wall,
        cpu_s=[sum(part["cpu_s"] for part in run) for run in runs],
        seconds=seconds,
        shown=shown,
        epoch_s=statistics.median(epochs) if epochs else None,
        skipped=sorted({image["path"] for run in runs for part in run for image in part.get("skipped", [])}),
        device=runs[0][0]["device"],
        precision=runs[0][0]["precision"],
        peak_memory_bytes=_highest(runs, "peak_memory_bytes"),
        peak_gpu_memory_bytes=_highest(runs, "peak_gpu_memory_bytes"),
        size_bytes=size,
    )


def _highest(runs: list[_Run], field: str) -> int | None:
    return max((part[field] for run in runs for part in run if part[field]), default=None)


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
