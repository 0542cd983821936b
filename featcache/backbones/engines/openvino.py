"""A frozen network converted to OpenVINO: the same features, two to three times as fast on CPUs.

OpenVINO folds normalisation and BatchNorm into the convolutions and keeps its activations in the machine's own layout.
The conversion takes seconds, so it is kept in the user's cache folder, named by all that it depends on; it is read in
a tenth of a second, without PyTorch.
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

_VIEWS_AT_ONCE = 8
"""In one stream: activations of so many stay near the core (32 cost a tenth to a quarter more, measured)."""

_FAR = {"fp32": 1e-4, "bf16": 1e-2}
"""How far the cosine of a converted network's features with PyTorch's in fp32 may lie below 1, on pictures that are
harder than photos; or where PyTorch's own lie farther at this precision, as means near 0 do, twice as far as those."""

_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoEngine:
    """A converted network, in as many streams as OpenVINO finds best, a thread each.

    Parameters
    ----------
    frozen : gives the network, asked only where it is not converted yet.
    path : where the conversion is kept; None keeps none.

    Raises
    ------
    RuntimeError : OpenVINO cannot take this network, or gives other features.
    """

    def __init__(
        self, frozen: Callable[[], FeatureExtractor], image_size: int, precision: Precision, path: Path | None
    ) -> None:
        core = import_openvino().Core()
        settings = {"INFERENCE_PRECISION_HINT": _PRECISIONS[precision], "PERFORMANCE_HINT": "THROUGHPUT"}
        if (model := _read(core, path)) is not None:
            self._start(core.compile_model(model, "CPU", settings), image_size)
        else:
            network = frozen()
            model = _convert(network, image_size)
            with _saved(model, path) as draft:
                if draft:  # what later runs read: the model in memory can round differently
                    model = core.read_model(draft)
                self._start(core.compile_model(model, "CPU", settings), image_size)
                self._check(network, image_size, _FAR[precision])
                if draft and path:
                    _keep(draft, path)

    def _start(self, compiled: Any, image_size: int) -> None:
        self._streams = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self.appetite = 2 * self._streams * _VIEWS_AT_ONCE
        self._pool = ThreadPoolExecutor(self._streams, thread_name_prefix="openvino")
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self._streams):
            self._requests.put(compiled.create_infer_request())
        # OpenVINO's binding sets up a static under the GIL: two threads that come first at once wait for each other.
        self._infer(np.zeros((1, image_size, image_size, 3), np.uint8))

    def _check(self, network: FeatureExtractor, image_size: int, far: float) -> None:
        """Hold the features of a few pictures against PyTorch's: a trace does not see every branch."""
        pixels = _pictures(image_size)
        exact = network.embed(pixels, "fp32")
        for found, own, expected in zip(self.submit(pixels)(), network.embed(pixels), exact, strict=True):
            sizes = np.linalg.norm(found, axis=1), np.linalg.norm(expected, axis=1)
            if not (abs(sizes[0] - sizes[1]) <= 0.1 * sizes[1]).all():
                raise RuntimeError("its features have other sizes")
            if _distance(found, expected) > max(far, 2 * _distance(own, expected)):
                raise RuntimeError(f"its features differ: cosine {1 - _distance(found, expected):.4f}")

    def submit(self, pixels: NDArray[np.uint8]) -> PendingFeatures:
        """See `Engine`."""
        size = min(_VIEWS_AT_ONCE, max(_VIEWS_AT_ONCE // 2, -(-len(pixels) // self._streams)))
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


def _distance(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """The largest cosine distance of features (b, d) that belong together."""
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosine = np.where(norms > 0, (found * expected).sum(axis=1) / np.maximum(norms, 1e-30), 1)
    return float(1 - cosine.min())


def _convert(frozen: FeatureExtractor, image_size: int) -> Any:
    """Convert with the frontend alone: `openvino.convert_model` sends usage data."""
    import_openvino()
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


def _pictures(size: int) -> NDArray[np.uint8]:
    """Four pictures (4, size, size, 3): noise of a coarse grid, as smooth as photos are."""
    cell = max(1, size // 14)
    grid = np.random.default_rng(0).integers(0, 256, (4, -(-size // cell), -(-size // cell), 3), dtype=np.uint8)
    return grid.repeat(cell, axis=1).repeat(cell, axis=2)[:, :size, :size].copy()


def _files(path: Path) -> tuple[Path, Path, Path]:
    """Graph, weights, and the hash of both, which is written last."""
    return path, path.with_suffix(".bin"), path.with_suffix(".sha256")


def _hash(graph: Path, weights: Path) -> str:
    digests = []
    for file in (graph, weights):
        with file.open("rb") as raw:
            digests.append(hashlib.file_digest(raw, "sha256").hexdigest())
    return " ".join(digests)


def _is_sound(path: Path) -> bool:
    """Whether a conversion is there, as it was written."""
    graph, weights, seal = _files(path)
    try:
        return seal.read_text(encoding="ascii") == _hash(graph, weights)
    except (OSError, ValueError):
        return False


def _read(core: Any, path: Path | None) -> Any:
    """A conversion that is there, as it was written; else None."""
    if path is None:
        return None
    with lock_folder(path.parent, shared=True):  # `_keep` of another process changes three files
        return core.read_model(path) if _is_sound(path) else None


@contextmanager
def _saved(model: Any, path: Path | None) -> Iterator[Path | None]:
    """The model as a draft in a temporary folder beside `path`; None where nothing can be written there."""
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


def _keep(draft: Path, path: Path) -> None:
    """Give the draft its name, the hash last; a folder that cannot be written costs the time of the next conversion."""
    graph, weights, seal = _files(draft)
    with suppress(OSError):
        seal.write_text(_hash(graph, weights), encoding="ascii")
        with lock_folder(path.parent):
            for file, target in zip((graph, weights, seal), _files(path), strict=True):
                file.replace(target)
