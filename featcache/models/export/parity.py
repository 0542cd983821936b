"""`run_example`: run the program of an exported model as its reader would, in a fresh process without featcache."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ExportError
from featcache.vision.image_files import write_png

_FOLDER = "featcache-check"  # beside the exported file
_RUN = f"""
import runpy
import sys

import numpy as np

program, *images = sys.argv[1:]
for name, arguments in (("first", images[:1]), ("all", images)):
    sys.argv = [program, *arguments]
    np.save(f"{_FOLDER}/{{name}}-logits.npy", runpy.run_path(program)["logits"])
if "featcache" in sys.modules:
    sys.exit("the example needs featcache")
"""


def noise_images(side: int) -> NDArray[np.uint8]:
    """Four images of noise, shape (4, side, side, 3), as smooth as photos."""
    cells = 14
    grid = np.random.default_rng(0).integers(0, 256, (4, cells, cells, 3), dtype=np.uint8)
    cell_of_pixel = np.arange(side) * cells // side
    return grid[:, cell_of_pixel[:, None], cell_of_pixel]


def run_example(text: str, exported: Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The logits of the first image, given alone, and then those of all, given together: shape (1 + b, c).

    Parameters
    ----------
    text : str
        The whole program, so that exactly what a user gets is run. It takes paths of images as arguments, and its
        global variable `logits` holds the result.
    exported : Path
        The file that the program loads. The program is written beside it, with .py at the end of its name.
    images : ndarray, shape (b, height, width, 3), uint8

    Raises
    ------
    ExportError
        The program fails.
    """
    folder, program = exported.parent / _FOLDER, Path(f"{exported}.py")
    folder.mkdir()
    names = [f"{_FOLDER}/{number}.png" for number in range(len(images))]
    for name, image in zip(names, images, strict=True):
        write_png(image, exported.parent / name)
    program.write_text(text, encoding="utf-8")
    command = [sys.executable, "-P", "-c", _RUN, program.name, *names]  # -P: import no module from this folder
    process = subprocess.run(
        command, cwd=exported.parent, capture_output=True, text=True, errors="replace", check=False
    )
    if process.returncode:
        last_line = process.stderr.strip().rpartition("\n")[2]
        raise ExportError(f"the exported model does not run in a fresh process ({last_line}). Nothing was written.")
    return np.concatenate([np.load(folder / f"{name}-logits.npy") for name in ("first", "all")])
