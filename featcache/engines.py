"""A frozen network converted to OpenVINO: the same features, two to three times as fast on CPUs.

OpenVINO folds normalisation and BatchNorm into the convolutions and keeps its activations in the machine's own layout.
The conversion takes seconds, so it is kept in the user's cache folder, named by all that it depends on.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from featcache.spec import Precision
from featcache.weights import first_line

EngineName = Literal["auto", "pytorch", "openvino"]

Engine = Callable[[NDArray[np.uint8]], list[NDArray[np.float32]]]
"""From pixels (b, s, s, 3), uint8, to the features (b, d), float32, of each layer."""

WORTHWHILE_VIEWS = 700
"""From here on the time that the faster passes save exceeds that of a conversion (3 to 5 s, measured)."""

_VIEWS_AT_ONCE = 8
"""In one stream: activations of so many stay near the core (32 cost a tenth to a quarter more, measured)."""

_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


def openvino_is_there() -> bool:
    """Whether OpenVINO is installed; it is not imported."""
    return importlib.util.find_spec("openvino") is not None


def conversion_path(folder: Path, *identity: object) -> Path:
    """Where the conversion of a network lies; `identity` is all that decides it."""
    versions = [importlib.metadata.version(package) for package in ("openvino", "torch", "featcache")]
    name = hashlib.sha256(repr((identity, versions)).encode()).hexdigest()
    return folder / f"{name[:32]}.xml"


def openvino_engine(module: nn.Module, image_size: int, precision: Precision, path: Path) -> Engine:
    """Convert a network, or load its conversion.

    Parameters
    ----------
    module : from pixels (b, s, s, 3), uint8, to a tuple of features (b, d), float32.
    path : where the conversion is kept.

    Raises
    ------
    RuntimeError : OpenVINO cannot take this network.
    """
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": _PRECISIONS[precision], "PERFORMANCE_HINT": "THROUGHPUT"}
    try:
        compiled = core.compile_model(core.read_model(path), "CPU", settings)
    except RuntimeError:  # not there, or damaged
        model = _convert(module, image_size)
        _keep(model, path)
        compiled = core.compile_model(model, "CPU", settings)

    streams = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
    queue = openvino.AsyncInferQueue(compiled, streams)
    parts: list[list[NDArray[np.float32]]] = []

    def keep(request: Any, place: int) -> None:
        parts[place] = [np.array(tensor.data, dtype=np.float32) for tensor in request.output_tensors]

    queue.set_callback(keep)

    def run(pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        size = max(1, min(_VIEWS_AT_ONCE, -(-len(pixels) // streams)))
        starts = range(0, len(pixels), size)
        parts[:] = [[] for _ in starts]
        for place, start in enumerate(starts):
            queue.start_async({0: pixels[start : start + size]}, place)
        queue.wait_all()
        return [np.concatenate(layer) for layer in zip(*parts, strict=True)]

    return run


def _convert(module: nn.Module, image_size: int) -> Any:
    """By the frontend itself: `openvino.convert_model` would report its use to its makers."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    example = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    frontend = FrontEndManager().load_by_framework("pytorch")
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch.jit.trace, about its own end and about constants in the trace
            decoder = TorchScriptPythonDecoder(module, example_input=example)  # must outlive the conversion
            model = frontend.convert(frontend.load(decoder))
        model.reshape([-1, image_size, image_size, 3])
    except Exception as error:  # tracing and converting raise whatever they like
        raise RuntimeError(first_line(error)) from error
    return model


def _keep(model: Any, path: Path) -> None:
    """Save the conversion, whole or not at all; a folder that cannot be written costs the time of the next one."""
    import openvino

    draft = path.with_name(f"{path.stem}.{os.getpid()}.xml")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        openvino.save_model(model, draft, compress_to_fp16=False)
        os.replace(draft.with_suffix(".bin"), path.with_suffix(".bin"))
        os.replace(draft, path)
    except (OSError, RuntimeError):
        for leftover in (draft, draft.with_suffix(".bin")):
            with suppress(OSError):
                leftover.unlink()
