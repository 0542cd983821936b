"""The notebooks run from top to bottom, and are saved with outputs that are fit to read."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from nbformat import NotebookNode

from commands import PATHS, ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
MAX_BYTES = 600_000


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_notebooks", ROOT / "docs" / "run_notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def streams(notebook: NotebookNode) -> str:
    return "".join(output.text for output in outputs(notebook) if output.output_type == "stream")


def test_there_is_a_notebook() -> None:
    assert NOTEBOOKS


def test_a_notebook_runs(runner: ModuleType, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", PATHS)
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("[40:]", "[12:]")  # fewer images of each class
    runner.execute(notebook, tmp_path)
    shown = streams(notebook)
    assert "Warning" not in shown
    assert "ipywidgets" not in shown
    assert "extract: 100%" in shown
    drawing = [cell for cell in notebook.cells if "featcache.plot_" in cell.source]
    assert len(drawing) >= 4
    for cell in drawing:
        assert any("image/png" in output.get("data", {}) for output in cell.outputs), cell.source
    tables = [output for output in outputs(notebook) if "<table" in output.get("data", {}).get("text/html", "")]
    assert len(tables) >= 3  # doctor, fit_head, predictions


def test_a_notebook_is_saved_with_outputs_that_are_fit_to_read(runner: ModuleType, path: Path) -> None:
    """If this fails, run docs/run_notebooks.py."""
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < MAX_BYTES
    assert re.findall(r"(?<![\w.])/(?:work|tmp|home|root|Users)/", text) == []
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert all(cell.outputs for cell in code)
    assert "\r" not in streams(notebook)
    assert not any(cell.metadata for cell in notebook.cells)


def test_of_a_progress_bar_the_last_state_is_left(runner: ModuleType) -> None:
    text = "extract: 0%\rextract: 50%\rextract: 100%|##| 4/4 [04:12<00:00, 1.57/s]\n\nhash: 0%\r\rhash: 100%\r\n"
    pieces = [nbformat.v4.new_output("stream", name="stderr", text=piece) for piece in (text[:20], text[20:])]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=pieces)])
    runner.tidy(notebook)
    (output,) = notebook.cells[0].outputs
    assert output.text == "extract: 100%|##| 4/4\nhash: 100%\n"
