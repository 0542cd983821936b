"""`progress=True`: a bar of tqdm on stderr, or a widget in a notebook, for functions of the library."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

Progress = Callable[[str, int, int], None]
"""Called as progress(what, done, total)."""

ProgressOption = Progress | bool | None
"""Of public functions. True shows a bar; a callable is called as progress(what, done, total)."""


def as_callback(progress: ProgressOption) -> Progress | None:
    """The callback to report to: one that draws a bar for True, None for False."""
    if isinstance(progress, bool):
        return _Bar() if progress else None
    return progress


def _tqdm() -> Any:
    """A widget in a notebook with ipywidgets, else a bar of text, without tqdm's advice to install ipywidgets."""
    from tqdm import TqdmWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TqdmWarning)
        from tqdm.auto import tqdm
    return tqdm


class _Bar:
    """A callback that draws a bar for each step; a clock for one whose total is 0, as it is not known."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._what = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._bar is not None and what != self._what:
            self._close()
        if self._bar is None:
            self._bar, self._what = _tqdm()(total=total or None, desc=what, unit="", dynamic_ncols=True), what
        self._bar.total = total or None
        self._bar.update(done - self._bar.n)
        if done >= total > 0:
            self._close()

    def _close(self) -> None:
        self._bar.close()
        self._bar = None
