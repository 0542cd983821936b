"""What every benchmark writes down beside its figures: the machine, the versions and the commit."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from featcache.report import machine, versions

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def commit() -> str:
    """The commit that is measured, marked where the tree differs from it. Ask before the run."""
    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()


def write(name: str, figures: dict[str, Any], measured: str) -> None:
    """Print the figures and write them to results/NAME.json. measured : the commit."""
    text = json.dumps({**figures, "machine": machine(), "versions": {**versions(), "commit": measured}}, indent=1)
    print(text)
    (RESULTS / f"{name}.json").write_text(text + "\n")
