"""`Comparison`: what `benchmark` returns, with the accuracy, the costs and the right images of each route."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from featcache._utils.environment import machine_info, package_versions
from featcache._utils.formatting import brief, text_table
from featcache._utils.results import NotebookResult, Result
from featcache.analysis.benchmark.budget import BudgetUsage
from featcache.analysis.benchmark.routes import ROUTES
from featcache.analysis.curves import Curve
from featcache.data.modality import IMAGES
from featcache.errors import HeadError
from featcache.finetuning.convergence import TrainingRun
from featcache.metrics.predictions import FILE, LAST, TEST, read_predictions
from featcache.metrics.significance import wilson_interval

COLD, WARM = "cached head, cold", "cached head, warm"

Run = list[dict[str, Any]]
"""The results of the processes of one run, in order."""

_NOT_IN_JSON = ("right", "test_right")


@dataclass(frozen=True)
class FittedHead(Result):
    """The head that a run fitted to cached features.

    Attributes
    ----------
    name : str
        With "auto" that of the best head.
    layers : tuple of str
    """

    name: str
    layers: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} on {brief(self.layers, 3)}"


@dataclass(frozen=True)
class Outcome(Result):
    """A route over all its repeats. Lists hold one value per repeat.

    Attributes
    ----------
    route : str
    accuracy, n : list of float, int
        Val accuracy and number of val images; of a training that of its best epoch on val.
    test_accuracy, test_n : list of float, int
        The same on test; empty and 0 without a test split.
    wall_s : list of float
        Seconds from the start of the process to its end.
    cpu_s : list of float
        Core-seconds of user and system. Other users of a shared machine hardly affect them.
    seconds : dict of str to float
        By phase, of the run with the median time.
    shown : int
        Views that the network was run on.
    epoch_s : float or None
        Median seconds of an epoch; None for the cached heads.
    skipped : list of str
        Unreadable images.
    device, precision : str or None
        Of the network that was trained, else of the one that extracted.
    tf32, compiled : bool or None
        Whether it may compute what is left in float32 in TF32, and whether torch.compile compiled it.
    peak_memory_bytes, peak_gpu_memory_bytes : int or None
    size_bytes : int
        Size of the files on disk.
    right, test_right : list of dict of str to bool
        Image -> whether its prediction is right, on val and on test. Empty if the predictions were not saved. On val
        those of a training are of its last epoch, which was not selected by these images.
    trainings : list of TrainingRun
        How long each repeat of a live route trained.
    heads : list of FittedHead
        The cached head, or the head that LP-FT starts from, of each repeat.
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
    heads: list[FittedHead] = field(default_factory=list)
    tf32: bool | None = None
    compiled: bool | None = None

    @property
    def unfinished(self) -> TrainingRun | None:
        """The shortest of the trainings that were too short to judge the route; None if there is none."""
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

    def _json_fields(self) -> dict[str, Any]:
        """Without the right images, which val.csv and test.csv beside the models contain."""
        low, high = self.interval
        fields = super()._json_fields()
        return {
            **{name: value for name, value in fields.items() if name not in _NOT_IN_JSON},
            "median_s": self.median_s,
            "median_accuracy": self.median_accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
        }


@dataclass(frozen=True, repr=False)
class Comparison(Result, NotebookResult):
    """What `benchmark` returns. `str()` is a short table for a terminal.

    Attributes
    ----------
    outcomes : list of Outcome
        One per route; two, cold and warm, of the route "cached".
    settings : dict
        The arguments of the benchmark, and the images that it ran on.
    machine, versions : dict
    curves : list of Curve
        By views and by labels, from the cache.
    no_curves : str
        Why there are no curves.
    spending : BudgetUsage or None
        How the budget was used, if there was one.
    """

    outcomes: list[Outcome]
    settings: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=machine_info)
    versions: dict[str, str] = field(default_factory=package_versions)
    curves: list[Curve] = field(default_factory=list)
    no_curves: str = ""
    spending: BudgetUsage | None = None

    def __str__(self) -> str:
        """A line per route of at most 80 columns; the report has all columns."""
        has_test = any(outcome.test_n for outcome in self.outcomes)
        lines = [["route", "val", "95 % interval", *(["test"] if has_test else []), "seconds"]]
        for outcome in self.outcomes:
            low, high = outcome.interval
            cells = [outcome.route, f"{outcome.median_accuracy:.4f}", f"{low:.3f} to {high:.3f}"]
            if has_test:
                cells.append(f"{statistics.median(outcome.test_accuracy):.4f}" if outcome.test_accuracy else "-")
            lines.append([*cells, f"{outcome.median_s:.1f}"])
        repeats = [f"Medians of {self.repeats} repeats."] if self.repeats > 1 else []
        return "\n".join([*text_table(lines, "<>"), *repeats])

    @property
    def modality(self) -> str:
        """What the samples are: "image" or "text"."""
        return str(self.settings.get("modality", IMAGES.name))

    @property
    def repeats(self) -> int:
        """The most repeats that a route has had; a budget can end before all that were asked for."""
        return max((len(outcome.accuracy) for outcome in self.outcomes), default=0)

    def outcome(self, route: str) -> Outcome | None:
        """The outcome of a route; None if it did not run."""
        return next((outcome for outcome in self.outcomes if outcome.route == route), None)

    def break_even_epoch(self, route: str = ROUTES["frozen"]) -> int | None:
        """The number of epochs of a live route from which the cold cached head is faster; None without both."""
        cold, live = self.outcome(COLD), self.outcome(route)
        if cold is None or live is None or not live.epoch_s:
            return None
        start_s = live.median_s - self.settings["recipe"]["epochs"] * live.epoch_s
        return max(1, math.ceil((cold.median_s - start_s) / live.epoch_s))

    def break_even_head(self, route: str = ROUTES["frozen"]) -> int | None:
        """The number of heads from which one cache is faster than training each head live; None if it never is."""
        cold, warm, live = self.outcome(COLD), self.outcome(WARM), self.outcome(route)
        if cold is None or warm is None or live is None or live.median_s <= warm.median_s:
            return None
        return max(1, math.ceil((cold.median_s - warm.median_s) / (live.median_s - warm.median_s)))

    def break_even(self) -> dict[str, dict[str, int | None]]:
        """For each live route the number of epochs ("epoch") and of heads ("head") from which the cache is faster."""
        live = [outcome.route for outcome in self.outcomes if outcome.epoch_s and self.outcome(COLD)]
        return {route: {"epoch": self.break_even_epoch(route), "head": self.break_even_head(route)} for route in live}

    def _json_fields(self) -> dict[str, Any]:
        return {
            "outcomes": self.outcomes,
            "curves": self.curves,
            "break_even": self.break_even(),
            "spending": self.spending,
            "settings": self.settings,
            "machine": self.machine,
            "versions": self.versions,
        }


