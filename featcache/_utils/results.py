"""Base classes of results: as JSON values, as text for people, and in a notebook."""

from __future__ import annotations

import dataclasses
from html import escape
from typing import Any

from featcache._utils.formatting import json_safe

_MAX_REPR = 100  # characters


class Result:
    """Base class of dataclasses that hold results."""

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, as JSON values."""
        return {field.name: json_safe(getattr(self, field.name)) for field in dataclasses.fields(self)}  # type: ignore[arg-type]


class NotebookResult:
    """Base class of results whose `str()` is a text for people.

    A notebook shows that text; `repr` is its beginning, on one line. Dataclasses need `repr=False`.
    """

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def __repr__(self) -> str:
        lines = [line.strip() for line in str(self).splitlines() if line.strip()]
        text = " ".join(lines)
        short = text if len(text) <= _MAX_REPR else text[: _MAX_REPR - 3].rstrip() + "..."
        return f"<{type(self).__name__}: {short}>"
