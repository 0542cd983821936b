"""What a comparison found: of each route its accuracy, its costs, and which images it got right."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from featcache._utils.environment import machine_info, package_versions
from featcache._utils.notebook import NotebookResult
from featcache.analysis.benchmark.budget import BudgetUsage
from featcache.analysis.benchmark.routes import CACHED, ROUTES
from featcache.analysis.curves import Curve
from featcache.errors import HeadError
from featcache.finetuning.convergence import TrainingRun
from featcache.finetuning.strategy import LP_FT_DEFAULTS
from featcache.metrics.predictions import FILE, LAST, TEST, read_predictions
from featcache.metrics.significance import wilson_interval

COLD, WARM = "cached head, cold", "cached head, warm"
STAGES_COLD, STAGES_WARM = (f"{ROUTES['stages']}, {state}" for state in ("cold", "warm"))

Run = list[dict[str, Any]]
"""What the processes of one run answered, one after the other."""

_NAMES = {"cached": (COLD, WARM), "stages": (STAGES_COLD, STAGES_WARM)}
_WEIGHTY = ("right", "test_right")


@dataclass(frozen=True)
class Outcome:
    """One route, over all its repeats.

    Lists hold one value a repeat. wall_s : seconds from process start to end. cpu_s : core-seconds of user and system,
    which other tenants of a shared machine hardly touch. epoch_s : median seconds of an epoch, None for the cached
    head. trainings : how long each repeat of a live route trained. shown : views that the network was run on. seconds :
    by phase, of the run with the median time. skipped : images that could not be read. device, precision : of the
    network that was trained, else of the one that extracted. right, test_right : image -> whether it was predicted
    right, of val and of test; one a repeat, and none where the predictions were not kept. Of a training, whose accuracy
    is that of its best epoch by val, `right` is of the last epoch, which was not chosen.
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
    right: list[dict[str, bool]] = field(default_factory=list)
    test_right: list[dict[str, bool]] = field(default_factory=list)
    trainings: list[TrainingRun] = field(default_factory=list)

    @property
    def unfinished(self) -> TrainingRun | None:
        """The shortest training that was too short to judge the route by; None where there is none."""
        return min((run for run in self.trainings if run.unfinished), key=lambda run: run.steps, default=None)

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
        """JSON values; which images are right stands in val.csv and test.csv beside the models."""
        low, high = self.interval
        return {
            **{one.name: getattr(self, one.name) for one in fields(self) if one.name not in _WEIGHTY},
            "trainings": [asdict(run) for run in self.trainings],
            "median_s": self.median_s,
            "median_accuracy": self.median_accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
        }


@dataclass(frozen=True, repr=False)
class Comparison(NotebookResult):
    """What `compare` returns; `settings` are those of the run. `str()` is a short table for a terminal.

    curves : over views and over labels, of the cache. no_curves : why there are none. spending : of the budget, where
    there was one.
    """

    outcomes: list[Outcome]
    settings: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=machine_info)
    versions: dict[str, str] = field(default_factory=package_versions)
    curves: list[Curve] = field(default_factory=list)
    no_curves: str = ""
    spending: BudgetUsage | None = None

    def __str__(self) -> str:
        """A line for each route, of at most 80 columns; all columns are in the report."""
        tested = any(found.test_n for found in self.outcomes)
        lines = [["route", "val", "95 % interval", *(["test"] if tested else []), "seconds"]]
        for found in self.outcomes:
            low, high = found.interval
            cells = [found.route, f"{found.median_accuracy:.4f}", f"{low:.3f} to {high:.3f}"]
            if tested:
                cells.append(f"{statistics.median(found.test_accuracy):.4f}" if found.test_accuracy else "-")
            lines.append([*cells, f"{found.median_s:.1f}"])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = ["  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]) for cells in lines]
        repeats = self.settings.get("repeats", 1)
        return "\n".join([*table, *([f"Medians of {repeats} repeats."] if repeats > 1 else [])])

    def outcome(self, route: str) -> Outcome | None:
        """The outcome of one route, None where it did not run."""
        return next((outcome for outcome in self.outcomes if outcome.route == route), None)

    def break_even_epoch(self, route: str = ROUTES["frozen"]) -> int | None:
        """From how many epochs of a live route on the cold cached head is the faster way; None without both."""
        cold, live = self.outcome(COLD), self.outcome(route)
        if cold is None or live is None or not live.epoch_s:
            return None
        fixed = live.median_s - self.settings["recipe"]["epochs"] * live.epoch_s
        return max(1, math.ceil((cold.median_s - fixed) / live.epoch_s))

    def break_even_head(self, route: str = ROUTES["frozen"]) -> int | None:
        """From how many heads on one cache is faster than training each live by that route; None where it never is."""
        cold, warm, live = self.outcome(COLD), self.outcome(WARM), self.outcome(route)
        if cold is None or warm is None or live is None or live.median_s <= warm.median_s:
            return None
        return max(1, math.ceil((cold.median_s - warm.median_s) / (live.median_s - warm.median_s)))

    def break_even(self) -> dict[str, dict[str, int | None]]:
        """Of each live route: from which "epoch", and from which "head" on, the cache is faster."""
        live = [found.route for found in self.outcomes if found.epoch_s and self.outcome(COLD)]
        return {route: {"epoch": self.break_even_epoch(route), "head": self.break_even_head(route)} for route in live}

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "outcomes": [outcome.to_dict() for outcome in self.outcomes],
            "curves": [curve.to_dict() for curve in self.curves],
            "break_even": self.break_even(),
            "spending": self.spending.to_dict() if self.spending else None,
            "settings": self.settings,
            "machine": self.machine,
            "versions": self.versions,
        }


