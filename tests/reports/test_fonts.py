"""Class names in any script are drawn with installed fonts; where none has the letters, it is said what to install."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image

from commands import featcache_cli
from featcache.errors import MissingFontWarning
from featcache.reports.fonts import find_fonts
from featcache.reports.plots import plot_confusion
from featcache.reports.style import save, svg

NAMES = {"Chinese": "蚂蚁", "Japanese": "みつ", "Korean": "꿀벌", "Arabic": "نح", "Thai": "ผง", "Russian": "ав"}


@pytest.fixture
def only_matplotlibs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """No font is installed; those that a test adds are forgotten after it."""
    manager = font_manager.fontManager
    bundled = [font for font in manager.ttflist if "mpl-data" in font.fname]
    monkeypatch.setattr(manager, "ttflist", bundled)
    monkeypatch.setattr(font_manager, "findSystemFonts", list)


def word(text: str) -> Figure:
    figure = Figure(figsize=(1, 1))
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=24)
    return figure


def pixels(text: str, folder: Path) -> np.ndarray:
    with Image.open(save(partial(word, text), folder / "word.png")) as image:
        return np.asarray(image.convert("L")).astype(int)


def font_of(letters: str, path: Path) -> Path:
    """A font whose letters are bars, each higher than the one before it."""
    glyphs = {".notdef": TTGlyphPen(None).glyph()}
    for index, letter in enumerate(letters):
        pen = TTGlyphPen(None)
        pen.moveTo((100, 0))
        for corner in ((100, 300 + 200 * index), (900, 300 + 200 * index), (900, 0)):
            pen.lineTo(corner)
        pen.closePath()
        glyphs[f"letter{ord(letter)}"] = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(list(glyphs))
    builder.setupCharacterMap({ord(letter): f"letter{ord(letter)}" for letter in letters})
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2(usWeightClass=400)
    builder.setupPost()
    builder.save(path)
    return path


@pytest.mark.parametrize("script", NAMES)
def test_letters_of_a_script_differ_from_each_other_and_from_boxes(script: str, tmp_path: Path) -> None:
    first, second = NAMES[script]
    if find_fonts({first, second})[1]:
        assert script not in ("Arabic", "Russian")  # matplotlib's own font has those
        pytest.skip(f"no installed font has the letters of {script}")
    drawn, other, box = pixels(first, tmp_path), pixels(second, tmp_path), _box(tmp_path)
    assert (drawn != other).mean() > 0.005
    assert (drawn != box).mean() > 0.005
    assert (other != box).mean() > 0.005


def _box(folder: Path) -> np.ndarray:
    with pytest.warns(MissingFontWarning):
        return pixels("\U00012000", folder)  # cuneiform


@pytest.mark.usefixtures("only_matplotlibs_own")
def test_a_font_that_was_installed_since_matplotlib_looked_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fonts = [str(font_of("蚂蚁", tmp_path / "Han.ttf")), str(font_of("ผง", tmp_path / "Siamese.ttf"))]
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [*fonts, str(tmp_path / "damaged.ttf")])
    assert find_fonts("蚂蚁ผ") == (["Han", "Siamese"], set())
    assert (pixels("蚂", tmp_path) != pixels("蚁", tmp_path)).mean() > 0.005
    assert (pixels("ผ", tmp_path) != pixels("ง", tmp_path)).mean() > 0.005
    assert b"Han" in svg(partial(word, "a 蚂"))


@pytest.mark.usefixtures("only_matplotlibs_own")
def test_where_no_font_has_the_letters_it_is_said_which_to_install(tmp_path: Path) -> None:
    with pytest.warns(MissingFontWarning) as caught:
        first, second = pixels("蚂", tmp_path), pixels("蚁", tmp_path)
    assert (first == second).all()  # two boxes
    assert str(caught[0].message) == (
        "no installed font has the letters 蚂: they are drawn as boxes. Install Noto Sans CJK (Debian, Ubuntu: "
        "apt install fonts-noto-cjk; others: fonts.google.com/noto), or write an .svg, for which the viewer chooses "
        "the fonts."
    )
    with pytest.warns(MissingFontWarning, match=r"letters ผ꿀: .* Install Noto Sans CJK, Noto Sans Thai \(.*apt "
                                                r"install fonts-noto fonts-noto-cjk;"):  # fmt: skip
        pixels("ผ꿀 é", tmp_path)
    with pytest.warns(MissingFontWarning, match=r"letters 一丁丂七丄丅丆万丈三\.\.\.: "):
        pixels("".join(map(chr, range(0x4E00, 0x4E20))), tmp_path)


@pytest.mark.usefixtures("only_matplotlibs_own")
@pytest.mark.parametrize("draw", [svg, partial(save, path="word.svg")], ids=["page", "file"])
def test_an_svg_keeps_its_letters_and_needs_no_font(
    draw: Callable[[Callable[[], Figure]], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(partial(word, "蚂蚁"))


@pytest.mark.usefixtures("only_matplotlibs_own")
def test_names_of_a_matrix_change_no_other_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fonts = [str(font_of("蚂蚁", tmp_path / "Ant.ttf"))]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: fonts)
    content = svg(partial(plot_confusion, np.eye(2, dtype=np.int64), ["蚂蚁", "bees"])).decode()
    assert content.count("Ant") == 2
    assert ">蚂蚁<" in content


@pytest.mark.usefixtures("only_matplotlibs_own")
@pytest.mark.filterwarnings("default:no installed font")
def test_the_command_line_says_it_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featcache.reports.model_figures.confusion_figure", lambda model: partial(word, "蚂蚁"))
    shown = featcache_cli("show", "confusion", "head", "-o", tmp_path / "a.png")
    assert shown.exit_code == 0, shown.output
    assert shown.stderr.startswith("Note: no installed font has the letters 蚁蚂: they are drawn as boxes.")
    assert shown.stderr.count("\n") == 1
