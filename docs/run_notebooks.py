"""Run the notebooks of docs/notebooks/ from top to bottom, and save them with their outputs.

    python docs/run_notebooks.py

Each runs in an empty folder, and names its files relative to it, so outputs contain no path of this machine.
"""

from __future__ import annotations

import io
import os
import re
import tempfile
from base64 import b64decode, b64encode
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

FOLDER = Path(__file__).parent / "notebooks"
_WIDTH, _COLOURS = 700, 64  # of a picture


def execute(notebook: NotebookNode, folder: Path, timeout_s: int = 1200) -> NotebookNode:
    """Run all cells.

    Parameters
    ----------
    notebook : NotebookNode
        It gets the outputs.
    folder : Path
        An empty folder to run in.
    timeout_s : int, default 1200
        Of each cell.

    Returns
    -------
    NotebookNode
        The notebook.

    Raises
    ------
    CellExecutionError
        A cell failed.
    """
    resources = {"metadata": {"path": str(folder)}}
    return NotebookClient(notebook, timeout=timeout_s, kernel_name="python3", resources=resources).execute(
        env=os.environ
    )


def tidy(notebook: NotebookNode) -> None:
    """Leave what a reader sees: the last state of progress bars, small pictures; no times and names of the machine."""
    language = {"name": "python"}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata = NotebookNode(language_info=language, kernelspec=kernel)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = NotebookNode()
        if cell.cell_type == "code":
            cell.outputs = _merged(cell.outputs)
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                output.text = _last_states(output.text)
                continue
            output.metadata = NotebookNode()
            if "image/png" in output.data:
                output.data = NotebookNode({"image/png": _small(output.data["image/png"])})
            elif "text/html" in output.data:
                output.data["text/html"] = re.sub("made by     (host|date): .*\n", "", output.data["text/html"])


def _merged(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """The outputs, with successive pieces of one stream as one."""
    merged: list[NotebookNode] = []
    for output in outputs:
        last = merged[-1] if merged else None
        if last is not None and output.output_type == "stream" and output.name == last.get("name"):
            last.text += output.text
        else:
            merged.append(output)
    return merged


def _last_states(text: str) -> str:
    """The text as a terminal shows it: a carriage return goes back to the start of the line. Bars have no times."""
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
    return re.sub(r" \[\d+:\d+<.*\]$", "", "\n".join(line for line in lines if line), flags=re.MULTILINE) + "\n"


def _small(png: str) -> str:
    """A picture of at most `_WIDTH` pixels and `_COLOURS` colours."""
    picture = Image.open(io.BytesIO(b64decode(png))).convert("RGB")
    if picture.width > _WIDTH:
        picture = picture.resize((_WIDTH, round(picture.height * _WIDTH / picture.width)), Image.Resampling.LANCZOS)
    target = io.BytesIO()
    picture.quantize(_COLOURS, Image.Quantize.MAXCOVERAGE).save(target, "PNG", optimize=True)
    return b64encode(target.getvalue()).decode()


def main() -> None:
    for path in sorted(FOLDER.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        with tempfile.TemporaryDirectory() as folder:
            execute(notebook, Path(folder))
        tidy(notebook)
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