def gather_outcomes(route: str, runs: Mapping[int, Run], out: Path, config: Mapping[str, Any]) -> list[Outcome]:
    """The outcome of a route over its repeats; two outcomes, cold and warm, for the route "cached".

    runs : seed -> results of all processes that the run needed; those of LP-FT start with its cache and head.
    out : holds the folders ROUTE-SEED. config : fields of `TrainConfig` of a live route.
    """
    is_cached = route == "cached"
    folders = [out / f"{route}-{seed}" / ("head" if is_cached else "run") for seed in runs]
    is_trained = "best_epoch" in runs[min(runs)][-1]
    file = LAST if is_trained else FILE
    right: dict[str, Any] = {
        "right": [answers for folder in folders if (answers := _right_images(folder, file))],
        "test_right": [answers for folder in folders if (answers := _right_images(folder, TEST))],
    }
    repeats = list(runs.values())
    before, last = repeats[0][:-1], repeats[0][-1]
    shown = before[0]["shown"] if before else 0
    size = max(run[0]["size_bytes"] for run in repeats) if before else 0
    if is_cached:
        fits = [run[1:] for run in repeats]
        return [_outcome(COLD, repeats, shown, size, right), _outcome(WARM, fits, 0, size, right)]
    if not is_trained:
        return [_outcome(ROUTES[route], repeats, 0, last["size_bytes"], right)]
    evaluations = len(last["history"]) + bool(last.get("start"))  # a fitted head is evaluated before the first epoch
    shown += last["images"] + last["n"] * evaluations + (last["test"]["n"] if last["test"] else 0)
    size += max(_folder_bytes(folder) for folder in folders)
    mode = "head" if route == "frozen" else "all"
    trainings = [_training(run[-1], config, mode) for run in repeats]
    return [replace(_outcome(ROUTES[route], repeats, shown, size, right), trainings=trainings)]


def _training(result: Mapping[str, Any], config: Mapping[str, Any], mode: str) -> TrainingRun:
    """How long a live run trained."""
    losses = [math.nan if epoch["loss"] is None else epoch["loss"] for epoch in result["history"]]
    return TrainingRun.from_history(losses, config, result["images"] // len(losses), len(result["classes"]), mode)


def _right_images(folder: Path, file: str) -> dict[str, bool]:
    """Image -> whether its prediction is right; empty if the predictions were not saved."""
    try:
        return {row.image: row.right for row in read_predictions(folder, file)}
    except HeadError:
        return {}


def _outcome(name: str, runs: list[Run], shown: int, size: int, right: Mapping[str, Any]) -> Outcome:
    """Combine the processes of each run, then the runs."""
    last = [run[-1] for run in runs]
    fits = [process for run in runs for process in run if "layers" in process]
    wall = [sum(process["wall_s"] for process in run) for run in runs]
    median_run = runs[wall.index(statistics.median_low(wall))]
    seconds: dict[str, float] = {}
    for process in median_run:
        for phase, value in {**process["seconds"], "imports": process["wall_s"] - process["seconds"]["wall"]}.items():
            if phase != "wall":
                seconds[phase] = seconds.get(phase, 0.0) + value
    epochs = [epoch["seconds"] for run in last for epoch in run["history"]] if "best_epoch" in last[0] else []
    tests = [run["test"] for run in last if run["test"]]
    computed = next((process for process in reversed(runs[0]) if process["device"]), runs[0][0])
    return Outcome(
        route=name,
        accuracy=[run["accuracy"] for run in last],
        n=last[0]["n"],
        test_accuracy=[test["accuracy"] for test in tests],
        test_n=tests[0]["n"] if tests else 0,
        wall_s=wall,
        cpu_s=[sum(process["cpu_s"] for process in run) for run in runs],
        seconds=seconds,
        shown=shown,
        epoch_s=statistics.median(epochs) if epochs else None,
        skipped=sorted({image["path"] for run in runs for process in run for image in process.get("skipped", [])}),
        device=computed["device"],
        precision=computed["precision"],
        tf32=computed.get("tf32"),
        compiled=computed.get("compiled"),
        peak_memory_bytes=_highest(runs, "peak_memory_bytes"),
        peak_gpu_memory_bytes=_highest(runs, "peak_gpu_memory_bytes"),
        size_bytes=size,
        heads=[FittedHead(fit["head"], tuple(fit["layers"])) for fit in fits],
        **right,
    )


def _highest(runs: list[Run], field: str) -> int | None:
    return max((process[field] for run in runs for process in run if process[field]), default=None)


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
