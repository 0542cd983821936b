"""Texts to try featcache on: the first sentences of the documentation of four packages that featcache needs.

A text is the first paragraph of a docstring, its label the package. The packages' files are parsed, not run.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import importlib.util
import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from featcache._utils.files import atomic_write
from featcache.errors import DatasetError

PACKAGES = {"matplotlib": "matplotlib", "scipy": "scipy", "sklearn": "scikit-learn", "torch": "PyTorch"}
"""Modules, and their labels."""

_EACH = 300  # texts of a package
_LENGTHS = range(25, 300)  # characters of a text
_MARKUP = re.compile(r":\w+:`~?([^`]+)`|[`*]+")


def write_docstrings(path: Path) -> Path:
    """Write a CSV file `text,label` with up to 300 texts of each package. An existing file is kept.

    Raises
    ------
    DatasetError
        A package is installed without its sources.
    """
    if path.exists():
        return path
    rows = dict[str, str]()  # a text that two packages have is the first one's
    for module, label in PACKAGES.items():
        known = {text.lower() for text in rows}
        rows |= {text: label for text in _texts(module) if text.lower() not in known}
    table = io.StringIO(newline="")
    csv.writer(table).writerows([("text", "label"), *rows.items()])
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(table.getvalue().encode())
    return path


def _texts(module: str) -> list[str]:
    """Texts of a package, by hash, so that an equal version gives equal texts."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise DatasetError(f"the texts of the demo are docstrings, and {module} is not installed with its sources")
    root = Path(spec.submodule_search_locations[0])
    files = sorted(
        (file for file in root.rglob("*.py") if "test" not in file.relative_to(root).as_posix()),
        key=lambda file: _hash(file.relative_to(root).as_posix()),
    )
    texts: set[str] = set()
    for file in files:
        texts.update(text for text in _first_paragraphs(file) if module not in text.lower())
        if len(texts) >= 1.25 * _EACH:
            break
    if len(texts) < _EACH:
        raise DatasetError(f"the texts of the demo are docstrings, and {module} has only {len(texts)}")
    return sorted(texts, key=_hash)[:_EACH]


def _first_paragraphs(file: Path) -> Iterator[str]:
    """Those of the public functions and classes of a file, as plain text in one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in strings
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # a template, or a file for another version of Python
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            paragraph = (ast.get_docstring(node) or "").partition("\n\n")[0]
            text = " ".join(_MARKUP.sub(r"\1", paragraph).split())
            if len(text) in _LENGTHS:
                yield text


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
