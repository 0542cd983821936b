"""`run_example`: run the program of an exported model as its reader would, in a fresh process without featcache."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ExportError

_FOLDER = "featcache-check"  # beside the exported file
_RUN = f"""
import runpy
import sys

import numpy as np

program, *samples = sys.argv[1:]
for name, arguments in (("first", samples[:1]), ("all", samples)):
    sys.argv = [program, *arguments]
    np.save(f"{_FOLDER}/{{name}}-logits.npy", runpy.run_path(program)["logits"])
if "featcache" in sys.modules:
    sys.exit("the example needs featcache")
"""


def check_folder(exported: Path) -> Path:
    """The folder for the samples and the logits of the check, beside the exported file; it is made."""
    folder = exported.parent / _FOLDER
    folder.mkdir(exist_ok=True)
    return folder


def run_example(text: str, exported: Path, arguments: Sequence[str]) -> NDArray[np.float32]:
    """The logits of the first sample, given alone, and then those of all, given together: shape (1 + b, c).

    Parameters
    ----------
    text : str
        The whole program, so that exactly what a user gets is run. Its global variable `logits` holds the result.
    exported : Path
        The file that the program loads. The program is written beside it, with .py at the end of its name.
    arguments : sequence of str
        Of the program: the b samples.

    Raises
    ------
    ExportError
        The program fails.
    """
    folder, program = check_folder(exported), Path(f"{exported}.py")
    program.write_text(text, encoding="utf-8")
    command = [sys.executable, "-P", "-c", _RUN, program.name, *arguments]  # -P: import no module from this folder
    process = subprocess.run(
        command, cwd=exported.parent, capture_output=True, text=True, errors="replace", check=False
    )
    if process.returncode:
        last_line = process.stderr.strip().rpartition("\n")[2]
        raise ExportError(f"the exported model does not run in a fresh process ({last_line}). Nothing was written.")
    return np.concatenate([np.load(folder / f"{name}-logits.npy") for name in ("first", "all")])
