"""The main figure of a benchmark: val accuracy against seconds, with the frontier of the routes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from featcache._utils.formatting import capitalize, format_times
from featcache.analysis.benchmark.baseline import BASELINE
from featcache.analysis.benchmark.outcomes import COLD
from featcache.analysis.benchmark.routes import ROUTES
from featcache.reports.plots import label_log_axis
from featcache.reports.style import COLOURS, GREY

if TYPE_CHECKING:
    from featcache.analysis.benchmark.outcomes import Comparison, Outcome

_WIDTH, _HEIGHT = 8.0, 4.8  # inches
_INNER = (_WIDTH - 0.6, _HEIGHT - 0.9)  # of the axes, roughly: to place labels before the layout is known
_LETTER, _LINE = 0.075, 0.15  # inches of a small letter
_GAP = 0.12  # inches from a point to its label


def plot_comparison(comparison: Comparison, decision: str | None = None) -> Figure:
    """Val accuracy with its 95 % interval against seconds (log axis); a labelled point per route.

    A dashed line joins the frontier: the routes that no other route beats in both accuracy and seconds.

    decision : the route of the verdict, for the title; None if there is no verdict.
    """
    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    axes = figure.subplots()
    outcomes = comparison.outcomes
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(outcomes))]
    for outcome, colour in zip(outcomes, colours, strict=True):
        low, high = outcome.interval
        x, y = outcome.median_s, outcome.median_accuracy
        axes.errorbar(
            x, y, yerr=[[y - low], [high - y]], fmt="none", capsize=4, ecolor=colour, elinewidth=1.2, alpha=0.7
        )
        axes.plot(x, y, "o", ms=8, color=colour, label=outcome.route, zorder=4)
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.08)
    label_log_axis(axes)
    best = frontier(outcomes)
    if len(best) > 1:
        axes.plot(
            [outcome.median_s for outcome in best],
            [outcome.median_accuracy for outcome in best],
            "--",
            color=GREY,
            linewidth=1,
            drawstyle="steps-post",
            zorder=1,
        )
    _label_points(axes, outcomes)
    axes.set_xlabel("seconds from process start to saved model (log scale)")
    axes.set_ylabel("val accuracy (95 % interval)")
    axes.set_title(_title(comparison, decision), fontsize="medium", loc="left")
    axes.grid(which="major")
    return figure


def _title(comparison: Comparison, decision: str | None) -> str:
    """What the figure shows, and below it the setting."""
    settings, cached = comparison.settings, comparison.outcome(COLD)
    setting = f"{settings['backbone']}, {settings['recipe']['epochs']} live epochs"
    if cached is None or decision is None:
        return setting
    if decision == BASELINE:  # recommended because it is enough, not because it is better
        return f"TF-IDF with logistic regression is enough\n{setting}"
    if decision != cached.route:
        return f"{capitalize(decision)} is significantly more accurate than the cached head\n{setting}"
    if any(outcome.unfinished for outcome in comparison.outcomes):  # there is no verdict about these
        return f"No route that trained long enough is significantly more accurate than the cached head\n{setting}"
    slowest = max(comparison.outcomes, key=lambda outcome: outcome.median_s)
    other = comparison.outcome(ROUTES["finetune"]) or slowest
    times = format_times(other.median_s / cached.median_s)
    finding = f"No route is significantly more accurate than the cached head; {other.route} takes {times} as long"
    return f"{finding}\n{setting}"


def frontier(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The routes that no other one beats in both accuracy and seconds, the fastest first."""
    best: list[Outcome] = []
    for outcome in sorted(outcomes, key=lambda outcome: (outcome.median_s, -outcome.median_accuracy)):
        if not best or outcome.median_accuracy > best[-1].median_accuracy:
            best.append(outcome)
    return best


def _label_points(axes: Axes, outcomes: Sequence[Outcome]) -> None:
    """Write the name and the figures of each route beside its point, where nothing else is."""
    scale = np.array(_INNER)
    points = scale * _fractions(axes, [(outcome.median_s, outcome.median_accuracy) for outcome in outcomes])
    taken = []
    for outcome, (x, y) in zip(outcomes, points, strict=True):
        ends = scale * _fractions(axes, [(outcome.median_s, end) for end in outcome.interval])
        taken.append((x - 0.08, ends[0, 1], x + 0.08, ends[1, 1]))
        taken.append((x - 0.1, y - 0.1, x + 0.1, y + 0.1))
    steps = scale * _fractions(axes, [(outcome.median_s, outcome.median_accuracy) for outcome in frontier(outcomes)])
    taken += [(x, y - 0.03, after, y + 0.03) for (x, y), (after, _) in pairwise(steps)]
    for outcome, point in sorted(zip(outcomes, points, strict=True), key=lambda one: one[1][0]):
        text = f"{outcome.route}\n{outcome.median_accuracy:.3f} in {outcome.median_s:.1f} s"
        size = np.array([_LETTER * max(map(len, text.splitlines())), 2 * _LINE])
        box = min(_boxes(point, size), key=lambda box: _cost(box, taken, point))
        taken.append(box)
        left, bottom, right, top = box
        centre = np.array([(left + right) / 2, (bottom + top) / 2])
        is_right = left > point[0]
        is_left = right < point[0]
        shift = (centre - point) * 72
        shift[0] += (-size[0] / 2 if is_right else size[0] / 2 if is_left else 0) * 72
        axes.annotate(
            text,
            (outcome.median_s, outcome.median_accuracy),
            tuple(shift),
            textcoords="offset points",
            ha="left" if is_right else "right" if is_left else "center",
            va="center",
            fontsize="small",
            linespacing=1.1,
        )


def _fractions(axes: Axes, points: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    """(n, 2): positions of points in the axes, from 0 to 1."""
    found = axes.transScale.transform(np.array(points, float))
    low, high = axes.transScale.transform(np.column_stack([axes.get_xlim(), axes.get_ylim()]))
    return np.asarray((found - low) / (high - low))


_Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in inches of the axes."""


def _boxes(point: NDArray[np.float64], size: NDArray[np.float64]) -> Iterator[_Box]:
    """Where the label of a point can be: beside it, then above and below, then farther away."""
    (x, y), (width, height) = point, size
    for away in (0.0, 0.35, 0.7, 1.05, 1.4):
        for up in (away, -away) if away else (0.0,):
            yield x + _GAP, y + up - height / 2, x + _GAP + width, y + up + height / 2
            yield x - _GAP - width, y + up - height / 2, x - _GAP, y + up + height / 2
        for below in (y + _GAP + away, y - _GAP - away - height):
            yield x - width / 2, below, x + width / 2, below + height


def _cost(box: _Box, taken: Sequence[_Box], point: NDArray[np.float64]) -> float:
    """How bad a place is: what it covers, what lies outside of the axes, and, less, how far it is."""
    left, bottom, right, top = box
    outside = max(0.0, -left) + max(0.0, -bottom) + max(0.0, right - _INNER[0]) + max(0.0, top - _INNER[1])
    covered = sum(
        max(0.0, min(right, other[2]) - max(left, other[0])) * max(0.0, min(top, other[3]) - max(bottom, other[1]))
        for other in taken
    )
    x, y = point
    distance = float(np.hypot(max(0.0, left - x, x - right), max(0.0, bottom - y, y - top)))
    return 100 * outside + 50 * covered + distance / 20
