"""What an installation brings: types that checkers find, both packages, templates; no more than is needed."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

import featcache
from commands import ROOT, toy_cache, write_folder

PAGES = "\n".join(
    page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
)
PROGRAM = """import featcache

cache = featcache.FeatureCache.open("cache.h5")
reveal_type(cache.features("train"))
for prediction in featcache.Classifier.load("head").predict(["a.jpg"], top=2):
    reveal_type(prediction.label)
featcache.fit_head(cache, heads="linear")
"""

needs_hatchling = pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="hatchling is not installed")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def built(kind: str, folder: Path, source: Path = ROOT) -> Path:
    """A package, built by the build backend as pip would; "editable", "wheel" or "sdist"."""
    code = f"import sys, hatchling.build as build; print(build.build_{kind}(sys.argv[1]))"
    ran = subprocess.run([sys.executable, "-c", code, folder], cwd=source, capture_output=True, text=True, check=True)
    return folder / ran.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with an editable featcache, and all packages of this one."""
    folder = tmp_path_factory.mktemp("packaging")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (site,) = (folder / "venv").glob("lib/*/site-packages")
    with zipfile.ZipFile(built("editable", folder)) as wheel:
        wheel.extractall(site)
    (site / "others.pth").write_text(str(Path(pytest.__file__).parents[1]))
    return folder / "venv" / "bin" / "python"


def outside(*line: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that knows nothing of this checkout."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    return subprocess.run(
        list(map(str, line)), cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


@needs_hatchling
def test_an_editable_installation_is_a_list_of_folders(interpreter: Path, tmp_path: Path) -> None:
    (paths,) = interpreter.parents[1].glob("lib/*/site-packages/*featcache*.pth")
    assert paths.read_text().split() == [str(ROOT), str(ROOT / "cli")]
    ran = outside(interpreter, "-c", "import featcache, featcache_cli; print(featcache.__file__)", folder=tmp_path)
    assert ran.stdout.strip() == str(ROOT / "featcache" / "__init__.py"), ran.stderr


@needs_hatchling
def test_mypy_knows_the_types_of_a_users_program(interpreter: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    big = ",".join(f"{package}.*" for package in ("torch", "numpy", "matplotlib", "PIL", "click"))
    (tmp_path / "mypy.ini").write_text(f"[mypy]\n[mypy-{big}]\nfollow_imports = skip\n")  # half a minute of reading
    ran = outside(interpreter, "-m", "mypy", "program.py", folder=tmp_path)
    assert 'Revealed type is "featcache.cache.features.Features"' in ran.stdout, ran.stdout + ran.stderr
    assert 'Revealed type is "str | None"' in ran.stdout
    assert 'program.py:7: error: Unexpected keyword argument "heads" for "fit_head"' in ran.stdout
    assert "Found 1 error" in ran.stdout


@needs_hatchling
def test_pyright_knows_the_types_of_a_users_program(interpreter: Path, tmp_path: Path) -> None:
    checker = shutil.which("basedpyright") or shutil.which("pyright")
    if checker is None:
        pytest.skip("neither basedpyright nor pyright is installed")
    (tmp_path / "program.py").write_text(PROGRAM)
    ran = outside(checker, "--pythonpath", interpreter, "program.py", folder=tmp_path)
    assert 'Type of "cache.features("train")" is "Features"' in ran.stdout, ran.stdout + ran.stderr
    assert 'Type of "prediction.label" is "str | None"' in ran.stdout
    assert 'program.py:7:27 - error: No parameter named "heads"' in ran.stdout
    assert "could not be resolved" not in ran.stdout


def unpacked_sdist(folder: Path) -> Path:
    """The folder of the source distribution."""
    folder.mkdir()
    with tarfile.open(built("sdist", folder)) as archive:
        archive.extractall(folder, filter="data")
    return folder / f"featcache-{project()['version']}"


@needs_hatchling
@pytest.mark.parametrize("origin", ["checkout", "sdist"])
def test_a_wheel_holds_both_packages_and_works_outside_the_checkout(origin: str, tmp_path: Path) -> None:
    """pip installs a source distribution by building a wheel of it."""
    source = ROOT if origin == "checkout" else unpacked_sdist(tmp_path / "sdist")
    with zipfile.ZipFile(built("wheel", tmp_path, source)) as wheel:
        names = set(wheel.namelist())
        wheel.extractall(tmp_path / "site")
    assert {"featcache/py.typed", "featcache/templates/page.html", "featcache_cli/main.py"} <= names
    python = {path.relative_to(root).as_posix() for root in (ROOT, ROOT / "cli") for package in ("featcache",
              "featcache_cli") for path in (root / package).rglob("*.py")}  # fmt: skip
    assert {name for name in names if name.endswith(".py")} == python
    assert {name.split("/")[0].split("-")[0] for name in names} == {"featcache", "featcache_cli"}
    own = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); import featcache; assert {str(tmp_path)!r} in "\
          "featcache.__file__; "  # fmt: skip
    cache = toy_cache(write_folder(tmp_path / "photos"), tmp_path / "cache.h5")
    module = f"{own} import runpy; runpy.run_module('featcache', run_name='__main__', alter_sys=True)"
    for line in (["--help"], ["info", "--help"], ["info", cache]):
        ran = outside(sys.executable, "-c", module, *line, folder=tmp_path)  # python -m featcache
        assert (str(cache) if cache in line else "Usage:") in ran.stdout, ran.stderr
    every = f"{own} print(len([getattr(featcache, name) for name in featcache.__all__]))"
    ran = outside(sys.executable, "-c", every, folder=tmp_path)
    assert ran.stdout == f"{len(featcache.__all__)}\n", ran.stderr


def test_the_users_installation_has_no_tools_of_developers() -> None:
    found = project()
    developers = {"pytest", "ray", "moto", "selenium", "mypy", "ruff", "hypothesis", "hatchling"}
    assert not developers & {re.split(r"[\[><=;]", line)[0] for line in found["dependencies"]}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^demo: install\n", makefile, re.MULTILINE)
    assert re.search(r"^test: develop lint docs\n", makefile, re.MULTILINE)
    recipes = re.findall(r'pip install --quiet --editable "(.+)"', makefile)
    assert recipes == [".", ".[dev]"]


def test_the_extras_that_the_documentation_names_exist() -> None:
    named = {
        extra for line in re.findall(r'pip install[^`\n]*"[^"`]*\[([a-z,-]+)\]"', PAGES) for extra in line.split(",")
    }
    assert named
    assert named <= set(project()["optional-dependencies"])
    assert '"featcache[' not in PAGES  # there is no such package to fetch: extras come from the clone
