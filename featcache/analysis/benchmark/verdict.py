"""`reach_verdict`: whether a route of a benchmark is more accurate than the cached head, and at what cost.

A route counts as better or worse only if a paired test on the same images is significant, after Holm's correction for
the number of routes. A difference that is not significant does not mean that the routes are equal: the interval shows
which differences remain possible. A live route that was not trained long enough (`featcache.finetuning.convergence`)
can already be better, but is never called worse or equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from featcache._utils.deprecation import renamed_fields
from featcache._utils.formatting import (
    capitalize,
    format_points,
    format_times,
    human_duration,
    join_words,
    plural,
    round_up,
)
from featcache._utils.results import NotebookResult, Result
from featcache.analysis.benchmark.baseline import BASELINE, BaselineTest, compare_with_baseline
from featcache.analysis.benchmark.outcomes import COLD, WARM, Comparison, Outcome
from featcache.analysis.benchmark.route_tests import ALPHA, Challenger, RouteTests, is_better
from featcache.analysis.benchmark.routes import ROUTES
from featcache.heads.registry import find_head
from featcache.metrics.significance import wilson_interval

_SIMILAR_TIME = 0.05  # relative difference of two times that counts as none: clocks vary by as much
RELEVANT_GAIN = 0.02  # two points: a smaller gain may not be worth its time, a larger possible gain is mentioned

_NAMES = {
    COLD: "the cached head",
    BASELINE: "TF-IDF with logistic regression",
    ROUTES["frozen"]: "the frozen network run live",
    ROUTES["lpft"]: "LP-FT",
    ROUTES["finetune"]: "fine-tuning",
    ROUTES["scratch"]: "training from scratch",
}

Decision = Literal["stay", "switch", "tradeoff", "none"]


@renamed_fields(rivals="challengers")
@dataclass(frozen=True, repr=False)
class Verdict(Result, NotebookResult):
    """What `reach_verdict` returns. `str()` is the text with its notes.

    Attributes
    ----------
    decision : "stay", "switch", "tradeoff" or "none"
        Keep the cached head; use `route`; a small significant gain of `route`, at the cost of time; or no verdict.
    route : str or None
        The recommended route.
    text : str
        The verdict in words.
    notes : tuple of str
        What the verdict is based on, and what it leaves open.
    split : str
        The split of the images that the routes are compared on.
    n : int
        Number of these images.
    repeats : int
        Highest number of seeds of a route.
    challengers : tuple of Challenger
        The other routes.
    unfinished : tuple of str
        Live routes that were not trained long enough to be judged.
    """

    decision: Decision
    route: str | None
    text: str
    notes: tuple[str, ...] = ()
    split: str = "val"
    n: int = 0
    repeats: int = 0
    challengers: tuple[Challenger, ...] = ()
    unfinished: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([self.text, *(f"- {note}" for note in self.notes)])

    def _json_fields(self) -> dict[str, Any]:
        fields = super()._json_fields()
        challengers = fields.pop("challengers")
        return {**fields, "rivals": challengers}


def reach_verdict(comparison: Comparison) -> Verdict:
    """Compare each route of a benchmark with the cached head.

    Parameters
    ----------
    comparison : Comparison
        What `benchmark` returned. The routes are compared on test if every route has predictions of it, else on val.

    Returns
    -------
    Verdict
        Its decision is "none" if the cached head, other routes or their predictions are missing.

    Examples
    --------
    >>> import featcache
    >>> comparison = featcache.benchmark("photos", "report")  # doctest: +SKIP
    >>> print(featcache.reach_verdict(comparison).text)  # doctest: +SKIP
    """
    routes = [outcome for outcome in comparison.outcomes if outcome.route != WARM]
    cached = comparison.outcome(COLD)
    if cached is None:
        return _no_verdict("the benchmark did not run the cached head", comparison)
    if len(routes) < 2:
        return _no_verdict("the benchmark only ran the cached head", comparison)
    builder = _VerdictBuilder(comparison, cached, routes)
    if builder.n == 0 or not builder.challengers:
        return _no_verdict("the predictions of the routes are missing from their model folders", comparison)
    return builder.build()


def _no_verdict(reason: str, comparison: Comparison) -> Verdict:
    return Verdict("none", None, f"No verdict: {reason}.", tuple(_budget_notes(comparison)))


class _VerdictBuilder(RouteTests):
    """The text of the tests."""

    def __init__(self, comparison: Comparison, cached: Outcome, routes: Sequence[Outcome]) -> None:
        super().__init__(comparison, cached, routes)
        self.baseline = compare_with_baseline(self) if self.judged else None

    def build(self) -> Verdict:
        """The verdict of the tests."""
        better = [challenger for challenger in self.challengers if is_better(challenger)]
        decision: Decision = "none"
        route = None
        if better:
            decision, route, text = self._switch_text(better)
        elif self.judged:
            decision, route, text = self._no_better_text()
        else:
            accuracies = self._accuracies([self.cached, *self.unfinished])
            text = f"Accuracy so far: {accuracies}. Train with more --epochs for a verdict."
        if self.unfinished:
            text = f"{self._unfinished_text()} {text}"
        notes = (*self._caveats(bool(better)), *_budget_notes(self.comparison))
        unfinished = tuple(outcome.route for outcome in self.unfinished)
        return Verdict(decision, route, text, notes, self.split, self.n, self.repeats, tuple(self.challengers),
                       unfinished)  # fmt: skip

    def _unfinished_text(self) -> str:
        """Which routes were not trained long enough, and why."""
        groups: dict[str, list[str]] = {}
        for outcome in self.unfinished:
            if (run := outcome.unfinished) is not None:
                groups.setdefault(f"trained for {run}, {run.unfinished}", []).append(_NAMES[outcome.route])
        reasons = "; ".join(f"{join_words(names)} {reason}" for reason, names in groups.items())
        return f"{capitalize(reasons)}. There is no verdict about {'it' if len(self.unfinished) == 1 else 'them'}."

    def _accuracies(self, outcomes: Sequence[Outcome]) -> str:
        return join_words([f"{_NAMES[outcome.route]} {self._figure(outcome.route)}" for outcome in outcomes])

    def _differences_text(self) -> str:
        """No route is significantly better: name those that tie, and those that are worse."""
        by_accuracy = sorted(self.judged, key=lambda challenger: -challenger.accuracy)
        ties = [challenger for challenger in by_accuracy if challenger.p >= ALPHA]
        worse = [challenger for challenger in by_accuracy if challenger.p < ALPHA]
        cached = f"{_NAMES[self.cached.route]} ({self._figure(self.cached.route)})"
        sentences = []
        if ties:
            names = join_words([self._tied(challenger) for challenger in ties], "or")
            sentences.append(f"{capitalize(cached)} does not differ significantly from {names}.")
        if worse:
            subject = "It" if ties else self._opening(cached)
            sentences.append(f"{subject} is more accurate than {join_words([self._beaten(other) for other in worse])}.")
        return " ".join(sentences)

    def _no_better_text(self) -> tuple[Decision, str, str]:
        """No route is significantly better than the cached head: keep it, or TF-IDF is enough."""
        text, trained = self._differences_text(), [other for other in self.judged if other.route != BASELINE]
        if self.baseline and self.baseline.is_enough:
            enough = self._enough_text(self.baseline)
            if self.baseline.gain.high <= RELEVANT_GAIN:
                return "switch", BASELINE, f"{text} TF-IDF is enough: {enough}: use TF-IDF."
            return "stay", self.cached.route, f"{text} TF-IDF may be enough: {enough}."
        if not trained:
            seconds = self.comparison.outcome(BASELINE)
            times = (
                f"{human_duration(self.cached.median_s)}, and TF-IDF {human_duration(seconds.median_s)}"
                if seconds
                else ""
            )
            return "stay", self.cached.route, f"{text} It took {times}: keep the cached head."
        by_accuracy = sorted(trained, key=lambda other: (other.p < ALPHA, -other.accuracy))
        return "stay", self.cached.route, f"{text} {self._speed(by_accuracy[0])}"

    def _enough_text(self, test: BaselineTest) -> str:
        """No route is significantly better than TF-IDF: what remains possible, and the times."""
        may = f"{_NAMES[test.best]} is at most {format_points(max(0.0, test.gain.high))} more accurate (95 % interval)"
        return f"no route is significantly more accurate on these {self._samples(self.n)}; {may}"

    def _speed(self, other: Challenger) -> str:
        """How the time of the cached head compares with another route, and what to do."""
        ratio, warm, name = other.cold_ratio, other.warm_ratio or 0.0, _NAMES[other.route]
        times = f"{human_duration(self.cached.median_s)} against {human_duration(other.seconds)}"
        once_cached = f"; {format_times(warm)} faster once the features are cached" if warm > 1 + _SIMILAR_TIME else ""
        if ratio >= 1 + _SIMILAR_TIME:
            return f"It was {format_times(ratio)} faster than {name} ({times}{once_cached}): keep the cached head."
        if ratio > 1 - _SIMILAR_TIME:
            return f"It took about as long as {name} ({times}{once_cached}): keep the cached head."
        slower = f"It was {format_times(1 / ratio)} slower than {name} ({times})"
        if not once_cached:
            return f"{slower}: on this data a cache has no advantage."
        further = human_duration(other.seconds / warm)
        return f"{slower}, but each further head takes {further}: keep the cached head if you fit more than one head."

    def _switch_text(self, better: Sequence[Challenger]) -> tuple[Decision, str, str]:
        """A route is significantly better: its gain, its time, and a cheaper route that is as good."""
        best = max(better, key=lambda challenger: challenger.gain)
        name, cached = _NAMES[best.route], _NAMES[self.cached.route]
        figures = f"{self._figure(best.route)} against {self._figure(self.cached.route)}"
        gain = (
            f"{self._opening(name)} is more accurate than {cached} by {format_points(best.gain)} ({figures}; 95 % "
            f"interval {_range(best)}, {self._p(best.p)})"
        )
        times = f"{human_duration(best.seconds)} against {human_duration(self.cached.median_s)}"
        decision: Decision = "switch"
        if best.cold_ratio <= 1 + _SIMILAR_TIME:
            text = f"{gain} and took no longer ({times}): use {name}."
        elif best.gain >= RELEVANT_GAIN:
            text = f"{gain}. It took {times}; the gain is worth the time."
        else:
            decision = "tradeoff"
            text = f"{gain}. It took {times}: decide whether this gain is worth the time."
        cheaper = [
            (other.seconds, other, pair)
            for other in better
            if other.seconds < best.seconds
            and (pair := self.compare(other.route, best.route)).p >= ALPHA
            and pair.difference <= RELEVANT_GAIN
        ]
        if not cheaper:
            return decision, best.route, text
        seconds, other, pair = min(cheaper, key=lambda option: option[0])
        return (
            decision,
            other.route,
            f"{text} {capitalize(_NAMES[other.route])} is as accurate in {human_duration(seconds)} "
            f"({self._figure(other.route)}; no significant difference from {name}, {self._p(pair.p)}).",
        )

    def _opening(self, subject: str) -> str:
        """The start of a sentence that claims a difference: single runs compare two models, not two routes."""
        return f"In one run of each route, {subject}" if self.repeats == 1 else capitalize(subject)

    def _caveats(self, has_gain: bool) -> list[str]:
        """What the verdict is based on, and what it leaves open."""
        seeds = f" and the mean of up to {self.repeats} seeds per route" if self.repeats > 1 else ""
        notes = [f"Based on {self._samples(self.n)}{seeds}."]
        if len(self.challengers) > 1:
            notes[0] += f" The p values are corrected for {len(self.challengers)} comparisons (Holm)."
        ties = [challenger for challenger in self.judged if challenger.p >= ALPHA]
        if self.unfinished and (self.judged or has_gain):
            notes.append(f"Accuracy of unfinished routes so far: {self._accuracies(self.unfinished)}.")
        early = [other for other in self.comparison.outcomes if other.unfinished and other not in self.unfinished]
        if early:
            names = join_words([_NAMES[outcome.route] for outcome in early])
            notes.append(f"{capitalize(names)} may improve with more epochs: the training had not converged.")
        if ties and not has_gain:
            notes.append(self._power_note(max(ties, key=lambda challenger: challenger.high)))
        notes += [*self._baseline_notes(), *self._break_even_notes(), *self._selection_bias_notes()]
        if self.repeats == 1:
            notes.append(
                "One run per route: p values and intervals compare these models, and another seed gives other models. "
                "--repeats 3 includes the variance between seeds."
            )
        if self.unread:
            are = "is" if self.unread == 1 else "are"
            notes.append(f"{self._samples(self.unread)} that a route could not read {are} excluded.")
        if self.without_predictions:
            names = join_words([_NAMES[outcome.route] for outcome in self.without_predictions])
            notes.append(f"Not judged, because the predictions are missing from the model folder: {names}.")
        return notes

    def _power_note(self, other: Challenger) -> str:
        """Which differences this number of images cannot show."""
        half = (other.high - other.low) / 2
        name, images = _NAMES[other.route], self._samples(self.n)
        note = f"{images} show differences of about {format_points(half)} or more"
        if other.high <= RELEVANT_GAIN:
            return f"{note}: {name} is at most {format_points(max(0.0, other.high))} more accurate (95 % interval)."
        note += f": {name} may be up to {format_points(other.high)} more accurate (95 % interval {_range(other)})."
        if other.p_alone < ALPHA:
            note += f" As a single comparison the gain is significant; among {len(self.challengers)} it is not."
        if half <= RELEVANT_GAIN:
            return f"{note} More {self.split} {self.comparison.modality}s are needed to decide."
        needed = self._samples(round_up(self.n * (half / RELEVANT_GAIN) ** 2))
        return f"{note} An interval of ± {format_points(RELEVANT_GAIN)} needs about {needed}."

    def _baseline_notes(self) -> list[str]:
        """Which route is more accurate than TF-IDF, and by how much."""
        test = self.baseline
        if test is None or test.is_enough:
            return []
        low, high = (f"{100 * value:+.1f}" for value in (test.gain.low, test.gain.high))
        return [
            f"TF-IDF is not enough: {_NAMES[test.best]} is more accurate by {format_points(test.gain.difference)} (95 "
            f"% interval {low} to {high} points, {self._p(test.p)})."
        ]

    def _break_even_notes(self) -> list[str]:
        """From how many epochs, or heads, on the cache is faster than each live route."""
        routes = []
        for route, numbers in self.comparison.break_even().items():
            heads = f"or {plural(numbers['head'], 'head')} on" if numbers["head"] else "on, but not for further heads"
            routes.append(f"{_NAMES[route]} (from {plural(numbers['epoch'] or 1, 'epoch')} {heads})")
        return [f"Break-even: the cache is faster than {join_words(routes)}."] if routes else []

    def _selection_bias_notes(self) -> list[str]:
        """Which routes selected something on the images that they are compared on."""
        if self.split == "test":
            return ["No route selected anything on test."]
        notes = []
        if any(outcome.epoch_s and outcome.route in self.right for outcome in self.comparison.outcomes):
            notes.append(
                "Trained networks are scored at their last epoch: picking the best epoch on the same val "
                f"{self.comparison.modality}s would bias the score upward."
            )
        if find_head(head := self.comparison.settings["head"]).selects_on_val:
            notes.append(
                f"The cached head ({head}) kept its best epoch on these val {self.comparison.modality}s: its accuracy "
                "is optimistic."
            )
        if any(outcome.test_n for outcome in self.comparison.outcomes):
            notes.append("There is a test split, but the test predictions of some routes are missing.")
        return notes

    def _samples(self, count: int) -> str:
        """Such as "153 val images"."""
        return plural(count, f"{self.split} {self.comparison.modality}")

    def _figure(self, route: str) -> str:
        """0.954 ± 0.033: half the width of the 95 % interval."""
        accuracy = self.accuracy(route)
        low, high = wilson_interval(round(accuracy * self.n), self.n)
        return f"{accuracy:.3f} ± {(high - low) / 2:.3f}"

    def _tied(self, other: Challenger) -> str:
        return f"{_NAMES[other.route]} ({self._figure(other.route)}, {self._p(other.p)})"

    def _beaten(self, other: Challenger) -> str:
        return (
            f"{_NAMES[other.route]} ({self._figure(other.route)}) by {format_points(-other.gain)} ({self._p(other.p)})"
        )

    def _p(self, p: float) -> str:
        """The p value; for single runs the paired test is McNemar's. A p near ALPHA is not rounded onto it."""
        test = "McNemar" if self.repeats == 1 else "paired"
        if p < 0.001:
            return f"{test} p < 0.001"
        return f"{test} p = {p:.3g}" if abs(p - ALPHA) < 0.005 else f"{test} p = {p:.2g}"


def _budget_notes(comparison: Comparison) -> list[str]:
    """The runs that were skipped to stay within the budget."""
    usage = comparison.spending
    if usage is None or not usage.skipped:
        return []
    first = comparison.settings["seed"]
    runs = [f"{'' if run.seed == first else f'from seed {run.seed} on '}{run}" for run in usage.skipped]
    return [f"Skipped because of the budget of {human_duration(usage.budget_s)}: {'; '.join(runs)}."]


def _range(challenger: Challenger) -> str:
    return f"{100 * challenger.low:+.1f} to {100 * challenger.high:+.1f} points"
