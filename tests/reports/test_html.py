"""A page holds all of it, and needs nothing else."""

from __future__ import annotations

import base64
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure as Drawn

from browser import chromium, missing
from featcache.analysis.benchmark.outcomes import COLD, WARM
from featcache.analysis.benchmark.routes import ROUTES
from featcache.reports.benchmark_report import comparison_table
from featcache.reports.html import Figure, Section, Table, Tile, write_page
from featcache.reports.style import svg
from outcomes import comparison, outcome
from pagereader import Page, Part, read_page

NASTY = "<script>alert(\"ants\")</script> & 'bees' 蚂蚁"


def small(text: str) -> Drawn:
    figure = Drawn(figsize=(1, 1))
    figure.text(0.5, 0.5, text)
    return figure


def page(path: Path, *sections: Section, title: str = "featcache: ants") -> Page:
    assert write_page(path, title, sections) == path
    return read_page(path)


def test_everything_stands_on_the_page_in_its_order(tmp_path: Path) -> None:
    tables = [Table(["route", "seconds"], [["cold", "1.0"], ["warm", "0.5"]]), Table(["n"], [["3"]])]
    figures = [Figure(partial(small, "one"), "First"), Figure(partial(small, "two"), "Second")]
    first = Section("Result", ["a line", "another"], "line 1\n  line 2", tables, figures, ["a note", "a last one"])
    written = page(tmp_path / "a.html", first, Section("Empty"))
    assert written.title == "featcache: ants"
    assert list(written.sections) == ["Result", "Empty"]
    result = written.sections["Result"]
    assert result.lines == ["a line", "another"]
    assert result.code == "line 1\n  line 2"
    assert result.tables == [[["route", "seconds"], ["cold", "1.0"], ["warm", "0.5"]], [["n"], ["3"]]]
    assert result.captions == result.alts == ["First", "Second"]
    assert result.notes == ["a note", "a last one"]
    assert written.sections["Empty"] == Part()


def test_tiles_come_first_and_code_can_be_folded(tmp_path: Path) -> None:
    section = Section("Result", code="line", folded="More", tiles=[Tile("95 %", "right"), Tile(NASTY, NASTY)])
    written = page(tmp_path / "a.html", section).sections["Result"]
    assert written.tiles == [("95 %", "right"), (NASTY, NASTY)]
    assert (written.folded, written.code) == ("More", "line")


def test_whatever_a_class_is_called_is_text(tmp_path: Path) -> None:
    section = Section(
        NASTY, [NASTY], NASTY, [Table([NASTY], [[NASTY]])], [Figure(partial(small, NASTY), f"{NASTY}\"'>")], [NASTY]
    )
    written = page(tmp_path / "a.html", section, title=NASTY)
    assert written.title == NASTY
    part = written.sections[NASTY]
    assert (part.lines, part.code, part.tables, part.notes) == ([NASTY], NASTY, [[[NASTY], [NASTY]]], [NASTY])
    assert part.captions == part.alts == [f"{NASTY}\"'>"]
    assert "script" not in written.tags
    assert "<script" not in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_a_figure_is_the_svg_that_follows_the_page(tmp_path: Path) -> None:
    written = page(tmp_path / "a.html", Section("a", figures=[Figure(partial(small, NASTY), "b")]))
    (source,) = written.sections["a"].sources
    kind, _, content = source.partition(",")
    assert kind == "data:image/svg+xml;base64"
    decoded = base64.b64decode(content, validate=True)
    assert decoded == svg(partial(small, NASTY))
    assert NASTY in "".join(ElementTree.fromstring(decoded).itertext())


def test_nothing_leads_outside(tmp_path: Path) -> None:
    written = page(tmp_path / "a.html", Section("a", figures=[Figure(partial(small, "x"), "b")]))
    assert written.links
    assert all(link.startswith("data:image/svg+xml;base64,") for link in written.links)
    assert written.tags <= {"html", "head", "meta", "title", "style", "body", "h1", "section", "h2", "figure", "img",
                          "figcaption"}  # fmt: skip
    assert written.policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "://" not in text
    assert "@import" not in text
    assert "url(" not in text


def test_bytes_of_a_file_name_that_are_no_text_are_spelt(tmp_path: Path) -> None:
    written = page(tmp_path / "a.html", Section("a", ["ant\udcff.png"]))
    assert written.sections["a"].lines == ["ant\\udcff.png"]


def test_a_page_is_replaced_whole(tmp_path: Path) -> None:
    def fails() -> Drawn:
        raise ValueError("no ink")

    page(tmp_path / "a.html", Section("a"))
    before = (tmp_path / "a.html").read_bytes()
    with pytest.raises(ValueError, match="no ink"):
        write_page(tmp_path / "a.html", "b", [Section("b", figures=[Figure(fails, "c")])])
    assert (tmp_path / "a.html").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]


def test_both_lights_are_styled(tmp_path: Path) -> None:
    styles: list[str] = []

    class Reader(HTMLParser):
        def handle_data(self, data: str) -> None:
            if self.lasttag == "style":
                styles.append(data)

    write_page(tmp_path / "a.html", "a", [])
    Reader().feed((tmp_path / "a.html").read_text())
    style = "".join(styles)
    assert "color-scheme: light dark" in style
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    for name in ("paper", "ink", "faint", "quiet", "shade"):
        assert f"--{name}: #" in light
        assert f"--{name}: #" in dark.split("}\n")[0]


def test_a_table_is_readable_as_it_is() -> None:
    table = Table(["route", "s"], [["cold", "12.5"], ["warm cache", "1"]])
    assert table.markdown() == (
        "| route      | s    |\n| ---------- | ---- |\n| cold       | 12.5 |\n| warm cache | 1    |"
    )


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_the_table_of_a_benchmark_fits_a_window_of_1200_pixels(tmp_path: Path) -> None:
    rows = [
        outcome(name, wall_s=[100.5, 90.2, 130.8], accuracy=[0.91, 0.93, 0.95])
        for name in (COLD, WARM, *list(ROUTES.values())[1:])
    ]
    path = write_page(tmp_path / "a.html", "a", [Section("Result", tables=[comparison_table(comparison(*rows))])])
    with chromium(width=1200) as driver:
        driver.get(path.as_uri())
        wide, room = driver.execute_script(
            "let table = document.querySelector('.wide'); return [table.scrollWidth, table.clientWidth]"
        )
    assert room > 900
    assert wide <= room
