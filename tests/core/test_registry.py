from __future__ import annotations

import sys
from pathlib import Path

import pytest

from featcache.core.registry import Registry
from featcache.errors import HeadError

GROUP = "featcache.tests"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages: `entries` registers two names, `added` gives a third by an entry point."""
    package = tmp_path / "entries"
    package.mkdir()
    (package / "__init__.py").write_text('REGISTRY = None\n"""Set by the test."""\n')
    for name in ("first", "second"):
        (package / f"{name}.py").write_text(
            f'import entries\nentries.REGISTRY.register("{name}", "{name} of featcache")\n'
        )
    (tmp_path / "added.py").write_text('ENTRY = "third of another package"\n')
    install(tmp_path, "added-package", "third", "added:ENTRY")
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("entries", "entries.first", "entries.second", "added"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path


def install(site: Path, package: str, name: str, value: str) -> None:
    info = site / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {value}\n")


@pytest.fixture
def registry(site: Path) -> Registry[str]:
    import entries  # type: ignore[import-not-found]

    entries.REGISTRY = Registry("thing", "entries", GROUP, HeadError)
    return entries.REGISTRY


def test_modules_are_imported_when_a_name_is_asked_for(registry: Registry[str]) -> None:
    assert "entries.first" not in sys.modules
    assert registry.get("second") == "second of featcache"
    assert "entries.first" in sys.modules
    assert registry.names() == ["first", "second", "third"]


def test_the_order_of_names_is_not_that_of_imports(registry: Registry[str]) -> None:
    import entries.second  # type: ignore[import-not-found]  # noqa: F401

    assert registry.registered() == ["first", "second"]


def test_an_entry_point_of_another_package_is_loaded_when_it_is_asked_for(registry: Registry[str]) -> None:
    assert "third" in registry
    assert "added" not in sys.modules
    assert registry.get("third") == "third of another package"
    assert registry.get("third") is registry.get("third")


def test_an_unknown_name_is_an_error_with_the_names_that_exist(registry: Registry[str]) -> None:
    assert "secnd" not in registry
    with pytest.raises(HeadError) as error:
        registry.get("secnd")
    assert str(error.value) == "there is no thing 'secnd'; there are: first, second, third. Did you mean second?"


def test_a_name_is_registered_once(registry: Registry[str]) -> None:
    with pytest.raises(HeadError, match=r"^two entries register the thing 'first'\. Give one of them another name\.$"):
        registry.register(registry.names()[0], "another")


def test_an_entry_point_that_fails_is_an_error_with_its_package(site: Path, registry: Registry[str]) -> None:
    (site / "broken.py").write_text("raise RuntimeError('no GPU')\n")
    install(site, "broken-package", "broken", "broken:ENTRY")
    with pytest.raises(HeadError) as error:
        registry.get("broken")
    assert str(error.value) == (
        "the thing 'broken' of the package broken-package cannot be loaded (broken:ENTRY): RuntimeError: no GPU. "
        "Update or uninstall broken-package."
    )


def test_an_entry_of_featcache_hides_no_entry_point(site: Path, registry: Registry[str]) -> None:
    """A package that takes a name of featcache's would be ignored without a word."""
    install(site, "rival-package", "first", "added:ENTRY")
    with pytest.raises(HeadError, match=r"^the package rival-package adds a thing 'first', which featcache has\."):
        registry.names()
