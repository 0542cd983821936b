"""What a comparison may cost: how long a route will take, told from its own first steps, and what is left out.

The run is its own probe. What it reports of its progress gives its rate, and so when it will end: of an extraction
from its first batches on, of a training from its first epoch. A run that would not end within the budget is stopped
there; one that would goes on, and nothing was spent on a rehearsal. Once a tenth of an extraction, or the first epoch,
is over, a run is no longer stopped: it can exceed the budget by what was mistaken about it. Fitting a head is not
foreseen, being short beside its extraction. Further seeds take what the first took, every training of all layers takes
what another took, and no less than the frozen network run live: where that does not fit they are not even begun.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from featcache._utils.formatting import human_duration
from featcache._utils.progress_bar import Progress
from featcache.analysis.benchmark.routes import ROUTES, RouteTask

Clock = Callable[[], float]

# Of the first steps: at least so many seconds apart, for batches vary; and they must be over by so much, for first
# steps are slow.
_LEAST_S, _SLACK = 5.0, 1.5
_EXTRACTED = 0.1  # share of the views after which an extraction's rate is settled
_FORWARD = 1 / 3  # the cost of an image that is only evaluated, of one that all layers are trained on
# All train the same network end to end for as many epochs, whatever they start from.
_END_TO_END = ("lpft", "finetune", "scratch")


class TimeEstimate(NamedTuple):
    """Seconds that a run takes, or would; least : that, or more."""

    seconds: float
    least: bool = False


class OverBudgetError(Exception):
    """A run that would not end in time, and what it would take in all. It never leaves `compare`."""

    def __init__(self, expected: TimeEstimate) -> None:
        super().__init__(expected)
        self.expected = expected


@dataclass(frozen=True)
class SkippedRun:
    """A route that did not fit, from this seed on: what a run would have taken, and what was left, in seconds.

    predicted_s : None where it was not tried, because what it starts from was left out. least : that, or more.
    """

    route: str
    seed: int
    predicted_s: float | None
    left_s: float
    least: bool = False

    def __str__(self) -> str:
        if self.predicted_s is None:
            return f"{ROUTES[self.route]}, which starts from the cached head"
        if not self.left_s:
            return f"{ROUTES[self.route]}, not begun: the time was up"
        left = human_duration(self.left_s)
        were = "was" if left.startswith("1 ") else "were"
        about = "at least" if self.least else "about"
        return f"{ROUTES[self.route]}, {about} {human_duration(self.predicted_s)}, {left} {were} left"


@dataclass(frozen=True)
class BudgetUsage:
    """What a comparison was allowed, what it took, in seconds, and the runs that did not fit."""

    budget_s: float
    spent_s: float
    left_out: tuple[SkippedRun, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "left_out": [asdict(one) for one in self.left_out]}


class ProgressEstimator:
    """How many seconds an order still needs, from its progress.

    images : counts by split, of the data. foresees : whether it can be told of such an order at all. settled :
    whether enough was seen to say so for good.
    """

    def __init__(self, order: RouteTask, images: Mapping[str, int], clock: Clock) -> None:
        self._clock, self.settled = clock, False
        self._first: tuple[float, float] | None = None
        self._kind, self._train = order["task"], images["train"]
        self.foresees = self._kind in ("extract", "finetune")
        self._each = self._total = self._settles = 0.0
        if self._kind == "extract":
            self._each = order["views"] + 1  # of a training image
            self._total = self._train * self._each + images["val"] + images["test"]
            self._settles = _EXTRACTED * self._total
        elif self._kind == "finetune":
            evaluated, epochs = _FORWARD if order["mode"] == "all" else 1.0, order["recipe"]["epochs"]
            self._each = self._train + evaluated * images["val"]  # of an epoch
            self._total = epochs * self._each + evaluated * images["test"]
            self._settles = self._each if epochs > 1 else self._train

    def left_s(self, what: str, done: int) -> float | None:
        """Seconds from now to the end; None where that cannot be told (yet), or was settled before."""
        units = self._units(what, done)
        if units is None or self.settled:
            return None
        now = self._clock()
        if self._first is None:
            self._first = now, units  # before it lie the imports and the network's slow first batch
        started, already = self._first
        if units == already:
            return None
        self.settled = units >= self._settles
        if now - started < _LEAST_S and not self.settled:
            return None
        return (self._total - units) * (now - started) / (units - already)

    def _units(self, what: str, done: int) -> float | None:
        """How much is done, in images that are trained on or views that are extracted; None of other steps."""
        if self._kind == "extract" and what == "extract":  # train comes first
            return min(done, self._train) * self._each + max(0, done - self._train)
        if self._kind == "finetune" and what.startswith("epoch "):
            return (int(what.removeprefix("epoch ")) - 1) * self._each + done
        return None


class Budget:
    """Seconds for a comparison, of which some may have been spent by an earlier call.

    Attributes
    ----------
    expected : of the routes that ran, and of those that were seen not to fit. left_out : in order.
    """

    def __init__(self, seconds: float, already: float = 0.0, clock: Clock = time.perf_counter) -> None:
        self.seconds, self._already, self._clock = seconds, already, clock
        self._started = clock()
        self.expected: dict[str, TimeEstimate] = {}
        self.left_out: list[SkippedRun] = []

    @property
    def spent_s(self) -> float:
        """By now."""
        return self._already + self._clock() - self._started

    @property
    def left_s(self) -> float:
        """None of it is left where it is overdrawn."""
        return max(0.0, self.seconds - self.spent_s)

    def expect(self, route: str) -> TimeEstimate | None:
        """What a run of this route will take, by those before it; None where nothing is known.

        Training all layers takes no less than running the frozen network as often.
        """
        if route not in _END_TO_END:
            return self.expected.get(route)
        known = next((self.expected[one] for one in (route, *_END_TO_END) if one in self.expected), None)
        frozen = self.expected.get("frozen")
        return known or (TimeEstimate(frozen.seconds, least=True) if frozen else None)

    def watch(self, order: RouteTask, images: Mapping[str, int], since_s: float, progress: Progress) -> Progress:
        """A progress callback that raises OverBudgetError as soon as it is clear that the order will not end in time.

        since_s : what was spent when the run began that the order is part of.
        """
        pace = ProgressEstimator(order, images, self._clock)

        def report(what: str, done: int, total: int) -> None:
            progress(what, done, total)
            needs, so_far = pace.left_s(what, done), self.spent_s - since_s
            if needs is not None and needs > self.left_s * (1.0 if pace.settled else _SLACK):
                raise OverBudgetError(TimeEstimate(so_far + needs))
            if pace.foresees and not pace.settled and not self.left_s:
                raise OverBudgetError(TimeEstimate(so_far, least=True))

        return report

    def spending(self) -> BudgetUsage:
        """For the report."""
        return BudgetUsage(self.seconds, self.spent_s, tuple(self.left_out))
