"""benchmarks/gpu.py runs without a GPU in its smallest form, so that it works when there is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from commands import PATHS, ROOT

STEPS = (
    "views",
    "features",
    "waits",
    "extract",
    "train",
    "heads",
    "memory",
    "forward",
    "tutorial",
    "loader",
    "compiled",
)
"""All but "tests", which run here anyway."""


def write_photos(folder: Path) -> Path:
    chance = np.random.default_rng(0)
    for number in range(16):
        path = folder / f"train/{'ab'[number % 2]}/{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chance.integers(0, 256, (90, 100, 3), np.uint8)).save(path)
    return folder


def test_every_step_gives_figures(tmp_path: Path) -> None:
    photos, out = write_photos(tmp_path / "photos"), tmp_path / "gpu.json"
    line = [sys.executable, str(ROOT / "benchmarks/gpu.py"), str(photos), "--small", "--device", "cpu"]
    line += ["--out", str(out), "--steps", *STEPS]
    ran = subprocess.run(line, env={**os.environ, "PYTHONPATH": PATHS}, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    figures = json.loads(out.read_text())
    assert [name for name in STEPS if "failed" in figures[name]] == []
    assert figures["images"] == 24
    assert figures["features"]["resnet18 fp32, least cosine"] > 0.99999
    (name,) = (name for name in figures["forward"] if name.startswith("resnet18 pytorch "))  # and the precision
    median, least, most = figures["forward"][name]["views/s"]
    assert 0 < least <= median <= most
    assert figures["heads"]["largest difference of a coefficient"] == 0
