from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from featcache import plots
from featcache.comparison import COLD
from featcache.plots import plot_comparison, plot_history
from featcache.training import Epoch
from outcomes import comparison, four_routes, outcome

HISTORY = [Epoch(1, 0.1, 1.5, 0.5, 1.25, 0.6, 2.0), Epoch(2, 0.1, 1.0, 0.7, 0.75, 0.9, 2.0),
           Epoch(3, 0.1, 0.5, 0.8, 0.5, 0.9, 2.0)]  # fmt: skip


def _colours(path: Path) -> int:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0))


@pytest.mark.parametrize(
    ("draw", "size"),
    [
        (lambda path: plot_comparison(four_routes(), path), (840, 480)),
        (lambda path: plot_history(HISTORY, path), (960, 384)),
    ],
    ids=["comparison", "history"],
)
def test_a_plot_is_a_coloured_picture(draw: Callable[[Path], Path], size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    assert draw(path) == path
    assert _colours(path) > 10
    with Image.open(path) as image:
        assert image.size == size


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures instead of their files."""
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    return figures


def test_a_route_is_a_point_with_its_interval(drawn: list[Figure]) -> None:
    result = four_routes()
    plot_comparison(result, "unused")
    (axes,) = drawn[0].axes
    assert axes.get_xscale() == "log"
    assert axes.get_title() == "resnet18, 10 live epochs"
    for bars, found in zip(axes.containers, result.outcomes, strict=True):
        point, _, (interval,) = bars.lines
        assert (point.get_xdata()[0], point.get_ydata()[0]) == (found.median_s, found.median_accuracy)
        assert tuple(interval.get_segments()[0][:, 1]) == pytest.approx(found.interval)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[0] == "cached head, cold: 0.940 in 60.0 s"


@pytest.mark.parametrize("n", [3, 10, 27, 153])
@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_a_perfect_or_hopeless_route_can_be_drawn(n: int, accuracy: float, drawn: list[Figure]) -> None:
    plot_comparison(comparison(outcome(COLD, accuracy=[accuracy], n=n)), "unused")
    assert len(drawn) == 1


def test_more_routes_than_colours_can_be_drawn(drawn: list[Figure]) -> None:
    plot_comparison(comparison(*(outcome(f"route {number}") for number in range(7))), "unused")
    assert len(drawn[0].axes[0].containers) == 7


def test_the_history_shows_both_curves_and_the_epoch_kept(drawn: list[Figure]) -> None:
    plot_history(HISTORY, "unused")
    left, right = drawn[0].axes
    assert [list(line.get_ydata()) for line in left.lines] == [[1.5, 1.0, 0.5], [1.25, 0.75, 0.5]]
    assert [list(line.get_ydata()) for line in right.lines[:2]] == [[0.5, 0.7, 0.8], [0.6, 0.9, 0.9]]
    assert all(list(line.get_xdata()) == [1, 2, 3] for line in [*left.lines, *right.lines[:2]])
    assert right.lines[2].get_label() == "kept: epoch 2"
    assert (left.get_ylabel(), right.get_ylabel()) == ("cross-entropy (nats)", "accuracy")
