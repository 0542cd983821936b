"""`BenchmarkRunner` runs the routes of a benchmark, one folder each, and skips finished runs and those over budget."""

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
from featcache.core.layer_names import join_layers
from featcache.core.model_card import write_json
from featcache.errors import FeatcacheError, RunError
from featcache.heads.registry import find_head

_RESULT_FILE, _ESTIMATE_FILE = "result.json", "foreseen.json"
_MAX_RUN_S = 1e9  # a file with a larger value is damaged
_CURVE_REPEATS = 1  # draws of each fraction of the labels; `featcache curve` repeats, which takes minutes
_MAX_CURVE_POINTS = 7  # of the curve by labels


class BenchmarkRunner:
    """Runs all routes with all seeds.

    folder : holds the folders ROUTE-SEED. settings : of `benchmark`. routes : in order. budget_s : None for no limit.
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
        self.budget = Budget(budget_s, self._already_spent_s()) if budget_s else None

    @property
    def skipped(self) -> list[SkippedRun]:
        """Runs that did not fit into the budget."""
        return self.budget.skipped if self.budget else []

    def run(self) -> dict[str, dict[int, Run]]:
        """Route -> seed -> the results of all processes that the run needed.

        All routes of the first seed run first, so that a short budget skips further seeds and not routes.
        """
        runs: dict[str, dict[int, Run]] = {route: {} for route in self._routes}
        for seed in self._seeds:
            for route in self._routes:
                if route in [run.route for run in self.skipped]:
                    continue
                cached: Run | None = []
                if route == "lpft" and "cached" in self._routes:
                    cached = runs["cached"].get(seed)
                if cached is None:
                    self.skipped.append(SkippedRun(route, seed, None, 0.0))
                    continue
                cached_fit = cached[-1] if cached else None
                tasks = tasks_for_route(route, self.folder, seed, self._settings, cached_fit)
                if (run := self._within_budget(route, seed, tasks)) is not None:
                    needed = cached[: 3 - len(tasks)]  # by LP-FT: the cache, and the head unless it fits its own
                    runs[route][seed] = [*needed, *run]
        return {route: by_seed for route, by_seed in runs.items() if by_seed}

    def curves(self) -> tuple[list[Curve], str]:
        """The curves of the first seed's cached head, or the reason why there are none.

        They are by labels, and by views if the cache has augmented ones. A head that does not choose its settings is
        replaced by "linear".
        """
        seed = self._seeds[0]
        cached, folder = self.folder / f"cached-{seed}", self.folder / "curves"
        fit = _read_run(cached)[1]
        task = {
            "task": "curve",
            "cache": str(cached / "cache.h5"),
            "head": fit["head"] if find_head(fit["head"]).tune else "linear",
            "layer": join_layers(fit["layers"]),
            "seed": seed,
        }
        views = self._settings["views"]
        tasks = [{**task, "over": "views"}] if views else []
        tasks += [{**task, "over": "labels", "repeats": _CURVE_REPEATS}]
        if self.budget and not (folder / _RESULT_FILE).exists():
            fit_s = fit["seconds"]["wall"]  # most points of a curve take less
            points = (views + 1 if views else 0) + _MAX_CURVE_POINTS
            expected_s = len(tasks) * (fit["wall_s"] - fit_s) + points * fit_s
            if expected_s > self.budget.left_s:
                left = human_duration(self.budget.left_s)
                return [], f"they take about {human_duration(expected_s)}, and the budget has {left} left."
        try:
            return [Curve.from_dict(values) for values in self._run_once(folder, tasks)], ""
        except FeatcacheError as error:  # too few images to tune, or the cache was removed; the routes are complete
            return [], str(error)

    def _within_budget(self, route: str, seed: int, tasks: list[RouteTask]) -> Run | None:
        """The results of a run; None if it does not fit into the budget."""
        folder, budget = self.folder / f"{route}-{seed}", self.budget
        if budget is None:
            return self._run_once(folder, tasks)
        left_s, estimate_file = budget.left_s, folder / _ESTIMATE_FILE
        expected = _read_estimate(folder)[0] if estimate_file.exists() else budget.expect(route)
        if (folder / _RESULT_FILE).exists() or (left_s and (expected is None or expected.seconds <= left_s)):
            try:
                run = self._run_once(folder, tasks)
                budget.expected[route] = TimeEstimate(_seconds(run))
                return run
            except OverBudgetError as over:
                expected = over.expected
            shutil.rmtree(folder)  # an unfinished cache is large
            folder.mkdir()
            write_json(estimate_file, {"expected": expected, "tried_s": left_s - budget.left_s})
        expected = expected or TimeEstimate(0.0, least=True)
        budget.expected.setdefault(route, expected)
        budget.skipped.append(SkippedRun(route, seed, expected.seconds, left_s, expected.least))
        return None

    def _run_once(self, folder: Path, tasks: list[RouteTask]) -> Run:
        """The results of tasks that run one after the other; those of an earlier, finished run if there are any.

        An LP-FT that takes the cache and head of another route has fewer tasks than one that makes its own: a result
        of the one is not used for the other.
        """
        if (folder / _RESULT_FILE).exists():
            finished = _read_run(folder)
            if len(finished) == len(tasks):
                return finished
        shutil.rmtree(folder, ignore_errors=True)  # an unfinished route starts again, so that its time is complete
        folder.mkdir(parents=True)

        def progress(step: str, done: int, total: int) -> None:
            if self._progress:
                self._progress(f"{folder.name}: {step}", done, total)

        since_s = self.budget.spent_s if self.budget else 0.0
        results = []
        for task in tasks:
            watched = (
                self.budget.enforce(task, self._settings["images"], since_s, progress) if self.budget else progress
            )
            results.append(run_in_process(task, watched))
        write_json(folder / _RESULT_FILE, results)
        return results

    def _already_spent_s(self) -> float:
        """Seconds that an earlier call spent on the same runs."""
        names = [*(f"{route}-{seed}" for route in self._routes for seed in self._seeds), "curves"]
        folders = [self.folder / name for name in names]
        finished = sum(_seconds(_read_run(folder)) for folder in folders if (folder / _RESULT_FILE).exists())
        return finished + sum(_read_estimate(folder)[1] for folder in folders if (folder / _ESTIMATE_FILE).exists())


def _read_run(folder: Path) -> Run:
    """The results of a finished run. Raises RunError if the file is damaged."""
    path = folder / _RESULT_FILE
    results = _read(path)
    if not isinstance(results, list) or not all(
        isinstance(result, dict) and _is_time(result.get("wall_s")) for result in results
    ):
        raise _damaged(path, "it must be a list of results with a field wall_s")
    return results


def _read_estimate(folder: Path) -> tuple[TimeEstimate, float]:
    """The estimated time of a skipped run, and the seconds that it ran. Raises RunError if the file is damaged."""
    path = folder / _ESTIMATE_FILE
    try:
        values = _read(path)
        expected, tried_s = TimeEstimate(*values["expected"]), values["tried_s"]
    except (KeyError, TypeError) as error:
        raise _damaged(path, f"a field is missing or invalid: {error}") from error
    if not (_is_time(expected.seconds) and isinstance(expected.least, bool) and _is_time(tried_s)):
        raise _damaged(path, "its values must be seconds")
    return expected, float(tried_s)


def _is_time(value: Any) -> bool:
    return is_number(value) and 0 <= value < _MAX_RUN_S


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except ValueError as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, reason: str) -> RunError:
    return RunError(
        f"{path} is damaged: {reason}. Remove the folder {path.parent} and repeat the command: it runs this route "
        "again and keeps the others."
    )


def _seconds(run: Run) -> float:
    total: float = sum(result["wall_s"] for result in run)
    return total
