"""The main figure of a benchmark: points with intervals, labels beside them, the frontier."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from featcache.analysis.benchmark.baseline import BASELINE
from featcache.analysis.benchmark.outcomes import COLD, WARM, Comparison
from featcache.analysis.benchmark.routes import ROUTES
from featcache.finetuning.convergence import TrainingRun
from featcache.reports.comparison_figure import frontier, plot_comparison
from outcomes import comparison, four_routes, outcome

ANTS_AND_BEES = {  # benchmarks/results/ants-bees.json: four points within a tenth of the accuracy axis
    COLD: (0.941, 10.7),
    WARM: (0.941, 2.0),
    ROUTES["frozen"]: (0.967, 37.4),
    ROUTES["lpft"]: (0.941, 137.2),
    ROUTES["finetune"]: (0.954, 128.9),
    ROUTES["scratch"]: (0.660, 124.7),
}


def of_ants_and_bees() -> Comparison:
    routes = ANTS_AND_BEES.items()
    return comparison(*(outcome(name, accuracy=[right], n=153, wall_s=[s]) for name, (right, s) in routes))


def labels_of(figure: Figure) -> list[Annotation]:
    (axes,) = figure.axes
    return [text for text in axes.texts if isinstance(text, Annotation)]


def overlap(axes: Axes, figure: Figure) -> list[str]:
    """Labels that overlap another one, a point, or the edge of the figure."""
    figure.draw_without_rendering()
    boxes = [(label.get_text(), label.get_window_extent()) for label in labels_of(figure)]
    points = axes.transData.transform([label.xy for label in labels_of(figure)])
    found = [f"{one} / {other}" for (one, a), (other, b) in combinations(boxes, 2) if a.overlaps(b)]
    found += [text for text, box in boxes if any(box.contains(x, y) for x, y in points)]
    page = figure.bbox
    found += [
        text for text, box in boxes if box.x0 < page.x0 or box.x1 > page.x1 or box.y0 < page.y0 or box.y1 > page.y1
    ]
    return found


def test_a_route_is_a_point_with_its_interval() -> None:
    result = four_routes()
    (axes,) = plot_comparison(result).axes
    assert axes.get_xscale() == "log"
    points = {line.get_label(): line for line in axes.lines if line.get_marker() == "o"}
    for bars, route in zip(axes.containers, result.outcomes, strict=True):
        point = points[route.route]
        assert (point.get_xdata()[0], point.get_ydata()[0]) == (route.median_s, route.median_accuracy)
        (interval,) = bars.lines[2]
        assert tuple(interval.get_segments()[0][:, 1]) == pytest.approx(route.interval)
    assert "cached head, cold\n0.940 in 60.0 s" in [label.get_text() for label in labels_of(axes.figure)]
    assert axes.xaxis.get_major_formatter()(100) == "100"


def test_labels_cover_nothing() -> None:
    figure = plot_comparison(of_ants_and_bees(), COLD)
    (axes,) = figure.axes
    assert sorted(label.get_text().splitlines()[0] for label in labels_of(figure)) == sorted(ANTS_AND_BEES)
    assert overlap(axes, figure) == []


def test_labels_of_seven_routes_that_are_all_alike_are_still_in_the_figure() -> None:
    names = (COLD, WARM, *list(ROUTES.values())[1:], BASELINE)
    routes = (outcome(name, wall_s=[10.0 + number]) for number, name in enumerate(dict.fromkeys(names)))
    figure = plot_comparison(comparison(*routes))
    (axes,) = figure.axes
    assert overlap(axes, figure) == []


def test_the_frontier_is_what_no_other_route_beats() -> None:
    assert [route.route for route in frontier(of_ants_and_bees().outcomes)] == [WARM, ROUTES["frozen"]]
    (axes,) = plot_comparison(of_ants_and_bees()).axes
    (line,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose(line.get_xydata(), [[2.0, 0.941], [37.4, 0.967]])


def test_one_route_has_no_frontier() -> None:
    (axes,) = plot_comparison(comparison(outcome(COLD))).axes
    assert [line for line in axes.lines if line.get_linestyle() == "--"] == []


@pytest.mark.parametrize(
    ("decision", "title"),
    [
        (None, "resnet18, 10 live epochs"),
        (COLD, "No route is significantly more accurate than the cached head; fine-tune takes 12 times as long"),
        (BASELINE, "TF-IDF with logistic regression is enough"),
        (ROUTES["lpft"], "LP-FT is significantly more accurate than the cached head"),
    ],
)
def test_the_title_is_the_finding(decision: str | None, title: str) -> None:
    (axes,) = plot_comparison(of_ants_and_bees(), decision).axes
    first, *setting = axes.get_title(loc="left").splitlines()
    assert first == title
    assert setting == ([] if decision is None else ["resnet18, 10 live epochs"])


def test_the_title_claims_nothing_of_a_route_that_was_not_trained_long_enough() -> None:
    short = outcome(ROUTES["finetune"], trainings=[TrainingRun(1, 10, (1.0,), "its loss still falls")])
    assert short.unfinished
    (axes,) = plot_comparison(comparison(outcome(COLD), short), COLD).axes
    first = axes.get_title(loc="left").splitlines()[0]
    assert first == "No route that trained long enough is significantly more accurate than the cached head"


@pytest.mark.parametrize("n", [3, 10, 27, 153])
@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_a_perfect_or_hopeless_route_can_be_drawn(n: int, accuracy: float) -> None:
    (axes,) = plot_comparison(comparison(outcome(COLD, accuracy=[accuracy], n=n))).axes
    assert axes.lines[-1].get_ydata()[0] == accuracy


@pytest.mark.parametrize("slowest", [17.0, 30.0, 100.0, 400.0, 5000.0])
def test_the_seconds_have_numbers_however_near_the_routes_are(slowest: float) -> None:
    figure = plot_comparison(comparison(outcome(COLD, wall_s=[16.0]), outcome(WARM, wall_s=[slowest])))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    ticks = [*axes.xaxis.get_major_ticks(), *axes.xaxis.get_minor_ticks()]
    named = {tick.get_loc(): tick.label1.get_text() for tick in ticks if low <= tick.get_loc() <= high}
    shown = {value: text for value, text in named.items() if text}
    assert 2 <= len(shown) <= 12
    assert all(float(text) == pytest.approx(value) for value, text in shown.items())


def test_more_routes_than_colours_can_be_drawn() -> None:
    (axes,) = plot_comparison(comparison(*(outcome(f"route {number}") for number in range(12)))).axes
    assert len(axes.containers) == 12
