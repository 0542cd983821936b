"""`NotebookResult`: how results look in a notebook and at Python's prompt."""

from __future__ import annotations

from html import escape

_LONGEST = 100


class NotebookResult:
    """Base class of results whose `str()` is a text for people.

    A notebook shows that text; `repr` is its beginning, on one line. Dataclasses need `repr=False`.
    """

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def __repr__(self) -> str:
        lines = [line.strip() for line in str(self).splitlines() if line.strip()]
        text = " ".join(lines)
        short = text if len(text) <= _LONGEST else text[: _LONGEST - 3].rstrip() + "..."
        return f"<{type(self).__name__}: {short}>"
