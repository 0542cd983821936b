from __future__ import annotations

import ast
import importlib
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

import featcache
from commands import ROOT, in_process, toy_cache, write_folder

CALL = """
import contextlib, io, json, sys
said = io.StringIO()
with contextlib.redirect_stdout(said):
    from featcache_cli.main import main
    main(sys.argv[1:], standalone_mode=False)
watched = {"torch", "torchvision", "timm", "sklearn", "sklearn.pipeline", "numpy"}
print(json.dumps([said.getvalue(), sorted(watched & set(sys.modules))]))
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imports")
    return toy_cache(write_folder(folder / "data"), folder / "cache.h5")


@pytest.mark.parametrize(
    ("line", "said", "needs"),
    [
        ("--help", "Run the frozen network once, keep the features", []),
        ("extract --help", "Run the frozen network once on every image or text of DATA", []),
        ("finetune --help", "--preset", []),
        ("fit-head --help", "forest, head2toe, ", []),
        ("export --help", "onnx|state-dict|torch-export", []),
        ("info CACHE", "feature cache, format 1", ["numpy"]),
        ("verify CACHE", "every row has its checksum", ["numpy"]),
        ("diff CACHE CACHE", "hold the same", ["numpy"]),
        ("fit-head CACHE --head linear", "head linear, val:\naccuracy 1.0000", ["numpy", "sklearn"]),
        ("fit-head CACHE --head logreg", "head logreg, val:\naccuracy 1.0000", ["numpy", "sklearn"]),
    ],
)
def test_the_quick_commands_never_wait_for_what_they_do_not_need(
    cache: Path, line: str, said: str, needs: list[str]
) -> None:
    ran = in_process(CALL, *line.replace("CACHE", str(cache)).split())
    assert ran.returncode == 0, ran.stderr
    text, loaded = json.loads(ran.stdout)
    assert said in text
    assert loaded == needs


def test_the_help_does_not_wait_for_the_metadata_of_packages() -> None:
    """They take a quarter of its time."""
    ran = in_process(CALL.replace('"torch", ', '"importlib.metadata", '), "--help")
    assert json.loads(ran.stdout)[1] == [], ran.stderr


def test_the_help_reads_no_settings_that_only_a_run_needs() -> None:
    """The presets, the stub of public names and modules of the standard library that are used later took 12 ms."""
    late = '"lazy_loader", "pkgutil", "tempfile", "featcache.finetuning.presets", '
    ran = in_process(CALL.replace('"torch", ', late), "--help")
    assert json.loads(ran.stdout)[1] == [], ran.stderr


def test_a_cache_is_opened_without_the_readers_of_images(cache: Path) -> None:
    """Pillow and the sources of images took 30 ms."""
    late = '"PIL", "featcache.data.manifest", "featcache.data.sources", '
    ran = in_process(CALL.replace('"torch", ', late), "info", cache)
    assert json.loads(ran.stdout)[1] == ["numpy"], ran.stderr


def test_the_probe_sees_torch_where_it_is_loaded(cache: Path) -> None:
    ran = in_process(CALL, "fit-head", cache, "--head", "sgd")
    assert "torch" in json.loads(ran.stdout)[1], ran.stderr


def test_importing_featcache_imports_nothing_else() -> None:
    ran = in_process("import sys; old = set(sys.modules); import featcache; print(sorted(set(sys.modules) - old))")
    loaded = {name.split(".")[0] for name in eval(ran.stdout)}
    assert loaded & {"torch", "numpy", "sklearn", "h5py", "matplotlib", "PIL", "click"} == set()
    assert "featcache" in loaded
    assert loaded & {"ast", "lazy_loader"} == set()  # the stub is read when a name is first used


STUB = ast.parse((ROOT / "featcache" / "__init__.pyi").read_text(encoding="utf-8"))
HOMES = {
    alias.name: f"featcache.{node.module}"
    for node in STUB.body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}


@pytest.mark.parametrize("name", HOMES)
def test_a_public_name_resolves_to_its_home(name: str) -> None:
    home = importlib.import_module(HOMES[name])
    assert getattr(featcache, name) is getattr(home, name)
    assert getattr(featcache, name).__module__ == home.__name__


def test_the_public_names_are_those_of_the_stub() -> None:
    assert sorted(featcache.__all__) == sorted(HOMES)
    assert set(dir(featcache)) >= set(HOMES)
    assert featcache.__version__ == importlib.metadata.version("featcache")


@pytest.mark.parametrize("name", [*featcache._DEPRECATED, *featcache._RESULTS])
def test_a_former_public_name_works_and_names_the_new_one(name: str) -> None:
    assert name not in featcache.__all__
    with pytest.warns(DeprecationWarning, match=rf"^featcache\.{name} is deprecated: use featcache\.") as warned:
        thing = getattr(featcache, name)
    assert [warning.filename for warning in warned] == [__file__]
    assert callable(thing)


def test_the_package_is_the_command_line() -> None:
    ran = subprocess.run([sys.executable, "-m", "featcache", "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith(f"featcache, version {featcache.__version__}\n")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'featcache' has no attribute 'extrakt'$"):
        featcache.extrakt  # noqa: B018
