"""`run_example`: an exported model used as a reader of its example would, in a fresh interpreter without featcache."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ExportError
from featcache.vision.decode import write_png

_CHECK = "featcache-check"  # folder beside the exported file
_ALONE = f"""
import runpy
import sys

import numpy as np

program, *pictures = sys.argv[1:]
for name, given in (("one", pictures[:1]), ("all", pictures)):
    sys.argv = [program, *given]
    np.save(f"{_CHECK}/{{name}}-logits.npy", runpy.run_path(program)["logits"])
if "featcache" in sys.modules:
    sys.exit("the example needs featcache")
"""


def make_pictures(side: int) -> NDArray[np.uint8]:
    """Four pictures of noise (4, side, side, 3), as smooth as photos."""
    cells = 14
    grid = np.random.default_rng(0).integers(0, 256, (4, cells, cells, 3), dtype=np.uint8)
    place = np.arange(side) * cells // side
    return grid[:, place[:, None], place]


def run_example(example: str, exported: Path, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The logits of the first picture, given alone, and then those of all, given together: shape (1 + b, c).

    Parameters
    ----------
    example : a whole program, so that what a user gets is what was run. It takes the names of images, and has `logits`
        when it ends.
    exported : the file that the program loads. The program is written beside it, with .py at the end of its name.
    pictures : (b, height, width, 3).

    Raises
    ------
    ExportError : the example fails.
    """
    check, program = exported.parent / _CHECK, Path(f"{exported}.py")
    check.mkdir()
    names = [f"{_CHECK}/{place}.png" for place in range(len(pictures))]
    for name, picture in zip(names, pictures, strict=True):
        write_png(picture, exported.parent / name)
    program.write_text(example, encoding="utf-8")
    line = [sys.executable, "-P", "-c", _ALONE, program.name, *names]  # -P: no package from this folder
    ran = subprocess.run(line, cwd=exported.parent, capture_output=True, text=True, errors="replace", check=False)
    if ran.returncode:
        said = ran.stderr.strip().rpartition("\n")[2]
        raise ExportError(f"the exported model does not run in a process of its own ({said}). Nothing was written.")
    return np.concatenate([np.load(check / f"{name}-logits.npy") for name in ("one", "all")])
