"""Base classes of results: as JSON values, as text for people, and in a notebook."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from featcache._utils.formatting import json_safe
from featcache._utils.notebook_html import text_block

_MAX_REPR = 100  # characters


class Result:
    """Base class of dataclasses that hold results.

    A class whose JSON has other names than its fields, or more, overrides `_json_fields`.
    """

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values: text for paths, lists for tuples, None for NaN and infinities."""
        return {name: json_safe(value) for name, value in self._json_fields().items()}

    def _json_fields(self) -> dict[str, Any]:
        """Name to value, in the order of the JSON. The values need not be JSON values."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]


def as_records(rows: Iterable[Sequence[Any]], *names: str) -> list[dict[str, Any]]:
    """Tuples as JSON objects, such as (image, reason) as {"path": image, "reason": reason}."""
    return [dict(zip(names, row, strict=True)) for row in rows]


class NotebookResult:
    """Base class of results whose `str()` is a text for people.

    A notebook shows that text, or what the class returns from `_repr_html_`; `repr` is its beginning, on one line.
    Dataclasses need `repr=False`.
    """

    def _repr_html_(self) -> str:
        return text_block(str(self))

    def __repr__(self) -> str:
        lines = [line.strip() for line in str(self).splitlines() if line.strip()]
        text = " ".join(lines)
        short = text if len(text) <= _MAX_REPR else text[: _MAX_REPR - 3].rstrip() + "..."
        return f"<{type(self).__name__}: {short}>"
