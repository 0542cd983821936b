"""`write_page`: an HTML page in one file that needs no network and follows the light or dark mode of the reader."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from featcache._utils.files import write_file
from featcache._utils.formatting import pad_columns
from featcache.reports.style import DrawFigure, svg


class Table(NamedTuple):
    """Text in rows and columns."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """The table in Markdown, with aligned columns."""
        header, *rows = pad_columns([self.header, *self.rows])
        lines = [header, ["-" * len(cell) for cell in header], *rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


class Figure(NamedTuple):
    """A figure and its caption."""

    draw: DrawFigure
    caption: str


class Tile(NamedTuple):
    """One figure in large letters, and what it is."""

    value: str
    label: str


@dataclass
class Section:
    """A part of a page. The page shows the tiles, then the other fields in this order.

    code : text in a fixed-width font.
    folded : the title of the code, which the reader has to open; "" shows the code.
    """

    title: str
    lines: list[str] = field(default_factory=list)
    code: str = ""
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tiles: list[Tile] = field(default_factory=list)
    folded: str = ""


def write_page(path: str | os.PathLike[str], title: str, sections: Sequence[Section]) -> Path:
    """Write a page atomically; returns its path."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("featcache"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_url"] = _data_url
    text = environment.get_template("page.html").render(title=title, sections=sections)
    write_file(Path(path), text.encode("utf-8", "backslashreplace"))
    return Path(path)


def without_folders(message: object, local: Sequence[str | os.PathLike[str]]) -> str:
    """The text of a message or an error, with each of these absolute paths shortened to its name."""
    text = str(message)
    for path in filter(os.path.isabs, local):
        text = text.replace(f"{Path(path).parent}{os.sep}", "")
    return text


def _data_url(draw: DrawFigure) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg(draw)).decode('ascii')}"
