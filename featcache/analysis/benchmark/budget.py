"""The time budget of a benchmark: how long a run will take, and which runs are skipped.

A run estimates its own end from the progress that it reports: an extraction from its first batches, a training from
its first epoch. A run that would exceed the budget is stopped, and no time is spent on a rehearsal. After a tenth of
an extraction, or after the first epoch, a run is no longer stopped: it exceeds the budget by the error of that
estimate. The fit of a head is not estimated, because it is short beside its extraction. A further seed takes the time
of the first one; a training of all layers takes the time of another such training, and at least that of the frozen
network run live. Where this does not fit, the run does not start.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from featcache._utils.deprecation import renamed_fields
from featcache._utils.formatting import human_duration
from featcache._utils.progress_bar import Progress
from featcache._utils.results import Result
from featcache.analysis.benchmark.routes import ROUTES, RouteTask

Clock = Callable[[], float]

_MIN_OBSERVED_S = 5.0  # batches vary: an estimate needs steps of at least so many seconds
_SLACK = 1.5  # the first steps are slow: a first estimate may exceed the remaining time by this factor
_EXTRACTED_FRACTION = 0.1  # of the views, after which the rate of an extraction is settled
_FORWARD_COST = 1 / 3  # of an evaluated image, relative to one that all layers are trained on
_END_TO_END = ("lpft", "finetune", "scratch")  # they train the same network for the same number of epochs


class TimeEstimate(NamedTuple):
    """The seconds of a run; least : whether it may take longer."""

    seconds: float
    least: bool = False


class OverBudgetError(Exception):
    """A run would exceed the budget. `benchmark` catches it."""

    def __init__(self, expected: TimeEstimate) -> None:
        super().__init__(expected)
        self.expected = expected


@dataclass(frozen=True)
class SkippedRun:
    """A route that did not fit into the budget, from this seed on.

    Attributes
    ----------
    route : str
    seed : int
    predicted_s : float or None
        Estimated seconds of the run. None if it was not estimated, because the run that it needs was skipped.
    left_s : float
        Seconds that were left of the budget.
    least : bool
        Whether the run may take longer than predicted.
    """

    route: str
    seed: int
    predicted_s: float | None
    left_s: float
    least: bool = False

    def __str__(self) -> str:
        name = ROUTES[self.route]
        if self.predicted_s is None:
            return f"{name} (needs the cached head)"
        if not self.left_s:
            return f"{name} (no time was left)"
        takes = f"{'at least' if self.least else 'about'} {human_duration(self.predicted_s)}"
        return f"{name} (takes {takes}, {human_duration(self.left_s)} left)"


@renamed_fields(left_out="skipped")
@dataclass(frozen=True)
class BudgetUsage(Result):
    """The budget of a benchmark and the time that it took, in seconds, and the runs that did not fit."""

    budget_s: float
    spent_s: float
    skipped: tuple[SkippedRun, ...]

    def _json_fields(self) -> dict[str, Any]:
        return {"budget_s": self.budget_s, "spent_s": self.spent_s, "left_out": self.skipped}


class ProgressEstimator:
    """Estimates the remaining seconds of a task from its progress.

    images : number of images by split. can_estimate : whether the task is an extraction or a training. settled :
    whether the last estimate is final.
    """

    def __init__(self, task: RouteTask, images: Mapping[str, int], clock: Clock) -> None:
        self._clock, self.settled = clock, False
        self._first: tuple[float, float] | None = None
        self._kind, self._train = task["task"], images["train"]
        self.can_estimate = self._kind in ("extract", "finetune")
        self._unit_size = self._total = self._settled_at = 0.0
        if self._kind == "extract":
            self._unit_size = task["views"] + 1  # views of a training image
            self._total = self._train * self._unit_size + images["val"] + images["test"]
            self._settled_at = _EXTRACTED_FRACTION * self._total
        elif self._kind == "finetune":
            evaluation, epochs = _FORWARD_COST if task["mode"] == "all" else 1.0, task["recipe"]["epochs"]
            self._unit_size = self._train + evaluation * images["val"]  # an epoch
            self._total = epochs * self._unit_size + evaluation * images["test"]
            self._settled_at = self._unit_size if epochs > 1 else self._train

    def left_s(self, step: str, done: int) -> float | None:
        """Seconds from now to the end; None if there is no estimate (yet), or if it was settled before."""
        units = self._units(step, done)
        if units is None or self.settled:
            return None
        now = self._clock()
        if self._first is None:
            self._first = now, units  # imports and the slow first batch are not counted
        started, first_units = self._first
        if units == first_units:
            return None
        self.settled = units >= self._settled_at
        if now - started < _MIN_OBSERVED_S and not self.settled:
            return None
        return (self._total - units) * (now - started) / (units - first_units)

    def _units(self, step: str, done: int) -> float | None:
        """The finished work, in trained images or extracted views; None for steps without an estimate."""
        if self._kind == "extract" and step == "extract":  # train comes first
            return min(done, self._train) * self._unit_size + max(0, done - self._train)
        if self._kind == "finetune" and step.startswith("epoch "):
            return (int(step.removeprefix("epoch ")) - 1) * self._unit_size + done
        return None


class Budget:
    """The seconds of a benchmark; an earlier call may have spent some of them.

    expected : estimates by route, of those that ran and of those that did not fit. skipped : runs that did not fit,
    in order.
    """

    def __init__(self, seconds: float, already_s: float = 0.0, clock: Clock = time.perf_counter) -> None:
        self.seconds, self._already_s, self._clock = seconds, already_s, clock
        self._started = clock()
        self.expected: dict[str, TimeEstimate] = {}
        self.skipped: list[SkippedRun] = []

    @property
    def spent_s(self) -> float:
        """Seconds spent so far."""
        return self._already_s + self._clock() - self._started

    @property
    def left_s(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self.seconds - self.spent_s)

    def expect(self, route: str) -> TimeEstimate | None:
        """The time of a run of this route, from earlier runs; None without a similar run.

        Training all layers takes at least as long as running the frozen network for as many epochs.
        """
        if route not in _END_TO_END:
            return self.expected.get(route)
        similar = next((self.expected[name] for name in (route, *_END_TO_END) if name in self.expected), None)
        frozen = self.expected.get("frozen")
        return similar or (TimeEstimate(frozen.seconds, least=True) if frozen else None)

    def enforce(self, task: RouteTask, images: Mapping[str, int], since_s: float, progress: Progress) -> Progress:
        """A progress callback that raises OverBudgetError once the task clearly exceeds the budget.

        since_s : `spent_s` when the run of this task started.
        """
        estimator = ProgressEstimator(task, images, self._clock)

        def report(step: str, done: int, total: int) -> None:
            progress(step, done, total)
            remaining, so_far = estimator.left_s(step, done), self.spent_s - since_s
            if remaining is not None and remaining > self.left_s * (1.0 if estimator.settled else _SLACK):
                raise OverBudgetError(TimeEstimate(so_far + remaining))
            if estimator.can_estimate and not estimator.settled and not self.left_s:
                raise OverBudgetError(TimeEstimate(so_far, least=True))

        return report

    def usage(self) -> BudgetUsage:
        """The budget so far, for the report."""
        return BudgetUsage(self.seconds, self.spent_s, tuple(self.skipped))
