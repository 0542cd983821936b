from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from commands import ROOT

LIBRARY = sorted((ROOT / "featcache").rglob("*.py"))
CLI = sorted((ROOT / "cli" / "featcache_cli").glob("*.py"))


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only type checkers see."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")):
            yield from _walk(child)


def _imports(path: Path) -> set[str]:
    """Dotted names of all that a file imports, inside of functions too."""
    found: set[str] = set()
    for node in _walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_rooms_import_nothing_themselves() -> None:
    """Else one import of a room would pay for all that is in it. What a room is for stands in its docstring."""
    for path in (ROOT / "featcache").glob("*/**/__init__.py"):
        (only,) = ast.parse(path.read_text(encoding="utf-8")).body
        assert isinstance(only, ast.Expr), path


def test_the_library_never_imports_the_command_line() -> None:
    """But for `python -m featcache`, which is the command line."""
    importing = [path for path in LIBRARY if any(name.startswith("featcache_cli") for name in _imports(path))]
    assert importing == [ROOT / "featcache" / "__main__.py"]


def test_click_stays_in_the_command_line() -> None:
    assert [path.name for path in LIBRARY if any(name.split(".")[0] == "click" for name in _imports(path))] == []


def test_the_library_prints_nothing() -> None:
    calls = [
        f"{path.name}:{node.lineno}"
        for path in LIBRARY
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert calls == []


def test_no_module_is_a_hall() -> None:
    lengths = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in [*LIBRARY, *CLI]}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_a_command_is_a_thin_call() -> None:
    lengths = {}
    for path in CLI:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any(
                ".command(" in ast.unparse(one) for one in node.decorator_list
            ):
                body = node.body[1:]
                lengths[f"{path.name}: {node.name}"] = (body[-1].end_lineno or 0) - body[0].lineno + 1
    assert len(lengths) == 22 + 8  # show has eight pictures
    assert {name: length for name, length in lengths.items() if length > 25} == {}
