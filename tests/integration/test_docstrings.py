"""Public functions and classes are documented in NumPy style, and the examples of all docstrings run."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest
from numpydoc.docscrape import NumpyDocString
from numpydoc.validate import validate

import featcache
from commands import ROOT, write_folder

CHECKS = {
    "GL08": "no docstring",
    "PR01": "parameters without description",
    "PR02": "parameters that the function does not have",
    "PR03": "another order than in the signature",
    "PR04": "a parameter without type",
    "PR07": "a parameter that is not explained",
    "RT01": "no Returns section",
    "EX01": "no Examples section",
}
PUBLIC = sorted(featcache.__all__)
CLASSES = [name for name in PUBLIC if inspect.isclass(getattr(featcache, name))]
FUNCTIONS = [name for name in PUBLIC if name not in CLASSES]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "featcache").rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]

REFERS = re.compile(r"See `TrainableNetwork`", re.IGNORECASE)
"""In the docstring of a method that the protocol explains."""
FULL = ("FeatureCache.require_images", "FeatureCache.write_list")
"""Their only parameter is in the first line: the module has 400 lines."""


def doc_of(method: str) -> str:
    cls, name = method.split(".")
    return inspect.getdoc(getattr(getattr(featcache, cls), name)) or ""


def problems(name: str, checks: set[str]) -> list[str]:
    return [f"{code}: {text}" for code, text in validate(f"featcache.{name}")["errors"] if code in checks]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_parameter_has_a_line_of_its_own(name: str) -> None:
    parameters = NumpyDocString(inspect.getdoc(getattr(featcache, name)))["Parameters"]
    assert [parameter.name for parameter in parameters if "," in parameter.name] == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_is_documented(name: str) -> None:
    assert problems(name, set(CHECKS)) == []


@pytest.mark.parametrize("name", CLASSES)
def test_a_public_class_is_documented(name: str) -> None:
    """Fields of a data class may be listed as attributes."""
    cls = getattr(featcache, name)
    assert problems(name, {"GL08", "EX01", "PR02", "PR04"} - ({"EX01"} if issubclass(cls, Exception) else set())) == []
    if dataclasses.is_dataclass(cls):
        text = NumpyDocString(inspect.getdoc(cls))
        documented = {
            word.strip()
            for section in ("Parameters", "Attributes")
            for parameter in text[section]
            for word in parameter.name.split(",")
        }
        assert {field.name for field in dataclasses.fields(cls)} - documented == set()


@pytest.mark.parametrize("name", CLASSES)
def test_public_methods_are_documented(name: str) -> None:
    cls = getattr(featcache, name)
    methods = [
        f"{name}.{method}"
        for method, value in vars(cls).items()
        if not method.startswith("_") and callable(getattr(cls, method)) and inspect.getmodule(value) is not None
    ]
    assert {method: problems(method, {"GL08", "PR02"}) for method in methods} == {method: [] for method in methods}
    explained = [method for method in methods if method not in FULL and not REFERS.search(doc_of(method))]
    checks = {"PR01", "PR03", "PR07"}
    assert {method: problems(method, checks) for method in explained} == {method: [] for method in explained}


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that holds `photos`: eight of ants and eight of bees."""
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "photos", {"ants": 8, "bees": 8})
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted > 0
    assert results.failed == 0