def gather_outcomes(route: str, runs: Mapping[int, Run], work: Path, recipe: Mapping[str, Any]) -> list[Outcome]:
    """What one route reached over its repeats; two outcomes, cold and warm, where it made a cache.

    runs : seed -> answers of all processes that its result rests on; LP-FT's begin with those of its cache and head.
    work : where the folders ROUTE-SEED lie. recipe : fields of `TrainConfig` that the live routes had, but for LP-FT's
    own.
    """
    folders = [work / f"{route}-{seed}" / ("head" if route in CACHED else "run") for seed in runs]
    right: dict[str, Any] = {
        "right": [found for folder in folders if (found := _right(folder, FILE if route in CACHED else LAST))],
        "test_right": [found for folder in folders if (found := _right(folder, TEST))],
    }
    parts = list(runs.values())
    before, last = parts[0][:-1], parts[0][-1]
    shown = before[0]["shown"] if before else 0
    size = max(run[0]["size_bytes"] for run in parts) if before else 0
    if route in CACHED:
        cold, warm = _NAMES[route]
        fits = [run[1:] for run in parts]
        return [_outcome(cold, parts, shown, size, right), _outcome(warm, fits, 0, size, right)]
    evaluations = len(last["history"]) + bool(last.get("start"))  # a fitted head is evaluated before the first epoch
    shown += last["images"] + last["n"] * evaluations + (last["test"]["n"] if last["test"] else 0)
    size += max(_folder_bytes(folder) for folder in folders)
    recipe, mode = {**recipe, **(LP_FT_DEFAULTS if route == "lpft" else {})}, "head" if route == "frozen" else "all"
    trainings = [_training(run[-1], recipe, mode) for run in parts]
    return [replace(_outcome(ROUTES[route], parts, shown, size, right), trainings=trainings)]


def _training(answer: Mapping[str, Any], recipe: Mapping[str, Any], mode: str) -> TrainingRun:
    """How long the run of this answer trained."""
    losses = [math.nan if epoch["loss"] is None else epoch["loss"] for epoch in answer["history"]]
    return TrainingRun.of(losses, recipe, answer["images"] // len(losses), len(answer["classes"]), mode)


def _right(folder: Path, file: str) -> dict[str, bool]:
    """Image -> whether it was predicted right; empty where the predictions were not kept."""
    try:
        return {row.image: row.right for row in read_predictions(folder, file)}
    except HeadError:
        return {}


def _outcome(name: str, runs: list[Run], shown: int, size: int, right: Mapping[str, Any]) -> Outcome:
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
    computed = next((part for part in reversed(runs[0]) if part["device"]), runs[0][0])
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
        device=computed["device"],
        precision=computed["precision"],
        peak_memory_bytes=_highest(runs, "peak_memory_bytes"),
        peak_gpu_memory_bytes=_highest(runs, "peak_gpu_memory_bytes"),
        size_bytes=size,
        **right,
    )


def _highest(runs: list[Run], field: str) -> int | None:
    return max((part[field] for run in runs for part in run if part[field]), default=None)


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
