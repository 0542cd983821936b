"""`Panel`: the part of the served page that takes a sample of one modality."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Protocol

from featcache.models.classifier import Classifier


@dataclass(frozen=True)
class PanelOptions:
    """What a panel shows and accepts.

    examples : files, folders and globs. top : number of classes to name. max_pixels : of the largest accepted image.
    """

    examples: Iterable[str]
    top: int
    max_pixels: int


class Panel(Protocol):
    """The part of the page that takes a sample. The constructor takes a Classifier and PanelOptions.

    Attributes
    ----------
    head : str
        HTML for the head of the page; may be empty.
    """

    head: str

    def __init__(self, classifier: Classifier, options: PanelOptions, /) -> None: ...

    def warm_up(self) -> None:
        """Load everything before the first request."""

    def build(self, gr: Any, label: Any, uploads: Path, /) -> None:
        """Add the component for a sample to the page that is being built, with the API "/predict".

        gr : the module gradio. label : the component for the answer; it is rendered later. uploads : the folder of
        uploaded files.
        """

    def api(self, url: str, /) -> dict[str, Any]:
        """How a program calls the server at this URL, for `--json`."""


def refused(gr: Any, what: str, reason: str) -> Any:
    """An error that gradio shows on the page and sends to API clients, without printing a traceback."""
    return gr.Error(escape(f"This {what} cannot be read: {reason}.", quote=False), print_exception=False)
