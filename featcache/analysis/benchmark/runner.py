"""`BenchmarkRunner` runs the routes of a benchmark, a folder each. It skips finished runs and those over the budget."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featcache._utils.formatting import human_duration
from featcache._utils.progress_bar import Progress
from featcache._utils.regular_files import is_number, read_json
from featcache.analysis.benchmark.budget import Budget, OverBudgetError, SkippedRun, TimeEstimate
from featcache.analysis.benchmark.outcomes import Run
from featcache.analysis.benchmark.routes import RouteTask, run_in_process, tasks_for_route
from featcache.analysis.curves import Curve
from featcache.core.model_card import write_json
from featcache.errors import FeatcacheError, RunError
from featcache.heads.tuning.families import TUNED_HEADS

_ANSWERS, _FORESEEN = "result.json", "foreseen.json"
_LONGEST_S = 1e9  # of a run: a file that tells of more does not tell the truth
_DRAWS = 1  # of each share of the labels: `featcache curve` repeats, which takes minutes
_POINTS = 7  # of the curve over labels, at most


class BenchmarkRunner:
    """What is done for a comparison.

    Parameters
    ----------
    folder : of the folders ROUTE-SEED. settings : of `compare`. routes : in order. seeds : one a repeat.
    budget_s : seconds, None for no end of them.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        routes: Sequence[str],
        seeds: Sequence[int],
        budget_s: float | None,
        progress: Progress | None,
    ) -> None:
        self.folder, self._settings, self._routes, self._seeds = folder, settings, routes, seeds
        self._progress = progress
        self.budget = Budget(budget_s, self._spent_before()) if budget_s else None

    @property
    def left_out(self) -> list[SkippedRun]:
        """What did not fit into the budget."""
        return self.budget.left_out if self.budget else []

    def run(self) -> dict[str, dict[int, Run]]:
        """Route -> seed -> the answers of all processes that its result rests on.

        All routes of the first seed come first: where time is short, it is further seeds that are left out.
        """
        runs: dict[str, dict[int, Run]] = {route: {} for route in self._routes}
        for seed in self._seeds:
            for route in self._routes:
                if route in [one.route for one in self.left_out]:
                    continue
                orders = tasks_for_route(route, self.folder, seed, self._settings, "cached" in self._routes)
                base: Run | None = []
                if route == "lpft" and "cached" in self._routes:  # it takes the cache and the head, or the cache alone
                    base = runs["cached"][seed][: 3 - len(orders)] if seed in runs["cached"] else None
                if base is None:
                    self.left_out.append(SkippedRun(route, seed, None, 0.0))
                elif (found := self._within_budget(route, seed, orders)) is not None:
                    runs[route][seed] = [*base, *found]
        return {route: found for route, found in runs.items() if found}

    def curves(self) -> tuple[list[Curve], str]:
        """What more views and more labels bring, from the first seed's cache, or why that cannot be told."""
        seed, head = self._seeds[0], self._settings["head"]
        cached, folder = self.folder / f"cached-{seed}", self.folder / "curves"
        order = {
            "task": "curve",
            "cache": str(cached / "cache.h5"),
            "head": head if head in TUNED_HEADS else "linear",
            "seed": seed,
        }
        orders = [{**order, "over": "views"}, {**order, "over": "labels", "repeats": _DRAWS}]
        if self.budget and not (folder / _ANSWERS).exists():
            fit = _read_answers(cached)[1]
            one = fit["seconds"]["wall"]  # of which most curves' points need less
            needs = 2 * (fit["wall_s"] - one) + (self._settings["views"] + 1 + _POINTS) * one
            if needs > self.budget.left_s:
                left = human_duration(self.budget.left_s)
                return [], f"that takes about {human_duration(needs)}, and of the budget {left} were left."
        try:
            return [Curve.from_dict(found) for found in self._once(folder, orders)], ""
        except FeatcacheError as error:  # too little to tune by, or the cache is gone: the routes have run
            return [], str(error)

    def _within_budget(self, route: str, seed: int, orders: list[RouteTask]) -> Run | None:
        """The answers of a run; None where it does not fit."""
        folder, budget = self.folder / f"{route}-{seed}", self.budget
        if budget is None:
            return self._once(folder, orders)
        left, foreseen = budget.left_s, folder / _FORESEEN
        expected = _read_foreseen(folder)[0] if foreseen.exists() else budget.expect(route)
        if (folder / _ANSWERS).exists() or (left and (expected is None or expected.seconds <= left)):
            try:
                found = self._once(folder, orders)
                budget.expected[route] = TimeEstimate(_seconds(found))
                return found
            except OverBudgetError as over:
                expected = over.expected
            shutil.rmtree(folder)  # a cache that will not be finished is large
            folder.mkdir()
            write_json(foreseen, {"expected": expected, "tried_s": left - budget.left_s})
        expected = expected or TimeEstimate(0.0, least=True)
        budget.expected.setdefault(route, expected)
        budget.left_out.append(SkippedRun(route, seed, expected.seconds, left, expected.least))
        return None

    def _once(self, folder: Path, orders: list[RouteTask]) -> Run:
        """The answers to some orders, run one after the other; those of an earlier, finished run if there are any.

        An LP-FT that took another's cache and head has fewer orders than one that made its own: neither is the other.
        """
        if (folder / _ANSWERS).exists():
            kept = _read_answers(folder)
            if len(kept) == len(orders):
                return kept
        shutil.rmtree(folder, ignore_errors=True)  # an unfinished route is timed anew, from its start
        folder.mkdir(parents=True)

        def named(what: str, done: int, total: int) -> None:
            if self._progress:
                self._progress(f"{folder.name}: {what}", done, total)

        since_s = self.budget.spent_s if self.budget else 0.0
        answers = []
        for order in orders:
            watched = self.budget.watch(order, self._settings["images"], since_s, named) if self.budget else named
            answers.append(run_in_process(order, watched))
        write_json(folder / _ANSWERS, answers)
        return answers

    def _spent_before(self) -> float:
        """Seconds that an earlier call has spent on the same runs."""
        names = [*(f"{route}-{seed}" for route in self._routes for seed in self._seeds), "curves"]
        folders = [self.folder / name for name in names]
        ran = sum(_seconds(_read_answers(folder)) for folder in folders if (folder / _ANSWERS).exists())
        tried = [_read_foreseen(folder)[1] for folder in folders if (folder / _FORESEEN).exists()]
        return ran + sum(tried)


