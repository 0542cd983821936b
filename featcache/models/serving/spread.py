"""`spread`: a few examples of many files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def spread(paths: Sequence[Path], limit: int) -> list[Path]:
    """At most `limit` paths, evenly spread. Paths are sorted by folder, so that each class is represented."""
    step = max(1.0, len(paths) / limit)
    return [paths[int(index * step)] for index in range(min(limit, len(paths)))]
