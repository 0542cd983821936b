"""The style of figures, light and dark, and how they are written to files."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from featcache._utils.files import write_file
from featcache._utils.formatting import printable
from featcache.errors import MissingFontWarning, PictureError
from featcache.reports.file_types import FORMATS as FORMATS
from featcache.reports.fonts import DEFAULT, use_installed_fonts

DrawFigure = Callable[[], Figure]
"""A function that draws a figure; the caller sets the colours of text, lines and paper."""

# Okabe and Ito (2008): distinguishable with colour blindness, on white and on black.
BLUE, SKY, ORANGE, VERMILION, GREEN, PURPLE, GREY = (
    "#0072b2", "#56b4e9", "#e69f00", "#d55e00", "#009e73", "#cc79a7", "#999999",
)  # fmt: skip
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, "#8c613c", "#7f7f00", "#6a51a3", "#17becf")
RIGHT, WRONG = "#1a85c9", VERMILION  # also for text: a darker blue is not readable on black

_LIGHT = {"ink": "#1f2329", "faint": "#d0d7df", "paper": "#fffffe"}
_DARK = {"ink": "#e6edf2", "faint": "#3d444e", "paper": "#0d1116"}
_DPI = 120


def save(picture: DrawFigure, path: str | os.PathLike[str], dark: bool = False) -> Path:
    """Draw a figure and write it to a file, atomically; returns the path.

    Parameters
    ----------
    picture : DrawFigure
        The function that draws the figure.
    path : path
        A name that ends in .png, .svg or .pdf.
    dark : bool, default False
        Light lines on dark paper. An SVG without it follows the light or dark mode of the page that shows it.

    Raises
    ------
    PictureError
        The name has another ending, or its folder does not exist.

    Warns
    -----
    MissingFontWarning
        No installed font has some of the letters; the text names the font to install.
    """
    path = check_path(path)
    suffix = path.suffix.lower()
    adapts = suffix == ".svg" and not dark
    content = _render(picture, suffix, _DARK if dark else _LIGHT)
    write_file(path, _adapt(content) if adapts else content)
    return path


def check_path(path: str | os.PathLike[str]) -> Path:
    """Check before the work that a figure can be written to this path. Raises PictureError."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise PictureError(f"{path} must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if not path.parent.is_dir():
        raise PictureError(f"{path.parent} is not a folder: create it first")
    if path.is_dir():
        raise PictureError(f"{path} is a folder: give a file name")
    return path


def svg(picture: DrawFigure) -> bytes:
    """The figure as a transparent SVG that follows the light or dark mode of the page."""
    return _adapt(_render(picture, ".svg", _LIGHT, transparent=True))


def draw(picture: DrawFigure, dark: bool = False) -> Figure:
    """The figure as a matplotlib figure, which notebooks show. Warns MissingFontWarning, see `save`."""
    with _style(_DARK if dark else _LIGHT):
        figure = picture()
        missing = use_installed_fonts(figure)
    # without %matplotlib inline, a notebook shows a plain Figure as "<Figure size ...>"
    figure._repr_png_ = partial(_png, figure)  # type: ignore[attr-defined]
    if missing:
        warnings.warn(missing, MissingFontWarning, stacklevel=3)
    return figure


def _png(figure: Figure) -> bytes:
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=_DPI)
    return target.getvalue()


def shorten(name: str, most: int) -> str:
    """A name of at most `most` letters, shortened in the middle: paths differ at the end, classes at the start."""
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
    if missing and suffix != ".svg":  # the viewer of an SVG draws its letters
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
        "text.parse_math": False,  # class names and paths may contain a dollar sign
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "featcache",  # the same figure gives the same bytes
    }  # fmt: skip
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        yield


def _adapt(content: bytes) -> bytes:
    """Add CSS rules for dark mode to an SVG; programs that do not support them show the light figure."""
    rules = "".join(
        f'[style*="{kind}: {_LIGHT[name]}"]{{{kind}:{_DARK[name]}!important}}'
        for name in _LIGHT
        for kind in ("fill", "stroke")
    )
    text = content.decode("utf-8")
    head, mark, rest = text.partition("<defs>")
    return f"{head}<style>@media (prefers-color-scheme: dark){{{rules}}}</style>{mark}{rest}".encode()