def _read_answers(folder: Path) -> Run:
    """The answers that a finished run left. Raises RunError where they are none."""
    path = folder / _ANSWERS
    answers = _read(path)
    if not isinstance(answers, list) or not all(
        isinstance(one, dict) and _is_time(one.get("wall_s")) for one in answers
    ):
        raise _damaged(path, "it holds no answers of processes")
    return answers


def _read_foreseen(folder: Path) -> tuple[TimeEstimate, float]:
    """What a run that was left out would take, and the seconds that were tried. Raises RunError."""
    path = folder / _FORESEEN
    try:
        found = _read(path)
        expected, tried_s = TimeEstimate(*found["expected"]), found["tried_s"]
    except (KeyError, TypeError) as error:
        raise _damaged(path, f"it lacks what it should hold: {error}") from error
    if not (_is_time(expected.seconds) and isinstance(expected.least, bool) and _is_time(tried_s)):
        raise _damaged(path, "it holds no seconds")
    return expected, float(tried_s)


def _is_time(value: Any) -> bool:
    return is_number(value) and 0 <= value < _LONGEST_S


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except ValueError as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, why: str) -> RunError:
    return RunError(
        f"{path} is damaged: {why}. Remove the folder {path.parent}: that run is run again, the others are kept."
    )


def _seconds(run: Run) -> float:
    total: float = sum(part["wall_s"] for part in run)
    return total
