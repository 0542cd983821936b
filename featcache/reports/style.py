"""How a picture looks, in light and dark, and how it becomes a file."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from featcache._utils.files import write_file
from featcache._utils.formatting import printable
from featcache.errors import MissingFontWarning, PictureError
from featcache.reports.fonts import DEFAULT, use_installed_fonts

DrawFigure = Callable[[], Figure]
"""Draws; what colours text, lines and paper have is decided by who calls it."""

FORMATS = (".png", ".svg", ".pdf")

# Okabe and Ito (2008): told apart by everyone, on white and on black.
BLUE, SKY, ORANGE, VERMILION, GREEN, PURPLE, GREY = (
    "#0072b2", "#56b4e9", "#e69f00", "#d55e00", "#009e73", "#cc79a7", "#999999",
)  # fmt: skip
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, "#8c613c", "#7f7f00", "#6a51a3", "#17becf")
RIGHT, WRONG = "#1a85c9", VERMILION  # as text, too: no blue is readable on black that is darker

_LIGHT = {"ink": "#1f2329", "faint": "#d0d7df", "paper": "#fffffe"}
_DARK = {"ink": "#e6edf2", "faint": "#3d444e", "paper": "#0d1116"}
_DPI = 120


def save(picture: DrawFigure, path: str | os.PathLike[str], dark: bool = False) -> Path:
    """Draw into a file whose name ends in one of FORMATS, whole or not at all.

    dark : light lines on dark paper. An SVG without it follows the page or the desktop that shows it.

    Raises
    ------
    PictureError : another ending, or no folder to write into.

    Warns
    -----
    MissingFontWarning : no installed font has some of the letters; the text says which to install.
    """
    path = check_path(path)
    suffix = path.suffix.lower()
    adapts = suffix == ".svg" and not dark
    content = _render(picture, suffix, _DARK if dark else _LIGHT)
    write_file(path, _adapt(content) if adapts else content)
    return path


def check_path(path: str | os.PathLike[str]) -> Path:
    """The path, if a picture can be written there: known before the work, not after it. Raises PictureError."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise PictureError(f"{path} is no picture's name: end it in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if not path.parent.is_dir():
        raise PictureError(f"{path.parent} is no folder: make it first")
    if path.is_dir():
        raise PictureError(f"{path} is a folder: give a file")
    return path


def svg(picture: DrawFigure) -> bytes:
    """The picture as an SVG on no paper, that follows the page that shows it into light and dark."""
    return _adapt(_render(picture, ".svg", _LIGHT, transparent=True))


def draw(picture: DrawFigure, dark: bool = False) -> Figure:
    """The picture as a matplotlib figure. Warns MissingFontWarning, see `save`."""
    with _style(_DARK if dark else _LIGHT):
        figure = picture()
        missing = use_installed_fonts(figure)
    if missing:
        warnings.warn(missing, MissingFontWarning, stacklevel=3)
    return figure


def shorten(name: str, most: int) -> str:
    """A name of at most `most` letters, the middle left out: a path is known by its end, a class by its start."""
    name = printable(name)
    if len(name) <= most:
        return name
    head = (most - 1) // 3
    return f"{name[:head]}…{name[len(name) - (most - 1 - head) :]}"


def _render(picture: DrawFigure, suffix: str, colours: dict[str, str], transparent: bool = False) -> bytes:
    target = io.BytesIO()
    with _style(colours):
        figure = picture()
        missing = use_installed_fonts(figure)
        metadata = {"Date": None} if suffix == ".svg" else {"CreationDate": None} if suffix == ".pdf" else {}
        figure.savefig(target, format=suffix[1:], dpi=_DPI, transparent=transparent, metadata=metadata)
    if missing and suffix != ".svg":  # whose letters are text, drawn by the program that shows it
        warnings.warn(missing, MissingFontWarning, stacklevel=3)
    return target.getvalue()


@contextmanager
def _style(colours: dict[str, str]) -> Iterator[None]:
    ink, faint, paper = colours["ink"], colours["faint"], colours["paper"]
    settings: Any = {
        "figure.facecolor": paper, "axes.facecolor": paper, "legend.facecolor": paper, "savefig.facecolor": paper,
        "text.color": ink, "axes.labelcolor": ink, "axes.titlecolor": ink, "xtick.color": ink, "ytick.color": ink,
        "axes.edgecolor": faint, "grid.color": faint, "legend.edgecolor": faint, "lines.color": ink,
        "xtick.labelcolor": ink, "ytick.labelcolor": ink, "axes.axisbelow": True,
        "font.family": ["sans-serif"],
        "font.sans-serif": [DEFAULT],
        "text.parse_math": False,  # class names and paths hold what they hold
        "svg.fonttype": "none",  # text stays text, in whatever script
        "svg.hashsalt": "featcache",  # the same picture, the same bytes
    }  # fmt: skip
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        yield


def _adapt(content: bytes) -> bytes:
    """An SVG with rules for dark surroundings; a program that does not know them shows it as it was drawn."""
    rules = "".join(
        f'[style*="{kind}: {_LIGHT[name]}"]{{{kind}:{_DARK[name]}!important}}'
        for name in _LIGHT
        for kind in ("fill", "stroke")
    )
    text = content.decode("utf-8")
    head, mark, rest = text.partition("<defs>")
    return f"{head}<style>@media (prefers-color-scheme: dark){{{rules}}}</style>{mark}{rest}".encode()
