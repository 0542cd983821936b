"""On a GPU batches are copied in a stream of their own and computed by CUDA graphs. A simulated GPU runs them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featcache.backbones.engines import cuda_graph
from featcache.backbones.engines.data_parallel import DataParallelEngine
from featcache.backbones.engines.pytorch import CompiledEngine, PyTorchEngine
from featcache.backbones.feature_extractor import FeatureExtractor
from featcache.backbones.transfer import to_device
from featcache.errors import BackboneError
from simulated_gpu import SimulatedGPU
from toys import TOY_SIZE, ToyNet, toy_answer, toy_backbone

PREFIX = "this network runs without a CUDA graph, which can be slower: "


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimulatedGPU:
    monkeypatch.setattr(cuda_graph, "EAGER_BATCHES", 2)
    return SimulatedGPU(monkeypatch)


class Hooked(ToyNet):
    """Calls a function before each pass. `sizes` : those of the batches."""

    def __init__(self, before: Callable[[Tensor], None] = lambda _: None) -> None:
        super().__init__()
        self.before, self.sizes = before, list[int]()

    def forward(self, pixels: Tensor) -> Tensor:
        self.sizes.append(len(pixels))
        self.before(pixels)
        return super().forward(pixels)


def hooked(gpu: SimulatedGPU) -> tuple[PyTorchEngine, Hooked]:
    network = Hooked()
    engine = PyTorchEngine(gpu.extractor(network))
    network.sizes.clear()
    return engine, network


def noise(n: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, TOY_SIZE, TOY_SIZE, 3), dtype=np.uint8)


def check(engine: PyTorchEngine | DataParallelEngine, *sizes: int) -> None:
    """Batches under way at once, whose features are requested in reverse."""
    batches = [noise(size, seed) for seed, size in enumerate(sizes)]
    pending = [engine.submit(batch) for batch in batches]
    for batch, features in reversed(list(zip(batches, pending, strict=True))):
        np.testing.assert_allclose(features()[0], toy_answer(batch), rtol=1e-4, atol=1e-4)


def test_the_third_batch_of_a_shape_is_the_first_that_a_graph_computes(gpu: SimulatedGPU) -> None:
    engine, network = hooked(gpu)
    check(engine, 6, 6)
    assert network.sizes == [6, 6, 6, 6]  # at last a pass to warm up, and the capture
    assert gpu.replays == [1]  # to compare
    check(engine, 6, 4, 6, 6)
    assert network.sizes == [6, 6, 6, 6, 4]
    assert gpu.replays == [4]
    assert engine.note == ""


def test_several_layers_and_work_in_place_are_replayed(gpu: SimulatedGPU) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(inplace=True), nn.Conv2d(5, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    engine = PyTorchEngine(gpu.extractor(network, "penultimate,0,2:max"))
    batches = [noise(6, seed) for seed in range(5)]
    pending = [engine.submit(batch) for batch in batches]
    assert gpu.replays == [4]
    for batch, features in zip(batches, pending, strict=True):
        with torch.inference_mode():
            expected = [layer.numpy() for layer in engine._extractor(torch.from_numpy(batch))]
        assert [layer.shape for layer in expected] == [(6, 4), (6, 5), (6, 4)]
        for found, layer in zip(features(), expected, strict=True):
            np.testing.assert_array_equal(found, layer)


def test_features_that_stay_on_the_device_are_not_overwritten(gpu: SimulatedGPU) -> None:
    engine = PyTorchEngine(gpu.extractor())
    batches = [noise(6, seed) for seed in range(5)]
    found = [engine.embed_on_device(batch)[0] for batch in batches]
    assert gpu.replays == [4]
    for batch, features in zip(batches, found, strict=True):
        assert not features.is_inference()
        np.testing.assert_allclose(features.numpy(), toy_answer(batch), rtol=1e-4, atol=1e-4)
    engine._max_batch = 6
    batch = noise(18)
    np.testing.assert_allclose(engine.embed_on_device(batch)[0].numpy(), toy_answer(batch), rtol=1e-4, atol=1e-4)
    assert gpu.replays == [7]


def test_a_batch_is_copied_beside_the_computation(gpu: SimulatedGPU) -> None:
    engine = PyTorchEngine(gpu.extractor())
    for _ in range(3):
        gpu.log.clear()
        features = engine.submit(noise(6))
    assert gpu.replays == [2]
    copies = engine._copies.name  # type: ignore[attr-defined]
    assert copies != "stream 0"
    assert gpu.log == [
        f"{copies} copies to cuda",
        f"stream 0 waits for {copies}",
        "stream 0 uses a tensor",
        "stream 0 copies to cpu",
        "stream 0 records an event",
    ]
    assert gpu.waits == 0
    features()
    assert (gpu.waits, gpu.blocking) == (1, [True] * 3)


def test_a_capture_waits_for_the_batch_and_the_batches_for_the_capture(gpu: SimulatedGPU) -> None:
    engine = PyTorchEngine(gpu.extractor())
    engine.submit(noise(6))
    gpu.log.clear()
    engine.submit(noise(6))
    assert gpu.log[3:5] == ["stream 2 waits for stream 0", "stream 0 waits for stream 2"]
    assert gpu.current.name == "stream 0"


def test_views_are_made_beside_the_computation(gpu: SimulatedGPU) -> None:
    made: list[str] = []

    class Views:
        def to(self, _device: torch.device) -> Tensor:
            made.append(gpu.current.name)
            return torch.zeros(2)

    stream: Any = torch.cuda.Stream("cuda")
    inputs: Any = Views()
    to_device(inputs, "cuda", stream)
    assert made == [stream.name]
    assert gpu.log == [f"stream 0 waits for {stream.name}", "stream 0 uses a tensor"]


def test_a_network_whose_graph_gives_other_features_runs_eagerly(gpu: SimulatedGPU) -> None:
    class Differing(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return pixels.mean((2, 3)) * 0 + 1 + gpu.capturing

    engine = PyTorchEngine(gpu.extractor(Differing()))
    found = [engine.submit(noise(6))()[0][0, 0] for _ in range(5)]
    assert found == [1] * 5
    assert gpu.replays == [1]
    assert engine.note == PREFIX + "the graph gives other features"


def test_a_network_whose_eager_passes_differ_keeps_its_graph(gpu: SimulatedGPU) -> None:
    class Counting(nn.Module):
        passes = 0

        def forward(self, pixels: Tensor) -> Tensor:
            self.passes += 1
            return pixels.mean((2, 3)) * 0 + self.passes

    network = Counting()
    engine = PyTorchEngine(gpu.extractor(network))
    network.passes = 0
    found = [engine.submit(noise(6))()[0][0, 0] for _ in range(5)]
    assert found == [1, 2, 4, 4, 4]  # the fourth pass was that of the capture, the fifth the second eager one
    assert (network.passes, gpu.replays, engine.note) == (5, [4], "")


def test_the_comparison_waits_where_a_program_forbids_waits(gpu: SimulatedGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    equal = torch.equal

    def strictly(one: Tensor, other: Tensor) -> bool:
        if gpu.forbids_waits:
            raise RuntimeError("called a synchronizing CUDA operation")
        return equal(one, other)

    monkeypatch.setattr(torch, "equal", strictly)
    engine = PyTorchEngine(gpu.extractor())
    torch.cuda.set_sync_debug_mode("error")
    for _ in range(3):
        engine.submit(noise(6))
    assert (gpu.replays, engine.note, gpu.forbids_waits) == ([2], "", True)


def test_a_graph_is_captured_once_a_shape_has_come_often(gpu: SimulatedGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    simulated = SimulatedGPU(monkeypatch)
    engine, network = hooked(simulated)
    check(engine, *[6, 5] * 7)
    assert (network.sizes, simulated.replays) == ([6, 5] * 7, [])
    check(engine, 6, 6)
    assert (network.sizes[14:], simulated.replays) == ([6] * 3, [2])


def test_features_that_are_not_finite_are_compared_by_their_bits(gpu: SimulatedGPU) -> None:
    class Dividing(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            spread = pixels.amax((2, 3)) - pixels.amin((2, 3))
            return spread / spread

    engine = PyTorchEngine(gpu.extractor(Dividing()))
    pixels = noise(2)
    pixels[0] = 0
    found = [engine.submit(pixels)()[0] for _ in range(3)]
    np.testing.assert_array_equal(found[0], [[np.nan] * 3, [1, 1, 1]])
    np.testing.assert_array_equal(found[2], found[0])
    assert (gpu.replays, engine.note) == ([2], "")


@pytest.mark.parametrize("where", ["warm-up", "capture", "branch"])
def test_a_network_that_cannot_be_captured_runs_eagerly(where: str, gpu: SimulatedGPU) -> None:
    def before(pixels: Tensor) -> None:
        if (where == "warm-up" and gpu.forbids_waits) or (where == "capture" and gpu.capturing):
            raise RuntimeError("not permitted\nMore")
        if where == "branch" and pixels.sum().item() == 0:
            raise AssertionError

    engine, network = hooked(gpu)
    network.before = before
    check(engine, 6, 6, 6, 6)
    reason = "operation not permitted when stream is capturing" if where == "branch" else "not permitted"
    assert engine.note == PREFIX + reason
    assert len(gpu.graphs) == (where != "warm-up")
    assert network.sizes == [6] * (5 if where == "warm-up" else 6)
    assert gpu.replays == [0] * len(gpu.graphs)
    assert (gpu.current.name, gpu.forbids_waits) == ("stream 0", False)


def test_a_capture_that_does_not_fit_into_the_memory_is_left_out(gpu: SimulatedGPU) -> None:
    most = 10

    def before(pixels: Tensor) -> None:
        if gpu.capturing or len(pixels) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    engine, network = hooked(gpu)
    network.before = before
    check(engine, 6, 6, 6)
    assert network.sizes == [6, 6, 6, 6, 6]
    assert engine.note == PREFIX + "the device has too little free memory for one"
    most = 4
    network.sizes.clear()
    check(engine, 6, 6, 6)
    assert network.sizes == [6, *[3] * 4, *[3] * 4]  # the capture is tried again
    assert engine.note.splitlines() == [
        "cuda has too little free memory for larger batches: batches have 3 views",
        PREFIX + "the device has too little free memory for one",
    ]


def test_smaller_batches_have_graphs_again(gpu: SimulatedGPU) -> None:
    engine, network = hooked(gpu)
    check(engine, 7, 7, 7)
    most = 6

    def before(pixels: Tensor) -> None:
        if len(pixels) > most:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    network.before = before
    network.sizes.clear()
    check(engine, 9, 9, 9)
    assert network.sizes == [9, 9, 5, 4, 5, 5, 5, 4, 4, 4]  # 9 with the memory of the graph, 9 without it
    assert gpu.replays == [2, 2, 2]
    assert engine.note == "cuda has too little free memory for larger batches: batches have 5 views"


def test_smaller_batches_of_a_network_that_cannot_be_captured_have_no_graph(gpu: SimulatedGPU) -> None:
    most = 6

    def before(pixels: Tensor) -> None:
        if len(pixels) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        if gpu.capturing:
            raise RuntimeError("not permitted")

    engine, network = hooked(gpu)
    network.before = before
    check(engine, 6, 6, 8, 8, 8, 8)
    assert len(gpu.graphs) == 1
    assert engine.note.splitlines()[1:] == [PREFIX + "not permitted"]


def test_graphs_give_their_memory_to_a_batch_that_does_not_fit(gpu: SimulatedGPU) -> None:
    engine, network = hooked(gpu)
    check(engine, 6, 6, 6)

    def before(_: Tensor) -> None:
        if engine._graphs._graphs:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    network.before = before
    network.sizes.clear()
    check(engine, 4, 6, 6, 6)
    assert network.sizes == [4, 4, 6, 6, 6]
    assert (gpu.replays, engine.note) == ([2], PREFIX + "the device has too little free memory for one")


def test_a_graph_is_for_the_settings_of_its_capture(gpu: SimulatedGPU) -> None:
    engine = PyTorchEngine(gpu.extractor())
    check(engine, 6, 6, 6)
    torch.use_deterministic_algorithms(True)
    try:
        check(engine, 6, 6, 6)
    finally:
        torch.use_deterministic_algorithms(False)
    check(engine, 6)
    assert gpu.replays == [3, 2]


def test_there_are_few_graphs(gpu: SimulatedGPU) -> None:
    engine = PyTorchEngine(gpu.extractor())
    check(engine, 1, 1, 2, 2, 3, 3, 4, 4)
    assert gpu.replays == [1, 1, 1, 1]
    check(engine, 1, 5, 5, 5)
    assert gpu.replays == [2, 1, 1, 1, 2], "it replaces that of 2"
    check(engine, 1, 3, 4, 2)
    assert gpu.replays == [3, 1, 2, 2, 2]
    check(engine, 2, 2, 1)
    assert gpu.replays == [4, 1, 2, 2, 2, 2], "it replaces that of 5"


def test_each_device_has_its_graph(gpu: SimulatedGPU) -> None:
    engines = [hooked(gpu) for _ in range(2)]
    check(DataParallelEngine([engine for engine, _ in engines]), *[6] * 8)
    assert gpu.replays == [3, 3]
    assert [network.sizes for _, network in engines] == [[6] * 4] * 2


def test_a_backbone_is_sent_to_other_processes_without_its_graphs(gpu: SimulatedGPU) -> None:
    backbone = toy_backbone()
    backbone.feature_extractor.device = torch.device("cuda")
    backbone.device = "cuda"
    pixels = noise(6)
    for _ in range(3):
        expected = backbone.embed(pixels)
    assert gpu.replays == [2]
    copy = pickle.loads(pickle.dumps(backbone))
    for _ in range(3):
        np.testing.assert_array_equal(copy.embed(pixels), expected)
    assert gpu.replays == [2, 2]


def test_compiled_code_has_large_batches_on_a_gpu(gpu: SimulatedGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(extractor: FeatureExtractor, **_options: Any) -> Any:
        return lambda pixels: extractor(pixels)

    monkeypatch.setattr(torch, "compile", compiled)
    network = Hooked()
    engine = CompiledEngine(gpu.extractor(network), TOY_SIZE)
    network.sizes.clear()
    check(engine, 300, 255, 1)
    assert set(network.sizes) == {256}

    def before(_: Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    network.before = before
    message = r"^cuda has .* a batch of 256 views, .* compiled for \(CUDA out of memory.\)\. Give --engine pytorch, "
    with pytest.raises(BackboneError, match=message):
        engine.submit(noise(2))
    with pytest.raises(BackboneError, match=message):
        CompiledEngine(engine._extractor, TOY_SIZE)
