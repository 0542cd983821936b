"""A frozen network converted to OpenVINO: the same features, two to three times as fast on CPUs.

OpenVINO folds normalization and BatchNorm into the convolutions and stores activations in a layout for the CPU. The
conversion takes seconds, so it is cached in the user's cache folder, under a name that depends on everything that
decides it. Reading it takes a tenth of a second and no PyTorch.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.files import draft_folder
from featcache._utils.locks import lock_folder
from featcache._utils.telemetry import import_openvino
from featcache.backbones.engines.base import PendingFeatures
from featcache.core.specs import Precision
from featcache.errors import first_line

if TYPE_CHECKING:
    from featcache.backbones.feature_extractor import FeatureExtractor
    from featcache.data.sample_loader import Inputs

_VIEWS_AT_ONCE = 8
"""Per stream: the activations of 8 views stay in the cache of a core (32 took a tenth to a quarter longer)."""

MAX_COSINE_DISTANCE = {"fp32": 1e-4, "bf16": 1e-2}
"""Largest allowed cosine distance between converted features and PyTorch's in fp32, on pictures harder than photos. If
PyTorch itself is farther from fp32 at this precision, as for means near 0, the limit is twice PyTorch's distance."""

_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoEngine:
    """A converted network, in the number of streams that OpenVINO recommends, with a thread each.

    Parameters
    ----------
    extractor : returns the network; called only if there is no cached conversion.
    path : file of the cached conversion; None to cache none.

    Raises
    ------
    RuntimeError : OpenVINO cannot convert this network, or returns other features.
    """

    note = ""

    def __init__(
        self, extractor: Callable[[], FeatureExtractor], image_size: int, precision: Precision, path: Path | None
    ) -> None:
        core = import_openvino().Core()
        settings = {"INFERENCE_PRECISION_HINT": _PRECISIONS[precision], "PERFORMANCE_HINT": "THROUGHPUT"}
        if (model := _read(core, path)) is not None:
            self._start(core.compile_model(model, "CPU", settings), image_size)
        else:
            network = extractor()
            model = _convert(network, image_size)
            with _draft(model, path) as draft:
                if draft:  # as later runs do: the model in memory can round differently
                    model = core.read_model(draft)
                self._start(core.compile_model(model, "CPU", settings), image_size)
                self._check(network, image_size, MAX_COSINE_DISTANCE[precision])
                if draft and path:
                    _save(draft, path)

    def _start(self, compiled: Any, image_size: int) -> None:
        self._streams = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self.max_in_flight = 2 * self._streams * _VIEWS_AT_ONCE
        self._pool = ThreadPoolExecutor(self._streams, thread_name_prefix="openvino")
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self._streams):
            self._requests.put(compiled.create_infer_request())
        # OpenVINO's binding initializes a static under the GIL: two threads that do so at once deadlock.
        self._infer(np.zeros((1, image_size, image_size, 3), np.uint8))

    def _check(self, network: FeatureExtractor, image_size: int, max_distance: float) -> None:
        """Compare the features of a few pictures with PyTorch's: a trace does not see every branch."""
        pixels = _noise_pictures(image_size)
        exact = network.embed(pixels, "fp32")
        for converted, original, expected in zip(self.submit(pixels)(), network.embed(pixels), exact, strict=True):
            norms = np.linalg.norm(expected, axis=1)
            if not (abs(np.linalg.norm(converted, axis=1) - norms) <= 0.1 * norms).all():
                raise RuntimeError("its features have other sizes")
            distance = _cosine_distance(converted, expected)
            if distance > max(max_distance, 2 * _cosine_distance(original, expected)):
                raise RuntimeError(f"its features differ: cosine {1 - distance:.4f}")

    def submit(self, pixels: Inputs) -> PendingFeatures:
        """See `Engine`."""
        pixels = np.asarray(pixels)
        size = min(_VIEWS_AT_ONCE, max(_VIEWS_AT_ONCE // 2, -(-len(pixels) // self._streams)))
        starts = range(0, len(pixels), size)
        batches = [self._pool.submit(self._infer, pixels[start : start + size]) for start in starts]
        return lambda: [np.concatenate(layer) for layer in zip(*(batch.result() for batch in batches), strict=True)]

    def _infer(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        request = self._requests.get()
        try:
            request.infer({0: pixels}, share_inputs=True)
            return [np.array(tensor.data, dtype=np.float32) for tensor in request.output_tensors]
        finally:
            self._requests.put(request)


def _cosine_distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """The largest cosine distance between corresponding rows, each (b, d)."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.where(norms > 0, (a * b).sum(axis=1) / np.maximum(norms, 1e-30), 1)
    return float(1 - cosine.min())


def _convert(network: FeatureExtractor, image_size: int) -> Any:
    """Convert with the frontend: `openvino.convert_model` would send usage data."""
    import_openvino()
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    example = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    frontend = FrontEndManager().load_by_framework("pytorch")
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch.jit.trace: it is deprecated, and the trace has constants
            decoder = TorchScriptPythonDecoder(network, example_input=example)  # must outlive the conversion
            model = frontend.convert(frontend.load(decoder))
        model.reshape([-1, image_size, image_size, 3])
    except Exception as error:  # tracing and converting raise any type
        raise RuntimeError(first_line(error)) from error
    return model


def _noise_pictures(size: int) -> NDArray[np.uint8]:
    """Four pictures (4, size, size, 3) of noise on a coarse grid, which is as smooth as photos."""
    cell = max(1, size // 14)
    grid = np.random.default_rng(0).integers(0, 256, (4, -(-size // cell), -(-size // cell), 3), dtype=np.uint8)
    return grid.repeat(cell, axis=1).repeat(cell, axis=2)[:, :size, :size].copy()


def _files(path: Path) -> tuple[Path, Path, Path]:
    """Files of graph, weights, and the hash of both, which is written last."""
    return path, path.with_suffix(".bin"), path.with_suffix(".sha256")


def _hash(graph: Path, weights: Path) -> str:
    digests = []
    for file in (graph, weights):
        with file.open("rb") as raw:
            digests.append(hashlib.file_digest(raw, "sha256").hexdigest())
    return " ".join(digests)


def _is_valid(path: Path) -> bool:
    """Whether a conversion exists and has its hash."""
    graph, weights, digest = _files(path)
    try:
        return digest.read_text(encoding="ascii") == _hash(graph, weights)
    except (OSError, ValueError):
        return False


def _read(core: Any, path: Path | None) -> Any:
    """A cached conversion; None if there is no valid one."""
    if path is None:
        return None
    with lock_folder(path.parent, shared=True):  # `_save` of another process replaces three files
        return core.read_model(path) if _is_valid(path) else None


@contextmanager
def _draft(model: Any, path: Path | None) -> Iterator[Path | None]:
    """The model in a temporary folder beside `path`; None if nothing can be written there."""
    with ExitStack() as stack:
        try:
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                folder = stack.enter_context(draft_folder(path))
            else:
                folder = Path(stack.enter_context(TemporaryDirectory(ignore_cleanup_errors=True)))
            draft = folder / "network.xml"
            import_openvino().save_model(model, draft, compress_to_fp16=False)
        except (OSError, RuntimeError):
            draft = None
        yield draft


def _save(draft: Path, path: Path) -> None:
    """Move a draft to its path, the hash last. If the folder cannot be written, the next run converts again."""
    graph, weights, digest = _files(draft)
    with suppress(OSError):
        digest.write_text(_hash(graph, weights), encoding="ascii")
        with lock_folder(path.parent):
            for file, target in zip((graph, weights, digest), _files(path), strict=True):
                file.replace(target)
