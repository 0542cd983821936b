"""What stands on an HTML report."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "img"}


@dataclass
class Part:
    """A section. tables : rows of cells, the header first. sources : of its images. tiles : value, label."""

    lines: list[str] = field(default_factory=list)
    code: str = ""
    tables: list[list[list[str]]] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    alts: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tiles: list[tuple[str, str]] = field(default_factory=list)
    folded: str = ""


class Page(HTMLParser):
    """links : the values of all src and href. policy : what it may load. Refuses tags that do not fit together."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.title, self.policy = "", ""
        self.sections: dict[str, Part] = {}
        self.tags: set[str] = set()
        self.links: list[str] = []
        self._open: list[str] = []
        self._text: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    @property
    def _part(self) -> Part:
        return list(self.sections.values())[-1]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        attributes = {name: value or "" for name, value in attrs}
        self.links += [attributes[name] for name in ("src", "href") if name in attributes]
        assert not any(name.startswith("on") for name in attributes)
        if attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"]
        if tag == "img":
            self._part.alts.append(attributes["alt"])
            self._part.sources.append(attributes["src"])
        elif tag == "table":
            self._part.tables.append([])
        elif tag == "tr":
            self._part.tables[-1].append([])
        if tag not in VOID:
            self._open.append(tag)
            self._text.append("")

    def handle_data(self, data: str) -> None:
        if self._text:
            self._text[-1] += data

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        text = self._text.pop()
        if tag == "h1":
            self.title = text
        elif tag == "h2":
            assert text not in self.sections
            self.sections[text] = Part()
        elif tag == "dt":
            self._part.tiles.append(("", text))
        elif tag == "dd":
            self._part.tiles[-1] = (text, self._part.tiles[-1][1])
        elif tag == "summary":
            self._part.folded = text
        elif tag == "li":
            self._part.lines.append(text)
        elif tag == "pre":
            self._part.code = text
        elif tag in ("th", "td"):
            self._part.tables[-1][-1].append(text)
        elif tag == "figcaption":
            self._part.captions.append(text)
        elif tag == "p":
            self._part.notes.append(text)


def read_page(path: Path) -> Page:
    """Of a file."""
    return Page(path.read_text(encoding="utf-8"))
