"""`run_example`: an exported model used as a reader of its example would, in a fresh interpreter without featcache."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ExportError

_CHECK = "featcache-check"  # folder beside the exported file
_ALONE = f"""
import runpy
import sys

import numpy as np

for name in ("one", "all"):
    sys.argv[1:] = [f"{_CHECK}/{{name}}.npy"]
    np.save(f"{_CHECK}/{{name}}-logits.npy", runpy.run_path("{_CHECK}/example.py")["logits"])
if "featcache" in sys.modules:
    sys.exit("the example needs featcache")
"""


def make_pictures(side: int) -> NDArray[np.uint8]:
    """Four pictures of noise (4, side, side, 3), as smooth as photos."""
    cells = 14
    grid = np.random.default_rng(0).integers(0, 256, (4, cells, cells, 3), dtype=np.uint8)
    place = np.arange(side) * cells // side
    return grid[:, place[:, None], place]


def run_example(example: str, folder: Path, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The logits of the first picture, given alone, and then those of all, given together: shape (1 + b, c).

    Parameters
    ----------
    example : a whole program, so that what a user is shown is what was run. It takes the name of a .npy file, and has
        `logits` when it ends. folder : the exported file lies here, under the name that the example gives it.
    pictures : (b, height, width, 3).

    Raises
    ------
    ExportError : the example fails.
    """
    check = folder / _CHECK
    check.mkdir()
    np.save(check / "one.npy", pictures[:1])
    np.save(check / "all.npy", pictures)
    (check / "example.py").write_text(example, encoding="utf-8")
    line = [sys.executable, "-P", "-c", _ALONE]  # -P: packages from where they are installed, not from this folder
    ran = subprocess.run(line, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    if ran.returncode:
        said = ran.stderr.strip().rpartition("\n")[2]
        raise ExportError(f"the exported model does not run in a process of its own ({said}). Nothing was written.")
    return np.concatenate([np.load(check / f"{name}-logits.npy") for name in ("one", "all")])
