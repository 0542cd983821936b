"""Figures of pictures: what the cache has seen of an image, what a model says of it, and where it lies on a map."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from numpy.typing import NDArray

from featcache.reports.style import COLOURS, GREY, RIGHT, WRONG, shorten

_CELL, _TITLE = 1.35, 4.5  # inches: a picture, and at least what a title needs
_SMALL_CELL, _LONGEST = (
    0.95,
    16.0,
)  # inches: a picture among many, and the side of a figure that is still looked at whole
_COLUMNS = 6


class PredictionImage(NamedTuple):
    """A picture and what a model says of it. pixels : (s, s, 3), uint8. label, predicted : "" for none.

    probability : None where there is none.
    """

    pixels: NDArray[np.uint8]
    label: str
    predicted: str
    probability: float | None


class GridImage(NamedTuple):
    """A picture that a finding names. pixels : (s, s, 3), uint8. above, below : what is said of it."""

    pixels: NDArray[np.uint8]
    above: str
    below: str


class Thumbnail(NamedTuple):
    """A small picture on a map, at the point of row `place`. pixels : (s, s, 3), uint8."""

    place: int
    pixels: NDArray[np.uint8]


def plot_views(views: Sequence[NDArray[np.uint8]], labels: Sequence[str], augment: str) -> Figure:
    """A row an image: the clean view and the augmented ones. Many rows stand in several blocks side by side.

    Parameters
    ----------
    views : of each image (v, s, s, 3), uint8. labels : their classes. augment : name of the recipe.
    """
    columns = max(len(row) for row in views)
    blocks = min(range(1, len(views) + 1), key=lambda count: max(count * (columns + 0.4), -(-len(views) // count)))
    rows = -(-len(views) // blocks)
    blocks = -(-len(views) // rows)
    longer = max(blocks * (columns + 0.4), rows) * _CELL
    cell = max(_SMALL_CELL, _CELL * min(1.0, _LONGEST / longer))
    width = max(_TITLE, blocks * (columns * cell + 0.5))
    figure = Figure(figsize=(width, rows * cell + 0.6), layout="constrained")
    parts = np.atleast_1d(np.array(figure.subfigures(1, blocks, squeeze=False), object)[0])
    for block, part in enumerate(parts):
        grid = part.subplots(rows, columns, squeeze=False)
        for row in range(rows):
            place = block * rows + row
            for column in range(columns):
                axes = grid[row, column]
                _blank(axes)
                if place < len(views) and column < len(views[place]):
                    axes.imshow(views[place][column], interpolation="antialiased")
                if row == 0:
                    axes.set_title("view 0: clean" if column == 0 else f"view {column}", fontsize="small")
            if place < len(views):
                grid[row, 0].set_ylabel(shorten(labels[place] or "none", 18), fontsize="small")
    figure.suptitle(f"{columns - 1} augmented views ({augment}) of each image", fontsize="medium")
    return figure


def plot_predictions(shown: Sequence[PredictionImage], title: str) -> Figure:
    """Pictures with what they are taken for; frame and text tell right from wrong, and so does a mark."""
    columns = min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    width = max(_TITLE, columns * (_CELL + 0.25))
    figure = Figure(figsize=(width, rows * (_CELL + 0.5) + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(shown) :]:
        axes.set_axis_off()
    for axes, one in zip(grid.flat, shown, strict=False):
        right = one.label == one.predicted
        colour = RIGHT if right else WRONG
        _blank(axes)
        axes.imshow(one.pixels, interpolation="antialiased")
        for edge in axes.spines.values():
            edge.set(visible=True, color=colour, linewidth=2.5)
        share = "" if one.probability is None else f" {one.probability:.0%}"
        axes.set_title(
            f"{'✓' if right else '✗'} {shorten(one.predicted or 'none', 14)}{share}", fontsize="small", color=colour
        )
        if not right:
            axes.set_xlabel(f"is {shorten(one.label or 'none', 16)}", fontsize="small")
    figure.suptitle(title, fontsize="medium")
    return figure


def plot_findings(sections: Sequence[tuple[str, Sequence[GridImage]]], title: str) -> Figure:
    """Pictures under headings, a heading for each finding; six a line."""
    lines = [
        (heading if start == 0 else "", shown[start : start + _COLUMNS])
        for heading, shown in sections
        for start in range(0, len(shown), _COLUMNS)
    ]
    figure = Figure(figsize=(_COLUMNS * (_CELL + 0.35), len(lines) * (_CELL + 0.75) + 0.5), layout="constrained")
    parts = np.atleast_1d(np.array(figure.subfigures(len(lines), 1, squeeze=False), object)[:, 0])
    for part, (heading, shown) in zip(parts, lines, strict=True):
        if heading:
            part.suptitle(heading, fontsize="small", fontweight="bold", x=0.01, ha="left")
        for axes, one in zip_longest(part.subplots(1, _COLUMNS), shown):
            _blank(axes)
            if one is not None:
                axes.imshow(one.pixels, interpolation="antialiased")
                axes.set_title(shorten(one.above, 22), fontsize="x-small")
                axes.set_xlabel(shorten(one.below, 26), fontsize="x-small")
    figure.suptitle(title, fontsize="medium")
    return figure


def plot_map(
    points: NDArray[np.floating], labels: Sequence[str], method: str, title: str, thumbnails: Sequence[Thumbnail] = ()
) -> Figure:
    """Images as points, coloured by class, with small pictures of some.

    Parameters
    ----------
    points : shape (n, 2). labels : n class names. method : how they were made, for the axes.
    """
    names, counts = np.unique(np.array(labels, object).astype(str), return_counts=True)
    named = names[np.argsort(-counts, kind="stable")][: len(COLOURS)]
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    axes = figure.subplots()
    told = np.array(labels, object).astype(str)
    size = float(np.clip(12000 / len(points), 8, 40))
    for name, colour in [(None, GREY), *zip(sorted(named), COLOURS, strict=False)]:
        mine = told == name if name is not None else ~np.isin(told, named)
        if mine.any():
            label = shorten(name, 24) if name is not None else f"{len(names) - len(named)} other classes"
            x, y = points[mine].T
            axes.scatter(x, y, s=size, color=colour, label=f"{label} ({mine.sum()})", linewidths=0)
    colours = dict(zip(sorted(named), COLOURS, strict=False))
    for one, corner in zip(thumbnails, _corners(points[[one.place for one in thumbnails]]), strict=True):
        image = OffsetImage(one.pixels, zoom=40 / one.pixels.shape[0])
        frame = {"edgecolor": colours.get(told[one.place], GREY), "linewidth": 2, "boxstyle": "square,pad=0"}
        arrow = {"arrowstyle": "-", "color": GREY, "shrinkB": 0}
        place = points[one.place]
        axes.add_artist(
            AnnotationBbox(image, place, corner, boxcoords="offset points", bboxprops=frame, arrowprops=arrow)
        )
    axes.set(xlabel=f"{method}, first axis", ylabel=f"{method}, second axis", xticks=[], yticks=[])
    axes.set_title(title, fontsize="medium")
    axes.margins(0.12)
    figure.legend(loc="outside right upper", fontsize="small", markerscale=float(np.sqrt(40 / size)))
    return figure


def _corners(points: NDArray[np.floating]) -> list[tuple[float, float]]:
    """Where each small picture stands, in points from its place: outward from the middle of them all."""
    centre = points.mean(axis=0) if len(points) else points
    spread = np.ptp(points, axis=0) if len(points) else np.ones(2)
    found = []
    for offset in (points - centre) / np.where(spread > 0, spread, 1):
        direction = offset / max(float(np.hypot(*offset)), 1e-9)
        found.append((float(34 * direction[0]), float(34 * direction[1])))
    return found


def _blank(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    for edge in axes.spines.values():
        edge.set_visible(False)
