"""A frozen network converted to OpenVINO: the same features, two to three times as fast on CPUs.

OpenVINO folds normalisation and BatchNorm into the convolutions and keeps its activations in the machine's own layout.
The conversion takes seconds, so it is kept in the user's cache folder, named by all that it depends on; it is read in
a tenth of a second, without PyTorch.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featcache.engines import Features
from featcache.errors import first_line
from featcache.spec import Precision

if TYPE_CHECKING:
    from featcache.frozen import Frozen

_VIEWS_AT_ONCE = 8
"""In one stream: activations of so many stay near the core (32 cost a tenth to a quarter more, measured)."""

_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoEngine:
    """A converted network, in as many streams as OpenVINO finds best, a thread each.

    Parameters
    ----------
    frozen : gives the network, asked only where it is not converted yet.
    path : where the conversion is kept.

    Raises
    ------
    RuntimeError : OpenVINO cannot take this network.
    """

    def __init__(self, frozen: Callable[[], Frozen], image_size: int, precision: Precision, path: Path) -> None:
        import openvino

        core = openvino.Core()
        settings = {"INFERENCE_PRECISION_HINT": _PRECISIONS[precision], "PERFORMANCE_HINT": "THROUGHPUT"}
        try:
            compiled = core.compile_model(core.read_model(path), "CPU", settings)
        except RuntimeError:  # not there, or damaged
            model = _convert(frozen(), image_size)
            _keep(model, path)
            compiled = core.compile_model(model, "CPU", settings)
        self._streams = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._pool = ThreadPoolExecutor(self._streams, thread_name_prefix="openvino")
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self._streams):
            self._requests.put(compiled.create_infer_request())
        # OpenVINO's binding sets up a static under the GIL: two threads that come first at once wait for each other.
        self._infer(np.zeros((1, image_size, image_size, 3), np.uint8))

    def submit(self, pixels: NDArray[np.uint8]) -> Features:
        """See `Engine`."""
        size = max(1, min(_VIEWS_AT_ONCE, -(-len(pixels) // self._streams)))
        starts = range(0, len(pixels), size)
        parts = [self._pool.submit(self._infer, pixels[start : start + size]) for start in starts]
        return lambda: [np.concatenate(layer) for layer in zip(*(part.result() for part in parts), strict=True)]

    def _infer(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        request = self._requests.get()
        try:
            request.infer({0: pixels}, share_inputs=True)
            return [np.array(tensor.data, dtype=np.float32) for tensor in request.output_tensors]
        finally:
            self._requests.put(request)


def _convert(frozen: Frozen, image_size: int) -> Any:
    """By the frontend itself: `openvino.convert_model` would report its use to its makers."""
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    example = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    frontend = FrontEndManager().load_by_framework("pytorch")
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch.jit.trace, about its own end and about constants in the trace
            decoder = TorchScriptPythonDecoder(frozen, example_input=example)  # must outlive the conversion
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
