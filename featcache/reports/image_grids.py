"""Figures of images: augmented views, predictions, issues, similar images, and images on a map."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from numpy.typing import NDArray

from featcache._utils.formatting import plural
from featcache.reports.style import BLUE, COLOURS, GREY, RIGHT, VERMILION, WRONG, shorten

_CELL, _TITLE = 1.35, 4.5  # inches: an image, and the width of a title
_SMALL_CELL, _MAX_SIDE = 0.95, 16.0  # inches: an image among many, and the side of a figure
_COLUMNS = 6
_HEAT_COLUMNS = 3  # pairs of images
_STRONG = 0.97  # the share of places below which the colours end: a few, such as maxima, can be extreme
_FOR_AND_AGAINST = LinearSegmentedColormap.from_list(
    "for and against", [f"{BLUE}e0", f"{BLUE}00", f"{VERMILION}00", f"{VERMILION}e0"]
)  # transparent in the middle


class PredictionImage(NamedTuple):
    """An image with its prediction.

    pixels : (s, s, 3), uint8. label, predicted : "" for none. probability : None without probabilities.
    """

    pixels: NDArray[np.uint8]
    label: str
    predicted: str
    probability: float | None


class HeatImage(NamedTuple):
    """An image with the contributions of its places. pixels : (s, s, 3), uint8. heat : (s, s). above, below : captions
    of the image and of the heat."""

    pixels: NDArray[np.uint8]
    heat: NDArray[np.float64]
    above: str
    below: str


class GridImage(NamedTuple):
    """An image among others, such as those of an issue. pixels : (s, s, 3), uint8. above, below : its captions."""

    pixels: NDArray[np.uint8]
    above: str
    below: str


class Thumbnail(NamedTuple):
    """A small image on a map, at the point of a row. pixels : (s, s, 3), uint8."""

    row: int
    pixels: NDArray[np.uint8]


def plot_views(views: Sequence[NDArray[np.uint8]], labels: Sequence[str], augment: str) -> Figure:
    """A row per image: the clean view and the augmented views. Many rows are arranged in blocks side by side.

    views : (v, s, s, 3), uint8, of each image. augment : name of the augmentation.
    """
    columns = max(len(row) for row in views)
    blocks = min(range(1, len(views) + 1), key=lambda count: max(count * (columns + 0.4), -(-len(views) // count)))
    rows = -(-len(views) // blocks)
    blocks = -(-len(views) // rows)
    longer = max(blocks * (columns + 0.4), rows) * _CELL
    cell = max(_SMALL_CELL, _CELL * min(1.0, _MAX_SIDE / longer))
    width = max(_TITLE, blocks * (columns * cell + 0.5))
    figure = Figure(figsize=(width, rows * cell + 0.6), layout="constrained")
    parts = np.atleast_1d(np.array(figure.subfigures(1, blocks, squeeze=False), object)[0])
    for block, part in enumerate(parts):
        grid = part.subplots(rows, columns, squeeze=False)
        for row in range(rows):
            index = block * rows + row
            for column in range(columns):
                axes = grid[row, column]
                _hide_axes(axes)
                if index < len(views) and column < len(views[index]):
                    axes.imshow(views[index][column], interpolation="antialiased")
                if row == 0:
                    axes.set_title("view 0: clean" if column == 0 else f"view {column}", fontsize="small")
            if index < len(views):
                grid[row, 0].set_ylabel(shorten(labels[index] or "none", 18), fontsize="small")
    views_title = f"{plural(columns - 1, 'augmented view')} ({augment}) of each image"
    figure.suptitle(views_title if columns > 1 else "clean views; no augmented views are stored", fontsize="medium")
    return figure


def plot_predictions(shown: Sequence[PredictionImage], title: str) -> Figure:
    """Images with their predictions. Frame, text and a mark show which ones are right."""
    columns = min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    width = max(_TITLE, columns * (_CELL + 0.25))
    figure = Figure(figsize=(width, rows * (_CELL + 0.5) + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(shown) :]:
        axes.set_axis_off()
    for axes, image in zip(grid.flat, shown, strict=False):
        right = image.label == image.predicted
        colour = RIGHT if right else WRONG
        _hide_axes(axes)
        axes.imshow(image.pixels, interpolation="antialiased")
        for edge in axes.spines.values():
            edge.set(visible=True, color=colour, linewidth=2.5)
        probability = "" if image.probability is None else f" {image.probability:.0%}"
        text = f"{'✓' if right else '✗'} {shorten(image.predicted or 'none', 14)}{probability}"
        axes.set_title(text, fontsize="small", color=colour)
        if not right:
            axes.set_xlabel(f"label: {shorten(image.label or 'none', 16)}", fontsize="small")
    figure.suptitle(title, fontsize="medium")
    return figure


def plot_heat(shown: Sequence[HeatImage], title: str) -> Figure:
    """Images, and beside each one the places that speak for its class (orange) or against it (blue)."""
    columns = min(_HEAT_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(
        figsize=(max(_TITLE, columns * 2 * (_CELL + 0.35)), rows * (_CELL + 0.75) + 0.4), layout="constrained"
    )
    grid = figure.subplots(rows, 2 * columns, squeeze=False)
    for axes in grid.flat[2 * len(shown) :]:
        axes.set_axis_off()
    for number, image in enumerate(shown):
        row, column = divmod(number, columns)
        plain, heat = grid[row, 2 * column : 2 * column + 2]
        for axes in (plain, heat):
            _hide_axes(axes)
            axes.imshow(image.pixels, interpolation="antialiased")
        strong = float(np.quantile(np.abs(image.heat), _STRONG)) or 1.0
        heat.imshow(image.heat / strong, cmap=_FOR_AND_AGAINST, vmin=-1, vmax=1)
        plain.set_title(shorten(image.above, 22), fontsize="small")
        heat.set_title(shorten(image.below, 22), fontsize="small")
    figure.suptitle(title, fontsize="medium")
    return figure


def plot_issues(sections: Sequence[tuple[str, Sequence[GridImage]]], title: str) -> Figure:
    """Images under a heading for each issue, six per line."""
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
        for axes, image in zip_longest(part.subplots(1, _COLUMNS), shown):
            _hide_axes(axes)
            if image is not None:
                axes.imshow(image.pixels, interpolation="antialiased")
                axes.set_title(shorten(image.above, 22), fontsize="x-small")
                axes.set_xlabel(shorten(image.below, 26), fontsize="x-small")
    figure.suptitle(title, fontsize="medium")
    return figure


def plot_rows(rows: Sequence[Sequence[GridImage | None]], title: str) -> Figure:
    """Rows of images; None leaves a gap. The first image of a row has a frame."""
    columns = max(map(len, rows))
    cell = max(_SMALL_CELL, min(_CELL, _MAX_SIDE / columns))
    figure = Figure(figsize=(columns * (cell + 0.3), len(rows) * (cell + 0.55) + 0.5), layout="constrained")
    for row, line in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
        for column, (axes, image) in enumerate(zip_longest(row, line)):
            _hide_axes(axes)
            if image is None:
                continue
            axes.imshow(image.pixels, interpolation="antialiased")
            axes.set_title(shorten(image.above, 20), fontsize="x-small")
            axes.set_xlabel(shorten(image.below, 26), fontsize="x-small")
            for edge in axes.spines.values():
                edge.set(visible=column == 0, color=BLUE, linewidth=2.5)
    figure.suptitle(title, fontsize="medium")
    return figure


def plot_map(
    points: NDArray[np.floating], labels: Sequence[str], method: str, title: str, thumbnails: Sequence[Thumbnail] = ()
) -> Figure:
    """Images as points, coloured by class, some with a small image.

    points : (n, 2). labels : n class names. method : the projection, for the axis labels.
    """
    names, counts = np.unique(np.array(labels, object).astype(str), return_counts=True)
    coloured = names[np.argsort(-counts, kind="stable")][: len(COLOURS)]
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    axes = figure.subplots()
    classes = np.array(labels, object).astype(str)
    size = float(np.clip(12000 / len(points), 8, 40))
    for name, colour in [(None, GREY), *zip(sorted(coloured), COLOURS, strict=False)]:
        members = classes == name if name is not None else ~np.isin(classes, coloured)
        if members.any():
            label = (
                shorten(name, 24)
                if name is not None
                else plural(len(names) - len(coloured), "other class", "other classes")
            )
            x, y = points[members].T
            axes.scatter(x, y, s=size, color=colour, label=f"{label} ({members.sum()})", linewidths=0)
    colours = dict(zip(sorted(coloured), COLOURS, strict=False))
    offsets = _offsets(points[[thumbnail.row for thumbnail in thumbnails]])
    for thumbnail, offset in zip(thumbnails, offsets, strict=True):
        image = OffsetImage(thumbnail.pixels, zoom=40 / thumbnail.pixels.shape[0])
        frame = {"edgecolor": colours.get(classes[thumbnail.row], GREY), "linewidth": 2, "boxstyle": "square,pad=0"}
        arrow = {"arrowstyle": "-", "color": GREY, "shrinkB": 0}
        point = points[thumbnail.row]
        axes.add_artist(
            AnnotationBbox(image, point, offset, boxcoords="offset points", bboxprops=frame, arrowprops=arrow)
        )
    axes.set(xlabel=f"{method}, first axis", ylabel=f"{method}, second axis", xticks=[], yticks=[])
    axes.set_title(title, fontsize="medium")
    axes.margins(0.12)
    figure.legend(loc="outside right upper", fontsize="small", markerscale=float(np.sqrt(40 / size)))
    return figure


def _offsets(points: NDArray[np.floating]) -> list[tuple[float, float]]:
    """The position of each small image in points from its point: away from the centre of all."""
    centre = points.mean(axis=0) if len(points) else points
    spread = np.ptp(points, axis=0) if len(points) else np.ones(2)
    offsets = []
    for offset in (points - centre) / np.where(spread > 0, spread, 1):
        direction = offset / max(float(np.hypot(*offset)), 1e-9)
        offsets.append((float(34 * direction[0]), float(34 * direction[1])))
    return offsets


def _hide_axes(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    for edge in axes.spines.values():
        edge.set_visible(False)
