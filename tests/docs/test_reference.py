"""The reference pages are those that docs/write_reference.py writes: no command, option or public name is missing."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

import featcache
from commands import ROOT


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_reference", ROOT / "docs" / "write_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["commands.md", "python.md"])
def test_a_page_is_up_to_date(writer: ModuleType, page: str) -> None:
    """If this fails, run `python docs/write_reference.py` (`make docs` does), and commit the page."""
    assert (writer.FOLDER / page).read_text(encoding="utf-8") == writer.PAGES[page]()


def test_every_public_name_is_in_one_group(writer: ModuleType) -> None:
    names = [name for group in writer.NAMES.values() for name in group]
    assert sorted(names) == sorted(featcache.__all__)


def test_every_option_has_a_help_text(writer: ModuleType) -> None:
    without = [
        f"{name} {option.opts[0]}"
        for name, command in writer.commands()
        for option in command.params
        if getattr(option, "help", "") is None and option.param_type_name == "option"
    ]
    assert without == []
