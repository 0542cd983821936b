"""The verdict of a comparison: whether any route is more accurate than the cached head, and what that would cost.

A route counts as better, or worse, only where a paired test on the same images says so, after Holm's correction for the
number of routes. Otherwise the two are not distinguishable, which is not the same as equal: the interval says how much
the images leave open. A live route that was not trained long enough, see `featcache.finetuning.convergence`, can be
better already; that it is worse, or no better, is not said of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from featcache._utils.formatting import capitalize, format_points, format_times, human_duration, join_words, round_up
from featcache._utils.notebook import NotebookResult
from featcache.analysis.benchmark.outcomes import COLD, STAGES_COLD, STAGES_WARM, WARM, Comparison, Outcome
from featcache.analysis.benchmark.routes import ROUTES
from featcache.metrics.significance import PairedDifference, holm, paired_difference, wilson_interval

ALPHA = 0.05
_CLOSE = 0.05  # share of its time by which a route may be faster before that is told: clocks vary by as much
RELEVANT = 0.02  # a gain of two points: below it the price decides, and an interval that admits it leaves a question

_WORDS = {
    COLD: "the cached head",
    STAGES_COLD: "the cached head of all stages",
    ROUTES["frozen"]: "the frozen network run live",
    ROUTES["lpft"]: "LP-FT",
    ROUTES["finetune"]: "fine-tuning",
    ROUTES["scratch"]: "training from scratch",
}


Decision = Literal["stay", "switch", "weigh", "none"]


@dataclass(frozen=True)
class Challenger:
    """A route beside the cached head.

    accuracy : mean over its seeds. gain : by how much it is more accurate than the cached head, as a share, with its
    95 % interval low, high. p : after Holm's correction; p_alone : before it. seconds : median, from nothing to a saved
    model. cold_ratio, warm_ratio : those seconds in such of the cached head, extraction included or not.
    """

    route: str
    accuracy: float
    gain: float
    low: float
    high: float
    p: float
    p_alone: float
    seconds: float
    cold_ratio: float
    warm_ratio: float | None


@dataclass(frozen=True, repr=False)
class Verdict(NotebookResult):
    """What to do, in words and in numbers.

    decision : "stay" with the cached head; "switch" to `route`; "weigh" a gain by `route` that is sure, small and
    costly; or "none", where nothing can be said.
    unfinished : live routes that were not trained long enough to be judged.
    split : of the n images that it rests on. repeats : most seeds of a route. text : the verdict. notes : what it
    rests on, and what it leaves open.
    """

    decision: Decision
    route: str | None
    text: str
    notes: tuple[str, ...] = ()
    split: str = ""
    n: int = 0
    repeats: int = 0
    rivals: tuple[Challenger, ...] = ()
    unfinished: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([self.text, *(f"- {note}" for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            **asdict(self),
            "notes": list(self.notes),
            "rivals": [asdict(rival) for rival in self.rivals],
            "unfinished": list(self.unfinished),
        }


def reach_verdict(comparison: Comparison) -> Verdict:
    """Hold every route against the cached head, on test where the data has one, else on val."""
    routes = [found for found in comparison.outcomes if found.route not in (WARM, STAGES_WARM)]
    cached = next((found for name in (COLD, STAGES_COLD) for found in routes if found.route == name), None)
    if cached is None or len(routes) < 2:
        lacks = "no cached head was among the routes" if cached is None else "the cached head ran alone"
        return Verdict("none", None, f"No verdict: {lacks}.", tuple(_left_out(comparison)))
    court = _Court(comparison, cached, routes)
    if court.n == 0 or not court.rivals:
        text = "No verdict: the routes' predictions, which it is reached by, are not beside their models."
        return Verdict("none", None, text, tuple(_left_out(comparison)))
    return court.verdict()


class _Court:
    """The routes on the images that all of them could read."""

    def __init__(self, comparison: Comparison, cached: Outcome, routes: Sequence[Outcome]) -> None:
        self.comparison, self.cached = comparison, cached
        self.split = "test" if all(found.test_right for found in routes) else "val"
        answers = {found.route: found.test_right if self.split == "test" else found.right for found in routes}
        self.silent = [found for found in routes if not answers[found.route]]
        routes = [found for found in routes if answers[found.route]]
        seen = [set(right) for found in routes for right in answers[found.route]]
        images = sorted(set.intersection(*seen)) if seen else []
        self.n, self.unread = len(images), len(set().union(*seen)) - len(images)
        self.right = {
            found.route: np.array([[right[image] for image in images] for right in answers[found.route]])
            for found in routes
        }
        self.repeats = max(map(len, self.right.values()), default=0)
        self.rivals: list[Challenger] = []
        self.judged: list[Challenger] = []
        self.unfinished: list[Outcome] = []
        if self.n and cached in routes:
            self._hear([found for found in routes if found is not cached])

    def _hear(self, others: Sequence[Outcome]) -> None:
        warm = self.comparison.outcome(WARM if self.cached.route == COLD else STAGES_WARM)
        pairs = [self._pair(self.cached.route, other.route) for other in others]
        for other, pair, p in zip(others, pairs, holm([pair.p for pair in pairs]), strict=True):
            cold_ratio = other.median_s / self.cached.median_s
            warm_ratio = other.median_s / warm.median_s if warm else None
            gain = (pair.difference, pair.low, pair.high, p, pair.p)
            self.rivals.append(
                Challenger(other.route, self._accuracy(other.route), *gain, other.median_s, cold_ratio, warm_ratio)
            )
        better = {rival.route for rival in self.rivals if _is_better(rival)}
        self.unfinished = [other for other in others if other.unfinished and other.route not in better]
        open_routes = {other.route for other in self.unfinished}
        self.judged = [rival for rival in self.rivals if rival.route not in open_routes]

    def verdict(self) -> Verdict:
        """By what the tests say."""
        better = [rival for rival in self.rivals if _is_better(rival)]
        decision: Decision = "none"
        route = None
        if better:
            best = max(better, key=lambda rival: rival.gain)
            decision, route, text = self._switch(best, [rival for rival in better if rival is not best])
        elif self.judged:
            decision, route, text = "stay", self.cached.route, self._stay()
        else:
            text = f"So far: {self._so_far([self.cached, *self.unfinished])}. For a verdict give more --epochs."
        if self.unfinished:
            text = f"{self._no_verdict()} {text}"
        notes = (*self._grounds(bool(better)), *_left_out(self.comparison))
        unfinished = tuple(found.route for found in self.unfinished)
        return Verdict(decision, route, text, notes, self.split, self.n, self.repeats, tuple(self.rivals), unfinished)

    def _no_verdict(self) -> str:
        """Which routes were not trained long enough, and how long they were."""
        groups: dict[str, list[str]] = {}
        for found in self.unfinished:
            run = found.unfinished
            if run is not None:
                groups.setdefault(f"trained for {run}, {run.unfinished}", []).append(_WORDS[found.route])
        told = "; ".join(f"{join_words(names)} {how}" for how, names in groups.items())
        return f"{capitalize(told)}: this is no verdict about {'it' if len(self.unfinished) == 1 else 'them'}."

    def _so_far(self, found: Sequence[Outcome]) -> str:
        return join_words([f"{_WORDS[one.route]} {self._figure(one.route)}" for one in found])

    def _stay(self) -> str:
        ties = sorted((rival for rival in self.judged if rival.p >= ALPHA), key=lambda rival: -rival.accuracy)
        worse = sorted((rival for rival in self.judged if rival.p < ALPHA), key=lambda rival: -rival.accuracy)
        head = f"{_WORDS[self.cached.route]} ({self._figure(self.cached.route)})"
        if ties:
            head = capitalize(head)
            first = ties[0]
            name, figure = _WORDS[first.route], self._figure(first.route)
            found = f"is not distinguishable from {name} ({figure}, {self._p(first.p)})"
        else:
            head = self._opening(head)
            first = worse.pop(0)
            found = f"is better than {self._beaten(first)}"
        sentences = [f"{head} {found} {self._speed(first)}."]
        if ties[1:]:
            sentences.append(f"Nor is it from {join_words([self._tied(rival) for rival in ties[1:]])}.")
        if worse:
            sentences.append(f"It is better than {join_words([self._beaten(rival) for rival in worse])}.")
        return " ".join(sentences)

    def _speed(self, rival: Challenger) -> str:
        """How its time compares, and what follows."""
        ratio, warm = rival.cold_ratio, rival.warm_ratio or 0.0
        both = f"{human_duration(self.cached.median_s)} against {human_duration(rival.seconds)}"
        if ratio >= 1 + _CLOSE:
            again = f", {format_times(warm)} once the features are cached" if warm else ""
            return f"and was {format_times(ratio)} faster ({both}{again}): stay with it"
        if ratio > 1 - _CLOSE:
            again = f", and {format_times(warm)} faster once the features are cached" if warm > 1 + _CLOSE else ""
            return f"and took about as long ({both}{again}): stay with it"
        slower = f"but was {format_times(1 / ratio)} slower ({both})"
        if warm <= 1 + _CLOSE:
            return f"{slower}: here nothing speaks for a cache"
        each = human_duration(rival.seconds / warm)
        return f"{slower}: stay with it for more than one head, each further one takes {each}"

    def _switch(self, best: Challenger, others: Sequence[Challenger]) -> tuple[Decision, str, str]:
        name, cost = _WORDS[best.route], human_duration(best.seconds)
        against, base = human_duration(self.cached.median_s), _WORDS[self.cached.route]
        found = f"{self._opening(name)} gains {format_points(best.gain)} here ({self._figure(best.route)} against "
        found += f"{self._figure(self.cached.route)}; 95 % interval {_range(best)}, {self._p(best.p)})"
        decision: Decision = "switch"
        if best.cold_ratio <= 1 + _CLOSE:
            text = f"{found} and took no longer than {base} ({cost} against {against}): take it."
        elif best.gain >= RELEVANT:
            text = f"{found}: worth its {cost}, against {against} of {base}."
        else:
            decision = "weigh"
            text = f"{found}: whether that is worth its {cost}, against {against} of {base}, is yours to say."
        cheaper = [
            (rival.seconds, rival, pair)
            for rival in others
            if rival.seconds < best.seconds
            and (pair := self._pair(rival.route, best.route)).p >= ALPHA
            and pair.difference <= RELEVANT
        ]
        if not cheaper:
            return decision, best.route, text
        seconds, rival, pair = min(cheaper, key=lambda one: one[0])
        words, figure = capitalize(_WORDS[rival.route]), self._figure(rival.route)
        also = f"{words} gets there in {human_duration(seconds)} ({figure}, not distinguishable from {name}, "
        return decision, rival.route, f"{text} {also}{self._p(pair.p)})."

    def _opening(self, words: str) -> str:
        """The beginning of a sentence that claims a difference; of single runs it is one between two models."""
        return f"In one run of each, {words}" if self.repeats == 1 else capitalize(words)

    def _grounds(self, gains: bool) -> list[str]:
        """What the verdict rests on, and what it leaves open."""
        runs = f", each route's mean of up to {self.repeats} seeds" if self.repeats > 1 else ""
        lines = [f"It rests on {self.n} {self.split} images{runs}."]
        if len(self.rivals) > 1:
            lines[0] += f" p is corrected for {len(self.rivals)} comparisons (Holm)."
        ties = [rival for rival in self.judged if rival.p >= ALPHA]
        if self.unfinished and (self.judged or gains):
            lines.append(f"Unfinished, so far: {self._so_far(self.unfinished)}.")
        early = [found for found in self.comparison.outcomes if found.unfinished and found not in self.unfinished]
        if early:
            names = join_words([_WORDS[found.route] for found in early])
            lines.append(f"{capitalize(names)} may gain more: the training was not at its end.")
        if ties and not gains:
            lines.append(self._open(max(ties, key=lambda rival: rival.high)))
        lines += [*self._break_even(), *self._flattered()]
        if self.repeats == 1:
            lines.append(
                "One run each: p and interval compare the very models that came out, and another seed gives others. "
                "--repeats 3 takes that in."
            )
        if self.unread:
            lines.append(f"{self.unread} {self.split} image(s) that not every route could read are left out.")
        if self.silent:
            names = join_words([_WORDS[found.route] for found in self.silent])
            lines.append(f"Not judged, for want of predictions beside the model: {names}.")
        return lines

    def _open(self, rival: Challenger) -> str:
        """What so many images could not have shown."""
        half = (rival.high - rival.low) / 2
        name = _WORDS[rival.route]
        line = f"So many images show differences from about {format_points(half)} on"
        if rival.high <= RELEVANT:
            return f"{line}: a gain of more than {format_points(max(0.0, rival.high))} by {name} can be ruled out."
        line += f": {name} could still gain up to {format_points(rival.high)} (95 % interval {_range(rival)})."
        if rival.p_alone < ALPHA:
            line += f" Of this pair alone that would be a gain; among {len(self.rivals)} comparisons it is too little."
        needed = self.n * (half / RELEVANT) ** 2
        if half <= RELEVANT:
            return f"{line} More {self.split} images would be needed to tell."
        images = f"{round_up(needed)} {self.split} images"
        return f"{line} An interval of ± {format_points(RELEVANT)} would take about {images}."

    def _break_even(self) -> list[str]:
        """How much training, and how many heads, the cache is worth."""
        told = []
        for route, found in self.comparison.break_even().items():
            head = f"head {found['head']}" if found["head"] else "no number of heads"
            told.append(f"epoch {found['epoch']} or {head} of {_WORDS[route]}")
        return [f"Break-even: the cache is the faster way from {join_words(told)} on."] if told else []

    def _flattered(self) -> list[str]:
        """Who chose by the very images that it is judged on."""
        if self.split == "test":
            return ["No route has chosen anything by test."]
        lines = []
        if any(found.epoch_s and found.route in self.right for found in self.comparison.outcomes):
            lines.append(
                "Trained networks are judged by their last epoch: the best of several, chosen by these very val "
                "images, would flatter them."
            )
        if self.comparison.settings["head"] == "sgd":
            lines.append("The cached head kept its best epoch of these very val images, which flatters it.")
        if any(found.test_n for found in self.comparison.outcomes):
            lines.append("There is a test split, but not every route's predictions of it were kept.")
        return lines

    def _pair(self, first: str, second: str) -> PairedDifference:
        return paired_difference(self.right[first], self.right[second])

    def _accuracy(self, route: str) -> float:
        return float(self.right[route].mean())

    def _figure(self, route: str) -> str:
        """0.954 ± 0.033: half the width of the 95 % interval."""
        accuracy = self._accuracy(route)
        low, high = wilson_interval(round(accuracy * self.n), self.n)
        return f"{accuracy:.3f} ± {(high - low) / 2:.3f}"

    def _tied(self, rival: Challenger) -> str:
        return f"{_WORDS[rival.route]} ({self._figure(rival.route)}, {self._p(rival.p)})"

    def _beaten(self, rival: Challenger) -> str:
        return (
            f"{_WORDS[rival.route]} ({self._figure(rival.route)}) by {format_points(-rival.gain)} ({self._p(rival.p)})"
        )

    def _p(self, p: float) -> str:
        """Of single runs the test is McNemar's."""
        test = "McNemar" if self.repeats == 1 else "paired"
        if p < 0.001:
            return f"{test} p < 0.001"
        return f"{test} p = {p:.3g}" if abs(p - ALPHA) < 0.005 else f"{test} p = {p:.2g}"


def _is_better(rival: Challenger) -> bool:
    """Whether a route is more accurate than the cached head, for sure."""
    return rival.p < ALPHA and rival.gain > 0


def _left_out(comparison: Comparison) -> list[str]:
    """What the budget had no room for."""
    spending = comparison.spending
    if spending is None or not spending.left_out:
        return []
    first = comparison.settings["seed"]
    runs = [f"{'' if one.seed == first else f'from seed {one.seed} on '}{one}" for one in spending.left_out]
    return [f"Left out of the budget of {human_duration(spending.budget_s)}: {'; '.join(runs)}."]


def _range(rival: Challenger) -> str:
    return f"{100 * rival.low:+.1f} to {100 * rival.high:+.1f} points"
