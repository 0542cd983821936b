"""`onnx`: a graph for ONNX Runtime, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from featcache.errors import ExportError
from featcache.models.export.registry import EXPORT_FORMATS, ExampleCode, ExportFormat

if TYPE_CHECKING:
    from featcache.heads.linear_layer import LinearWeights
    from featcache.models.load import SavedModel

NAME = "onnx"
_MAX_BYTES = 2_000_000_000  # an ONNX file is one protobuf message, which holds at most 2 GiB

_IMPORTS = """import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import, or ONNX Runtime sends usage data

import onnxruntime"""

_LOAD = 'session = onnxruntime.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"])\n'
_PREDICT = 'logits, probabilities = session.run(["logits", "probabilities"], {{{inputs}}})\n'


def write_onnx(saved: SavedModel, last: LinearWeights, path: Path) -> ExampleCode:
    """Write a graph for ONNX Runtime, in one file. Raises ExportError."""
    import torch

    from featcache._utils.formatting import human_bytes
    from featcache.models.export.graph import exporting, graph_metadata, graph_module
    from featcache.models.export.inputs.registry import input_of

    model_input = input_of(saved.card)
    module, example = graph_module(saved, last)
    size = sum(value.nbytes for value in module.state_dict().values())
    if size > _MAX_BYTES:
        raise ExportError(f"an ONNX file holds 2 GB, and this network has {human_bytes(size)}. Use torch-export.")
    with exporting(saved, NAME):
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            dynamic_shapes=(model_input.dynamic_axes,),
            input_names=list(model_input.names),
            output_names=["logits", "probabilities"],
            verbose=False,
        )
        assert program is not None  # it is with dynamo=True
        program.model.metadata_props.update(graph_metadata(saved.card))
        program.save(path, external_data=False)
    inputs = ", ".join(f'"{name}": {name}' for name in model_input.names)
    return ExampleCode(_IMPORTS, _PREDICT.format(inputs=inputs), load=_LOAD)


EXPORT_FORMATS.register(NAME, ExportFormat(write_onnx, packages=("onnx", "onnxscript", "onnxruntime"), extra="onnx"))
