"""Figures of numbers show the very numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from featcache.analysis.benchmark.outcomes import COLD, WARM
from featcache.analysis.curves import Curve, Point
from featcache.metrics.significance import wilson_interval
from featcache.reports.comparison_figure import plot_comparison
from featcache.reports.plots import plot_confusion, plot_curve, plot_history, plot_reliability
from featcache.reports.style import save
from featcache.training.loop import EpochMetrics
from outcomes import comparison, four_routes, outcome

HISTORY = [EpochMetrics(1, 0.1, 1.5, 0.5, 1.25, 0.6, 2.0), EpochMetrics(2, 0.1, 1.0, 0.7, 0.75, 0.9, 2.0),
           EpochMetrics(3, 0.1, 0.5, 0.8, 0.5, 0.9, 2.0)]  # fmt: skip
LABELS = Curve("labels", "ridge", (Point(0.1, 24, 4, (0.8, 0.9, 0.85), 0.5, (0.77, 0.91)),
                                   Point(1.0, 244, 4, (0.95,), 1.5, (0.89, 0.98))), 153)  # fmt: skip
VIEWS = Curve("views", "knn", (Point(1.0, 244, 0, (0.9,), 0.25, (0.84, 0.94)),
                               Point(1.0, 244, 8, (0.95,), 2.0, (0.89, 0.98))), 153)  # fmt: skip


def _colours(path: Path) -> int:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0))


@pytest.mark.parametrize(
    ("picture", "size"),
    [
        (partial(plot_comparison, four_routes()), (960, 576)),
        (partial(plot_history, HISTORY), (960, 384)),
        (partial(plot_curve, LABELS), (960, 384)),
        (partial(plot_confusion, np.eye(2, dtype=np.int64), ["ants", "bees"]), (528, 384)),
        (partial(plot_reliability, np.array([0.5, 0.9]), np.array([False, True])), (552, 600)),
    ],
    ids=["comparison", "history", "curve", "confusion", "reliability"],
)
def test_a_plot_is_a_coloured_picture(picture: Callable[[], Figure], size: tuple[int, int], tmp_path: Path) -> None:
    path = save(picture, tmp_path / "plot.png")
    assert _colours(path) > 10
    with Image.open(path) as image:
        assert image.size == size


def test_the_history_shows_both_curves_and_the_epoch_kept() -> None:
    left, right = plot_history(HISTORY).axes
    assert [list(line.get_ydata()) for line in left.lines] == [[1.5, 1.0, 0.5], [1.25, 0.75, 0.5]]
    assert [list(line.get_ydata()) for line in right.lines[:2]] == [[0.5, 0.7, 0.8], [0.6, 0.9, 0.9]]
    assert all(list(line.get_xdata()) == [1, 2, 3] for line in [*left.lines, *right.lines[:2]])
    assert [line.get_label() for line in left.lines] == ["train, augmented", "val"]
    assert right.lines[2].get_label() == "best: epoch 2"
    assert right.lines[2].get_xdata() == [2, 2]
    assert (left.get_ylabel(), right.get_ylabel()) == ("cross-entropy (nats)", "accuracy")


def test_a_curve_over_labels_shows_each_draw_the_median_and_the_interval() -> None:
    figure = plot_curve(LABELS)
    left, right = figure.axes
    dots, median = left.lines
    assert list(zip(dots.get_xdata(), dots.get_ydata(), strict=True)) == [(24, 0.8), (24, 0.9), (24, 0.85), (244, 0.95)]
    assert (list(median.get_xdata()), list(median.get_ydata())) == ([24, 244], [0.85, 0.95])
    (band,) = left.collections
    assert band.get_label() == "95 % interval (n = 153)"
    assert {(24, 0.77), (24, 0.91), (244, 0.89), (244, 0.98)} <= set(map(tuple, band.get_paths()[0].vertices))
    assert (list(right.lines[0].get_xdata()), list(right.lines[0].get_ydata())) == ([24, 244], [0.5, 1.5])
    assert right.get_ylim()[0] == 0
    assert [axes.get_xlabel() for axes in figure.axes] == ["training samples (log scale)"] * 2
    assert [axes.get_xscale() for axes in figure.axes] == ["log"] * 2
    assert [label.get_text() for label in left.get_xticklabels()] == ["24", "244"]
    assert (left.get_ylabel(), right.get_ylabel()) == ("val accuracy", "seconds to tune and fit")
    assert figure.get_suptitle() == "ridge head, 24 to 244 labels: accuracy 0.850 to 0.950"


def test_a_curve_over_views_has_whole_numbers_and_no_draws() -> None:
    figure = plot_curve(VIEWS)
    (median,) = figure.axes[0].lines
    assert (list(median.get_xdata()), list(median.get_ydata())) == ([0, 8], [0.9, 0.95])
    assert [axes.get_xlabel() for axes in figure.axes] == ["augmented views of each sample"] * 2
    assert [axes.get_xscale() for axes in figure.axes] == ["linear"] * 2
    assert all(float(tick).is_integer() for tick in figure.axes[0].get_xticks())
    assert figure.get_suptitle() == "knn head, 0 to 8 views: accuracy 0.900 to 0.950"


def _matrix(c: int) -> np.ndarray:
    return 3 * np.eye(c, dtype=np.int64)


def _numbers(axes: Axes) -> dict[tuple[float, float], str]:
    """Texts in a confusion matrix by row and column."""
    return {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}


def test_a_confusion_matrix_shows_counts_and_the_shares_of_a_row() -> None:
    figure = plot_confusion(np.array([[6, 2, 0], [0, 0, 0], [1, 3, 4]]), ["ants", "bees", "cats"])
    axes, bar = figure.axes
    np.testing.assert_array_equal(
        np.asarray(axes.images[0].get_array()), [[0.75, 0.25, 0], [0, 0, 0], [0.125, 0.375, 0.5]]
    )
    assert axes.images[0].get_clim() == (0, 1)
    assert _numbers(axes) == {(0, 0): "6", (0, 1): "2", (2, 0): "1", (2, 1): "3", (2, 2): "4"}
    white = [text.get_text() for text in axes.texts if text.get_color() == "white"]
    assert white == ["6"]  # on dark blue
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["ants", "bees", "cats"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert axes.get_title() == "10 of 16 right on val (62.5%)"
    assert bar.get_ylabel() == "fraction of the true class"
    assert bar.yaxis.get_major_formatter()(0.2) == "20%"


def test_the_shades_go_from_the_paper_to_blue() -> None:
    shades = plot_confusion(_matrix(2), ["ants", "bees"]).axes[0].images[0].get_cmap()
    np.testing.assert_allclose(shades([0.0, 1.0])[:, 3], [0, 1])  # nothing, be the paper light or dark; all of it


def test_of_nothing_no_share_is_right() -> None:
    (axes, _) = plot_confusion(np.zeros((2, 2), np.int64), ["ants", "bees"]).axes
    assert axes.get_title() == "0 of 0 right on val (0.0%)"


@pytest.mark.parametrize(("c", "counts"), [(20, 20), (21, 0)])
def test_counts_stand_where_there_is_room(c: int, counts: int) -> None:
    assert len(plot_confusion(_matrix(c), ["x"] * c).axes[0].texts) == counts


@pytest.mark.parametrize(("c", "names"), [(40, 40), (41, 0)])
def test_names_stand_where_there_is_room(c: int, names: int) -> None:
    axes = plot_confusion(_matrix(c), [f"{number}" for number in range(c)]).axes[0]
    assert len(axes.get_xticklabels()) == len(axes.get_yticklabels()) == names


@pytest.mark.parametrize(
    ("names", "turned"),
    [(["ants", "bees"], 0), (["ants", "bumblebees"], 90), (["a", "b", "c", "d"], 0), (["a", "b", "c", "d", "e"], 90)],
)
def test_long_or_many_names_are_turned(names: list[str], turned: float) -> None:
    labels = plot_confusion(_matrix(len(names)), names).axes[0].get_xticklabels()
    assert [label.get_rotation() for label in labels] == [turned] * len(names)


def test_reliability_is_worked_out_by_hand() -> None:
    confidence = np.array([0.51, 0.55, 0.59, 0.92, 0.98, 1.0, 0.79])
    right = np.array([True, False, False, True, True, True, False])
    top, bottom = plot_reliability(confidence, right, bins=5).axes
    point, _, (interval,) = top.containers[0].lines
    np.testing.assert_allclose(point.get_xdata(), [0.55, 0.79, 2.9 / 3])  # means of 0.4-0.6, 0.6-0.8, 0.8-1
    np.testing.assert_allclose(point.get_ydata(), [1 / 3, 0, 1])
    ends = [tuple(segment[:, 1]) for segment in interval.get_segments()]
    np.testing.assert_allclose(ends, [wilson_interval(1, 3), wilson_interval(0, 1), wilson_interval(3, 3)])
    bars = [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in bottom.patches]
    np.testing.assert_allclose(bars, [(0.5, 3), (0.7, 1), (0.9, 3)])
    assert top.get_title() == f"calibration error {(3 * (0.55 - 1 / 3) + 0.79 + 0.1) / 7:.3f} (n = 7)"
    assert list(top.lines[0].get_xdata()) == list(top.lines[0].get_ydata()) == [0, 1]
    assert (top.get_ylabel(), bottom.get_ylabel()) == ("accuracy", "samples")
    assert bottom.get_xlabel() == "probability of the predicted class"


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("n", [1, 7, 153])
def test_heads_that_are_always_or_never_right_can_be_drawn(n: int, right: bool) -> None:
    top, _ = plot_reliability(np.full(n, 1.0), np.full(n, right)).axes
    assert list(top.containers[0].lines[0].get_ydata()) == [float(right)]


def test_one_epoch_is_no_curve_but_bars_with_their_numbers() -> None:
    losses, accuracies = plot_history(HISTORY[:1]).axes
    assert [bar.get_width() for bar in losses.patches] == [1.5, 1.25]
    assert [bar.get_width() for bar in accuracies.patches] == [0.5, 0.6]
    assert [text.get_text() for text in [*losses.texts, *accuracies.texts]] == ["1.500", "1.250", "0.500", "0.600"]
    assert not losses.lines


def test_all_numbers_of_an_axis_stand_at_one_height() -> None:
    figure = plot_comparison(comparison(outcome(COLD, wall_s=[8.0]), outcome(WARM, wall_s=[60.0])))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    ticks = [*axes.xaxis.get_major_ticks(), *axes.xaxis.get_minor_ticks()]
    shown = [tick.label1.get_window_extent() for tick in ticks if tick.label1.get_text()]
    assert len(shown) >= 3
    assert np.ptp([box.y1 for box in shown]) < 0.5
