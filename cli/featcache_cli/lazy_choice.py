"""`LazyChoice`: an option that takes one of the names in a registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click


class LazyChoice(click.Choice[str]):
    """A choice of names, which are looked up when an option is parsed or its help is printed."""

    def __init__(self, names: Callable[[], Sequence[str]]) -> None:
        self._names = names
        self.case_sensitive = True

    @property
    def choices(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self._names())
