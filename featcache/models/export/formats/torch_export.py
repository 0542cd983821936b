"""`torch-export`: a graph for PyTorch."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.models.export.registry import EXPORT_FORMATS, ExampleCode, ExportFormat

if TYPE_CHECKING:
    from featcache.heads.linear_layer import LinearWeights
    from featcache.models.load import SavedModel

NAME = "torch-export"

_LOAD = "model = torch.export.load(MODEL).module()\n"
_PREDICT = """with torch.inference_mode():
    logits, probabilities = model({inputs})
"""


def write_torch_export(saved: SavedModel, last: LinearWeights, path: Path) -> ExampleCode:
    """Write a graph for PyTorch. Raises ExportError."""
    import torch

    from featcache.models.export.graph import exporting, graph_metadata, graph_module
    from featcache.models.export.inputs.registry import input_of

    model_input = input_of(saved.card)
    module, example = graph_module(saved, last)
    axes = tuple(dict.fromkeys(each, torch.export.Dim.DYNAMIC) for each in model_input.dynamic_axes)
    with exporting(saved, NAME):
        program = torch.export.export(module, example, dynamic_shapes=(axes,))
        buffer = BytesIO()  # to a file, PyTorch would abort the process where the disk is full
        torch.export.save(program, buffer, extra_files={"metadata.json": json.dumps(graph_metadata(saved.card))})
        path.write_bytes(buffer.getbuffer())
    inputs = ", ".join(f"torch.from_numpy({name})" for name in model_input.names)
    return ExampleCode("import torch", _PREDICT.format(inputs=inputs), load=_LOAD)


def _notes() -> tuple[str, ...]:
    import torch

    return (f"written by PyTorch {torch.__version__}; other versions may not read it",)


EXPORT_FORMATS.register(NAME, ExportFormat(write_torch_export, notes=_notes))
