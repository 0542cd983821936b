"""Grids of images, and maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from featcache.reports.image_grids import PredictionImage, Thumbnail, plot_map, plot_predictions, plot_views
from featcache.reports.style import COLOURS, GREY, RIGHT, WRONG


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_each_image_is_a_row_of_its_views() -> None:
    views = [noise(3, 6, 6), noise(2, 5, 5)]
    figure = plot_views(views, ["ants", "a very long name of a class"], "crop")
    grid = np.reshape(np.array(figure.axes, object), (2, 3))
    for row, of in enumerate(views):
        for column, pixels in enumerate(of):
            (image,) = grid[row, column].images
            assert_array_equal(image.get_array(), pixels)
    assert not grid[1, 2].images  # that one lacks a view
    assert [axes.get_title() for axes in grid[0]] == ["view 0: clean", "view 1", "view 2"]
    assert [axes.get_title() for axes in grid[1]] == [""] * 3
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["ants", "a ver…e of a class"]
    assert figure.get_suptitle() == "2 augmented views (crop) of each image"
    assert all(len(axes.get_xticks()) == len(axes.get_yticks()) == 0 for axes in figure.axes)


def shown(label: str, predicted: str, probability: float | None = None) -> PredictionImage:
    return PredictionImage(noise(4, 4), label, predicted, probability)


def frame(axes: Axes) -> set[tuple[str, bool]]:
    return {(to_hex(edge.get_edgecolor()), edge.get_visible()) for edge in axes.spines.values()}


def test_right_and_wrong_differ_in_frame_text_and_mark() -> None:
    figure = plot_predictions([shown("ants", "bees", 0.987), shown("bees", "bees", 0.5)], "one of two")
    wrong, right = figure.axes
    assert figure.get_suptitle() == "one of two"
    assert_array_equal(wrong.images[0].get_array(), noise(4, 4))
    assert (wrong.get_title(), wrong.title.get_color(), wrong.get_xlabel()) == ("✗ bees 99%", WRONG, "label: ants")
    assert (right.get_title(), right.title.get_color(), right.get_xlabel()) == ("✓ bees 50%", RIGHT, "")
    assert (frame(wrong), frame(right)) == ({(WRONG, True)}, {(RIGHT, True)})
    assert WRONG != RIGHT


def test_without_a_probability_none_is_written() -> None:
    (axes,) = plot_predictions([shown("ants", "ants")], "").axes
    assert axes.get_title() == "✓ ants"


@pytest.mark.parametrize(("n", "cells", "columns"), [(1, 1, 1), (5, 5, 5), (6, 6, 6), (7, 12, 6), (13, 18, 6)])
def test_cells_without_a_picture_are_empty(n: int, cells: int, columns: int) -> None:
    axes = plot_predictions([shown("ants", "ants")] * n, "").axes
    assert len(axes) == cells
    assert axes[0].get_gridspec().ncols == columns
    assert [len(cell.images) for cell in axes] == [1] * n + [0] * (cells - n)
    assert not any(cell.axison for cell in axes[n:])


def points_of(figure: Figure) -> dict[str, tuple[Any, str]]:
    """Label, points and colour of each group on a map."""
    return {
        str(group.get_label()): (np.asarray(group.get_offsets()), to_hex(group.get_facecolor()[0]))
        for group in figure.axes[0].collections
    }


def test_each_class_has_its_colour_and_its_points() -> None:
    points = np.arange(12.0).reshape(6, 2)
    labels = ["bees", "ants", "bees", "bees", "", "ants"]
    figure = plot_map(points, labels, "PCA", "features of 6 images")
    groups = points_of(figure)
    assert {name: colour for name, (_, colour) in groups.items()} == {
        " (1)": COLOURS[0], "ants (2)": COLOURS[1], "bees (3)": COLOURS[2]}  # fmt: skip
    assert_array_equal(groups["bees (3)"][0], points[[0, 2, 3]])
    assert_array_equal(groups["ants (2)"][0], points[[1, 5]])
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("PCA, first axis", "PCA, second axis")
    assert (axes.get_title(), len(axes.get_xticks())) == ("features of 6 images", 0)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(groups)


def test_the_rarest_classes_share_grey() -> None:
    labels = [name for number, name in enumerate("abcdefghijkl") for _ in range(1 if name in "be" else 2)]
    groups = points_of(plot_map(np.zeros((len(labels), 2)), labels, "t-SNE", ""))
    assert len(groups) == 11
    assert groups["2 other classes (2)"][1] == GREY
    assert {name[0] for name in groups} == set("acdfghijkl2")
    assert {colour for _, colour in groups.values()} == {GREY, *COLOURS}


def boxes(figure: Figure) -> list[AnnotationBbox]:
    return [artist for artist in figure.axes[0].artists if isinstance(artist, AnnotationBbox)]


def test_small_pictures_stand_outside_of_their_points() -> None:
    points = np.array([[-1.0, 0], [1, 0], [0, 0], [0, 3]])
    thumbnails = [Thumbnail(0, noise(4, 4)), Thumbnail(1, noise(5, 5))]
    drawn = boxes(plot_map(points, ["ants", "bees", "ants", "bees"], "PCA", "", thumbnails))
    assert [tuple(box.xy) for box in drawn] == [(-1, 0), (1, 0)]
    np.testing.assert_allclose([box.xyann for box in drawn], [(-34, 0), (34, 0)])
    for box, thumbnail in zip(drawn, thumbnails, strict=True):
        assert_array_equal(box.offsetbox.get_data(), thumbnail.pixels)
        assert box.offsetbox.get_zoom() * thumbnail.pixels.shape[0] == 40
    assert [to_hex(box.patch.get_edgecolor()) for box in drawn] == list(COLOURS[:2])


def test_a_single_small_picture_can_be_drawn() -> None:
    (box,) = boxes(plot_map(np.zeros((3, 2)), ["ants"] * 3, "PCA", "", [Thumbnail(2, noise(4, 4))]))
    assert tuple(box.xyann) == (0, 0)


@pytest.mark.parametrize(("images", "views", "blocks"), [(1, 9, 1), (4, 5, 1), (24, 5, 2), (50, 2, 5), (50, 9, 2)])
def test_many_images_stand_in_blocks_side_by_side(images: int, views: int, blocks: int) -> None:
    figure = plot_views([noise(views, 4, 4)] * images, [f"class {number}" for number in range(images)], "crop")
    drawn = [axes for axes in figure.axes if axes.images]
    assert len(drawn) == images * views
    assert len(figure.subfigs) == blocks
    assert [axes.get_ylabel() for axes in drawn[::views]] == [f"class {number}" for number in range(images)]
    width, height = figure.get_size_inches()
    assert max(width, height) < 25
    assert height < 3 * width
