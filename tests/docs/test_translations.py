"""A translated page has the commands, outputs, numbers, links and sections of the English one."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from commands import ROOT
from translations import TRANSLATIONS

_FENCE = re.compile(r"^```([\w{}-]+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def code(page: str) -> list[tuple[str, str]]:
    """The language and the lines of each block, without comments."""
    return [
        (language, re.sub(r" *# .*$", "", block, flags=re.MULTILINE))
        for language, block in _FENCE.findall(text_of(page))
    ]


def prose(page: str) -> str:
    return _FENCE.sub("", text_of(page))


def numbers(page: str) -> Counter[str]:
    """The numbers in digits, outside of links and code."""
    text = re.sub(r"\]\([^)]*\)|`[^`]*`", "", prose(page))
    return Counter(re.findall(r"\d+(?:[.,]\d+)*", text))


def links(page: str) -> Counter[str]:
    """The targets of links and pictures; a translated page counts as the English one."""
    found: Counter[str] = Counter()
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        target = link
        if "://" not in link:
            name, _, anchor = link.partition("#")
            path = (ROOT / page).parent.joinpath(name).resolve().relative_to(ROOT.resolve()).as_posix()
            target = f"{TRANSLATIONS.get(path, path)}#{anchor}"
        found[target] += 1
    return found


@pytest.fixture(params=[page for page in TRANSLATIONS if (ROOT / page).exists()])
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param, TRANSLATIONS[request.param]


def test_the_commands_are_the_same(pair: tuple[str, str]) -> None:
    assert code(pair[0]) == code(pair[1])


def test_the_numbers_are_the_same(pair: tuple[str, str]) -> None:
    assert numbers(pair[0]) == numbers(pair[1])


def test_the_names_in_code_are_the_same(pair: tuple[str, str]) -> None:
    spans = [Counter(re.findall(r"`([^`]+)`", prose(page))) for page in pair]
    assert spans[0] == spans[1]


def test_the_links_are_the_same(pair: tuple[str, str]) -> None:
    assert links(pair[0]) == links(pair[1])


def test_the_sections_are_the_same(pair: tuple[str, str]) -> None:
    levels = [re.findall(r"^(#+) ", prose(page), re.MULTILINE) for page in pair]
    assert levels[0] == levels[1]


def test_each_links_to_the_other(pair: tuple[str, str]) -> None:
    for page in pair:
        assert links(page)[f"{pair[1]}#"] >= 1  # the translated page counts as the English one
