"""Options in NumPy docstrings: the name of a type, and paragraphs in the place of a line."""

from __future__ import annotations

import textwrap
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

UNIONS = (types.UnionType, Union)  # of classes, and of a Literal

PLACEHOLDER = "{options}"
"""The line of a docstring that `insert_paragraphs` replaces."""


_WIDTH = 108


def describe_parameter(name: str, kind: Any, default: object, description: str) -> str:
    """The paragraph of a parameter in a NumPy docstring, without indentation."""
    return "\n    ".join([f"{name} : {type_name(kind)}, default {default!r}", *textwrap.wrap(description, _WIDTH)])


def insert_paragraphs(text: str | None, paragraphs: Iterable[str]) -> str | None:
    """The docstring with these paragraphs in the place of the placeholder."""
    if text is None:  # python -OO
        return None
    lines = []
    for line in text.splitlines():
        if line.strip() != PLACEHOLDER:
            lines.append(line)
            continue
        indent = line[: len(line) - len(line.lstrip())]
        lines += [indent + each for paragraph in paragraphs for each in paragraph.splitlines()]
    return "\n".join(lines)


def type_name(kind: Any) -> str:
    """A type as NumPy docstrings write it."""
    if get_origin(kind) is Literal:
        return "{" + ", ".join(repr(value) for value in get_args(kind)) + "}"
    if get_origin(kind) in UNIONS:
        return " or ".join(type_name(part) for part in get_args(kind))
    if kind is type(None):
        return "None"
    if get_origin(kind) in (tuple, Sequence):
        return f"{get_origin(kind).__name__.lower()} of {type_name(get_args(kind)[0])}"
    if get_origin(kind) is Mapping:
        return "mapping of " + " to ".join(map(type_name, get_args(kind)))
    return str(getattr(kind, "__name__", kind))
