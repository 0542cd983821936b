"""`write_page`: one HTML file with all in it, that needs no network and follows the reader into light and dark."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from featcache._utils.files import write_file
from featcache.reports.style import DrawFigure, svg


class Table(NamedTuple):
    """Text in rows and columns."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Padded, so that it is readable as it is."""
        widths = [max(len(line[column]) for line in [self.header, *self.rows]) for column in range(len(self.header))]
        lines = [self.header, ["-" * width for width in widths], *self.rows]
        return "\n".join(
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
            for line in lines
        )


class Figure(NamedTuple):
    """A picture and what it shows."""

    picture: DrawFigure
    caption: str


@dataclass
class Section:
    """A part of a page, shown in the order of the fields. code : text as it would stand in a terminal."""

    title: str
    lines: list[str] = field(default_factory=list)
    code: str = ""
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def write_page(path: str | os.PathLike[str], title: str, sections: Sequence[Section]) -> Path:
    """Write the page, whole or not at all."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("featcache"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["source"] = _source
    text = environment.get_template("page.html").render(title=title, sections=sections)
    write_file(Path(path), text.encode("utf-8", "backslashreplace"))
    return Path(path)


def _source(picture: DrawFigure) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg(picture)).decode('ascii')}"
