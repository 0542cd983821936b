"""Helpers of all benchmarks: measure time, summarize, and write figures with machine, versions and commit."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from featcache._utils.environment import machine_info, package_versions

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def commit() -> str:
    """The current commit, with "-dirty" if files outside results differ from it. Call it before the run."""

    def git(*arguments: str) -> str:
        line = ["git", "-C", str(HERE), *arguments]
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)benchmarks/results")
    return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")


def seconds(job: Callable[[], Any]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


def spread(values: Sequence[float]) -> list[float]:
    """Median, minimum and maximum, to four digits."""
    return [float(f"{value:.4g}") for value in (median(values), min(values), max(values))]


def read(name: str) -> dict[str, Any]:
    """The figures of results/NAME.json, without machine and versions; none if there is no such file."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return {key: value for key, value in found.items() if key not in ("machine", "versions")}


def write(name: str, figures: dict[str, Any], measured: str) -> None:
    """Print the figures and write them to results/NAME.json. measured : the commit."""
    text = json.dumps(_with_origin(figures, measured), indent=1)
    print(text)
    (RESULTS / f"{name}.json").write_text(text + "\n")


def write_part(name: str, part: str, figures: dict[str, Any], measured: str) -> None:
    """Print the figures and write them to a part of results/NAME.json, with their own machine and commit.

    The other figures in the file stay as they are.
    """
    path, figures = RESULTS / f"{name}.json", _with_origin(figures, measured)
    print(json.dumps(figures, indent=1))
    path.write_text(json.dumps({**json.loads(path.read_text()), part: figures}, indent=1) + "\n")


def _with_origin(figures: dict[str, Any], measured: str) -> dict[str, Any]:
    return {**figures, "machine": machine_info(), "versions": {**package_versions(), "commit": measured}}
