"""Names of the models of timm and torchvision, read from the source code of the packages.

Each model is registered there by a decorator. Importing the packages would take seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_REGISTERED = re.compile(r"^@register_model\b.*\n(?:@.*\n)*def (\w+)", re.MULTILINE)


@cache
def registered_names(package: str) -> tuple[str, ...]:
    """The names of all models of timm or torchvision, sorted; empty if the source code is not available."""
    return tuple(sorted({name for text in _source_texts(package) for name in _REGISTERED.findall(text)}))


def is_mentioned(package: str, name: str) -> bool:
    """Whether the source code contains a name: deprecated names are in a table, without a decorator."""
    word = re.compile(rf"\b{re.escape(name)}\b")
    return any(word.search(text) for text in _source_texts(package))


def _source_texts(package: str) -> Iterator[str]:
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder, "models").glob("*.py")):
            yield path.read_text(encoding="utf-8", errors="replace")
