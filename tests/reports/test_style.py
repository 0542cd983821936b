"""Light, dark, and what becomes of a picture as a file."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from featcache.errors import MissingFontWarning, OutputError, PictureError
from featcache.reports.plots import plot_confusion
from featcache.reports.style import BLUE, check_path, save, shorten, svg
from limits import file_size_limit

SVG = "{http://www.w3.org/2000/svg}"
ODD = ["蚂蚁", "$x$", "<b>", "a & b", "two\nlines", 'say "ants"', "é" * 300]


def small(text: str = "ants") -> Figure:
    """A line in blue, one in ink, a grid, a legend."""
    figure = Figure(figsize=(2, 1.5))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=BLUE, label=text)
    axes.plot([0, 1], [1, 0], color=axes.yaxis.label.get_color())
    axes.grid()
    axes.set_title(text)
    axes.legend()
    return figure


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def texts(content: bytes) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(content).iter(f"{SVG}text")]


def rules(content: bytes) -> dict[str, str]:
    """What an SVG says of dark surroundings: {"fill: #rrggbb": "fill: #rrggbb", ...}."""
    (style,) = re.findall(r"<style>@media \(prefers-color-scheme: dark\)\{(.*)\}</style>", content.decode())
    matches = re.findall(r'\[style\*="(fill|stroke): (#[0-9a-f]{6})"\]\{(\w+):(#[0-9a-f]{6})!important\}', style)
    assert "".join(f'[style*="{a}: {b}"]{{{c}:{d}!important}}' for a, b, c, d in matches) == style
    return {f"{a}: {b}": f"{c}: {d}" for a, b, c, d in matches}


@pytest.mark.parametrize(("dark", "paper"), [(False, (255, 255, 254)), (True, (13, 17, 22))])
def test_paper_is_light_or_dark_and_lines_stand_out(dark: bool, paper: tuple[int, ...], tmp_path: Path) -> None:
    drawn = pixels(save(small, tmp_path / "a.png", dark))
    assert drawn.shape == (180, 240, 3)
    assert [tuple(drawn[corner]) for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1))] == [paper] * 4
    assert (drawn == paper).all(axis=2).mean() > 0.7
    assert drawn.mean(axis=2).max() > 225  # the letters in dark, the paper in light
    assert drawn.mean(axis=2).min() < 60


def test_an_svg_follows_the_page_into_the_very_colours_of_the_dark_one(tmp_path: Path) -> None:
    light = save(small, tmp_path / "light.svg").read_bytes()
    dark = save(small, tmp_path / "dark.svg", dark=True).read_text()
    assert "prefers-color-scheme" not in dark
    turned = re.sub(r"<style>@media.*?</style>", "", light.decode())
    for before, after in rules(light).items():
        turned = turned.replace(before, after)

    def nameless(text: str) -> str:
        """Without the names of markers and clips, which come from their colours."""
        return re.sub(r"\b[mp][0-9a-f]{10}\b", "", text)

    assert nameless(turned) == nameless(dark)


def test_a_picture_of_a_page_has_no_paper(tmp_path: Path) -> None:
    (paper,) = (
        element for element in ElementTree.fromstring(svg(small)).iter(f"{SVG}g") if element.get("id") == "patch_1"
    )
    assert "fill: none" in (paper[0].get("style") or "")
    (paper,) = (
        element
        for element in ElementTree.fromstring(save(small, tmp_path / "a.svg").read_bytes()).iter(f"{SVG}g")
        if element.get("id") == "patch_1"
    )
    assert paper[0].get("style") == "fill: #fffffe"
    assert rules(svg(small)) == rules((tmp_path / "a.svg").read_bytes())


@pytest.mark.parametrize("name", ODD, ids=range(len(ODD)))
def test_text_stays_what_it_is(name: str, tmp_path: Path) -> None:
    drawn = texts(svg(partial(plot_confusion, np.eye(2, dtype=np.int64), [name, "bees"])))
    shown = {"two\nlines": "two\\nlines", "é" * 300: "ééééé…" + "é" * 12}.get(name, name)
    assert drawn.count(shown) == 2
    assert drawn.count("bees") == 2
    assert save(partial(small, name.split("\n")[0]), tmp_path / "a.png").stat().st_size > 0
    assert texts(save(partial(small, name), tmp_path / "a.svg").read_bytes()).count(name.split("\n")[0]) == 2


def test_an_svg_needs_nothing_from_outside(tmp_path: Path) -> None:
    root = ElementTree.fromstring(save(small, tmp_path / "a.svg").read_bytes())
    targets = [
        value for element in root.iter() for name, value in element.attrib.items() if name.endswith(("href", "src"))
    ]
    assert targets
    assert all(target.startswith("#") for target in targets)
    styles = [
        value for element in root.iter() for value in [*element.attrib.values(), element.text or ""] if "url(" in value
    ]
    assert all(re.findall(r"url\((.)", style) == ["#"] for style in styles)
    assert not list(root.iter(f"{SVG}script"))


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf", ".SVG"])
def test_the_same_picture_is_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    first, second = (save(small, tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
    assert first == second
    assert first.startswith({".png": b"\x89PNG", ".pdf": b"%PDF-"}.get(suffix, b"<?xml"))


@pytest.mark.parametrize("name", ["a.jpg", "a", ".png"])
def test_another_ending_is_refused_before_the_work(name: str, tmp_path: Path) -> None:
    for refuses in (check_path, partial(save, _never)):
        with pytest.raises(PictureError) as caught:
            refuses(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name} must end in .png, .svg or .pdf"


def test_a_folder_that_is_not_there_is_refused_before_the_work(tmp_path: Path) -> None:
    for refuses in (check_path, partial(save, _never)):
        with pytest.raises(PictureError) as caught:
            refuses(tmp_path / "gone" / "a.png")
        assert str(caught.value) == f"{tmp_path / 'gone'} is not a folder: create it first"


def test_a_folder_in_its_place_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    for refuses in (check_path, partial(save, _never)):
        with pytest.raises(PictureError) as caught:
            refuses(tmp_path / "a.png")
        assert str(caught.value) == f"{tmp_path / 'a.png'} is a folder: give a file name"


def test_a_disk_without_room_leaves_the_old_picture_and_no_draft(tmp_path: Path) -> None:
    path = save(small, tmp_path / "a.svg")
    before = path.read_bytes()
    with file_size_limit(len(before) // 2), pytest.raises(OutputError, match=r"a\.svg cannot be written"):
        save(partial(small, "bees"), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.svg"]


def test_a_path_that_fits_is_given_back(tmp_path: Path) -> None:
    assert check_path(str(tmp_path / "A.PNG")) == tmp_path / "A.PNG"
    assert list(tmp_path.iterdir()) == []


def _never() -> Figure:
    raise AssertionError("this must not be drawn")


def test_a_picture_is_replaced_whole(tmp_path: Path) -> None:
    path = save(small, tmp_path / "a.svg")
    before = path.read_bytes()
    with pytest.raises(AssertionError, match="must not be drawn"):
        save(_never, path)
    assert path.read_bytes() == before
    save(partial(small, "bees"), path)
    assert texts(path.read_bytes()).count("bees") == 2
    assert [file.name for file in tmp_path.iterdir()] == ["a.svg"]


def test_drawing_changes_no_settings_of_the_caller(tmp_path: Path) -> None:
    from matplotlib import rcParams

    before = dict(rcParams)
    save(small, tmp_path / "a.png", dark=True)
    assert dict(rcParams) == before


@pytest.mark.parametrize(
    ("name", "most", "shown"),
    [
        ("ants", 4, "ants"),
        ("antlions", 7, "an…ions"),
        ("abcdefghij", 4, "a…ij"),
        ("train/ants/0001.jpg", 12, "tra…0001.jpg"),
        ("a\nb", 10, "a\\nb"),
        ("a\udcff", 10, "a\\udcff"),
    ],
)
def test_a_long_name_loses_its_middle(name: str, most: int, shown: str) -> None:
    assert shorten(name, most) == shown
    assert len(shown) <= most


def test_a_missing_script_is_one_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    save(partial(small, "\U00012000"), tmp_path / "a.png")
    assert [warning.category for warning in recwarn.list] == [MissingFontWarning]


@pytest.mark.parametrize("draw", [partial(save, path="a.png"), svg], ids=["save", "svg"])
def test_a_figure_is_drawn_once(
    draw: Callable[[Callable[[], Figure]], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    drawn: list[Figure] = []

    def picture() -> Figure:
        drawn.append(small())
        return drawn[-1]

    draw(picture)
    assert len(drawn) == 1
