"""`OpenVinoNetwork`: a frozen network in OpenVINO: the same features, faster on CPUs.

OpenVINO folds normalization and BatchNorm into the convolutions and stores activations in a layout for the CPU. The
conversion takes seconds, so it is cached in the user's cache folder, under a name that depends on everything that
decides it. Reading it takes a tenth of a second and no PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.telemetry import import_openvino
from featcache.backbones.engines import openvino_files
from featcache.core.specs import Precision

Layers = Sequence[NDArray[np.float32]]
"""Features (b, d) of each layer."""

MAX_COSINE_DISTANCE = {"fp32": 1e-4, "fp16": 1e-3, "bf16": 1e-2}
"""Largest allowed cosine distance between converted features and PyTorch's in fp32, on inputs harder than usual ones.
If PyTorch itself is farther from fp32 at this precision, as for means near 0, the limit is twice PyTorch's distance."""

_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoNetwork:
    """A converted network, in the number of streams that OpenVINO recommends, with a thread each.

    Parameters
    ----------
    path : file of the cached conversion; None to cache none.
    convert : returns the converted network; called only if there is no cached conversion.
    check : raises RuntimeError if the features of this object are not those of PyTorch; called before they are cached.
    smallest : the smallest inputs, which are computed once.

    Attributes
    ----------
    streams : number of batches that are computed at the same time.

    Raises
    ------
    RuntimeError : OpenVINO cannot convert this network, or returns other features.
    """

    def __init__(
        self,
        path: Path | None,
        precision: Precision,
        *,
        convert: Callable[[], Any],
        check: Callable[[OpenVinoNetwork], None],
        smallest: Sequence[NDArray[Any]],
    ) -> None:
        core = import_openvino().Core()
        settings = {"INFERENCE_PRECISION_HINT": _PRECISIONS[precision], "PERFORMANCE_HINT": "THROUGHPUT"}
        if (model := openvino_files.read(core, path)) is not None:
            self._start(core.compile_model(model, "CPU", settings), smallest)
            return
        model = convert()
        with openvino_files.draft(model, path) as draft:
            if draft:  # as later runs do: the model in memory can round differently
                model = core.read_model(draft)
            self._start(core.compile_model(model, "CPU", settings), smallest)
            check(self)
            if draft and path:
                openvino_files.save(draft, path)

    def _start(self, compiled: Any, smallest: Sequence[NDArray[Any]]) -> None:
        self.streams = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._pool = ThreadPoolExecutor(self.streams, thread_name_prefix="openvino")
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self.streams):
            self._requests.put(compiled.create_infer_request())
        # OpenVINO's binding initializes a static under the GIL: two threads that do so at once deadlock.
        self._infer(smallest)

    def submit(self, inputs: Sequence[NDArray[Any]], /) -> Future[Layers]:
        """Start on one batch. It returns the features of each layer."""
        return self._pool.submit(self._infer, inputs)

    def _infer(self, inputs: Sequence[NDArray[Any]]) -> Layers:
        request = self._requests.get()
        try:
            request.infer(dict(enumerate(inputs)), share_inputs=True)
            return [np.array(tensor.data, dtype=np.float32) for tensor in request.output_tensors]
        finally:
            self._requests.put(request)


def compare_features(converted: Layers, original: Layers, exact: Layers, precision: Precision) -> None:
    """Raise RuntimeError if a conversion has other features than PyTorch: a trace does not see every branch.

    Parameters
    ----------
    original, exact : features of PyTorch, at this precision and in fp32.
    """
    for features, rounded, expected in zip(converted, original, exact, strict=True):
        norms = np.linalg.norm(expected, axis=1)
        if not (abs(np.linalg.norm(features, axis=1) - norms) <= 0.1 * norms).all():
            raise RuntimeError("its features have other sizes")
        distance = _cosine_distance(features, expected)
        if distance > max(MAX_COSINE_DISTANCE[precision], 2 * _cosine_distance(rounded, expected)):
            raise RuntimeError(f"its features differ: cosine {1 - distance:.4f}")


def _cosine_distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """The largest cosine distance between corresponding rows, each (b, d)."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.where(norms > 0, (a * b).sum(axis=1) / np.maximum(norms, 1e-30), 1)
    return float(1 - cosine.min())
