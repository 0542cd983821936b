"""What only a GPU can show: the features of the CPU, in any precision, with batches under way at once."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from featcache._utils.timing import PhaseTimer
from featcache.backbones.backbone import Backbone
from featcache.backbones.engines import cuda_graph
from featcache.backbones.load import load_backbone
from featcache.cache.description import views_made_on
from featcache.core.specs import AUGMENTS, Interpolation, ViewSpec
from featcache.data.manifest import read_manifest
from featcache.extraction.extract import extract
from featcache.finetuning.finetune import finetune
from featcache.heads.fit_head import fit_head
from featcache.heads.linear import LinearHead
from featcache.heads.one_vs_rest import OneVsRestHead
from featcache.models.classifier import Classifier
from featcache.training.distributed import SINGLE_PROCESS
from featcache.training.live_batches import LiveBatches
from featcache.training.loop import Batches, TrainConfig, TrainState, train
from featcache.training.loss import ClassificationLoss
from featcache.training.network import BackboneWithHead
from featcache.vision.augment import make_views
from featcache.vision.device_views.device_views import DeviceViews
from featcache.vision.loader import ViewLoader
from toys import ToyNet, toy_answer, toy_backbone

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

NETWORK = {"weights": "none", "image_size": 64}


def noise(n: int, size: int = 64) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.99999), ("bf16", 0.995), ("fp16", 0.9999)])
@pytest.mark.parametrize("engine", ["pytorch", "compiled"])
def test_a_gpu_gives_the_features_of_the_cpu(precision: str, least: float, engine: str) -> None:
    exact = load_backbone("resnet18", weights="none", device="cpu", precision="fp32")
    found = load_backbone("resnet18", weights="none", device="cuda", precision=precision)
    found.select_engine(64, engine)  # type: ignore[arg-type]
    assert found.engine == engine
    pixels = noise(41)
    assert cosines(exact.embed(pixels), found.embed(pixels)).min() >= least


@pytest.mark.parametrize("classes", [2, 5])
def test_a_linear_head_solved_on_a_gpu_is_that_of_the_cpu(classes: int) -> None:
    """Blocks, folds and weights: test_device_pass.py, which needs no GPU."""
    chance = np.random.default_rng(0)
    x = chance.standard_normal((5000, 64))
    y = (x[:, :classes] + chance.gumbel(size=(5000, classes))).argmax(1)
    for head in (LinearHead, OneVsRestHead):
        labels = y if head is LinearHead else np.eye(classes)[y]
        here, there = (head(1.0, device=device).fit(x, labels) for device in ("cpu", "cuda"))
        np.testing.assert_allclose(there.coef_, here.coef_, rtol=1e-3, atol=1e-5)


def test_fit_head_works_on_a_gpu(split_folder: Path, tmp_path: Path) -> None:
    extract(split_folder, tmp_path / "c.h5", backbone=toy_backbone(), views=2)
    here, there = (fit_head(tmp_path / "c.h5", device=device) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(there.estimator.coef_, here.estimator.coef_, rtol=1e-2, atol=1e-4)


def test_batches_under_way_at_once_give_each_its_own_features() -> None:
    toy = toy_backbone(device="cuda")
    batches = [noise(n, 8) + np.uint8(n) for n in (1, 40, 7, 300, 16)]
    waiting = [toy.submit(batch) for batch in batches]
    for batch, features in reversed(list(zip(batches, waiting, strict=True))):
        np.testing.assert_allclose(features()[0], toy_answer(batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("engine", ["pytorch", "compiled"])
def test_a_cuda_graph_gives_the_features_of_eager_passes(
    precision: Any, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit by bit. After the capture `submit` does not wait: PyTorch itself raises where the host would."""
    batches = [noise(n) + np.uint8(number) for number, n in enumerate((48, 48, 48, 17, 48, 48))]
    found = []
    monkeypatch.setattr(cuda_graph, "EAGER_BATCHES", 2)
    for eager in (True, False):
        backbone = load_backbone("resnet18", device="cuda", precision=precision, layers="all", **NETWORK)
        backbone.select_engine(64, engine)
        pytorch: Any = backbone._engine_for(64)
        if eager:
            pytorch._graphs.disable()
        pending = [backbone.submit(batch) for batch in batches[:2]]
        torch.cuda.set_sync_debug_mode("error")
        try:
            pending += [backbone.submit(batch) for batch in batches[2:]]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        found.append([features() for features in reversed(pending)])
        assert backbone.note == ""
        assert len(pytorch._graphs._graphs) == (not eager)
    for one, other in zip(*found, strict=True):
        for x, y in zip(one, other, strict=True):
            np.testing.assert_array_equal(x, y)


def test_a_network_that_decides_by_its_values_runs_without_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graph, "EAGER_BATCHES", 2)

    class Deciding(ToyNet):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            features = super().forward(pixels)
            return features if features.sum() > 0 else -features

    toy = Backbone(Deciding(), name="deciding", image_size=8, device="cuda")
    found = [toy.embed(noise(6, 8)) for _ in range(4)]
    for features in found:
        np.testing.assert_array_equal(features, found[0])
    assert toy.note.startswith("this network runs without a CUDA graph, which can be slower: ")
    torch.cuda.empty_cache()  # PyTorch is not in the state of a capture
    assert torch.rand(2, device="cuda").shape == (2,)


def test_a_capture_that_fails_half_way_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """No state of a capture in the generator, the streams and the memory."""
    monkeypatch.setattr(cuda_graph, "EAGER_BATCHES", 2)

    class Querying(ToyNet):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            features = super().forward(pixels) + 0 * torch.rand(1, device=pixels.device)
            torch.cuda.current_stream().query()  # not permitted in a capture
            return features

    toy = Backbone(Querying(), name="querying", image_size=8, device="cuda")
    pixels = noise(6, 8)
    stream = torch.cuda.current_stream()
    found = [toy.embed(pixels) for _ in range(4)]
    for features in found:
        np.testing.assert_array_equal(features, found[0])
    assert toy.note.startswith("this network runs without a CUDA graph, which can be slower: ")
    assert torch.cuda.current_stream() == stream
    torch.cuda.manual_seed(0)
    first = nn.functional.dropout(torch.ones(1000, device="cuda"))
    torch.cuda.manual_seed(0)
    assert torch.equal(nn.functional.dropout(torch.ones(1000, device="cuda")), first)
    assert 300 < int((first == 0).sum()) < 700
    other = toy_backbone(device="cuda")  # can be captured
    for _ in range(4):
        np.testing.assert_allclose(other.embed(pixels), toy_answer(pixels), rtol=1e-4, atol=1e-4)
    assert other.note == ""
    torch.cuda.empty_cache()
    torch.cuda.synchronize()


def test_features_of_a_network_with_dropout_do_not_stop_at_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its eager passes differ, too, so the graph is kept, and each replay has random numbers of its own."""
    monkeypatch.setattr(cuda_graph, "EAGER_BATCHES", 2)

    class Random(ToyNet):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            features = super().forward(pixels)
            return features + torch.rand_like(features)

    toy = Backbone(Random(), name="random", image_size=8, device="cuda")
    found = [toy.embed(noise(6, 8)) for _ in range(5)]
    assert toy.note == ""
    assert not np.array_equal(found[3], found[4])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("augment", [augment for augment in AUGMENTS if augment != "trivial"])
def test_a_gpu_makes_the_views_of_the_cpu(augment: str, interpolation: Interpolation) -> None:
    chance = np.random.default_rng(0)
    for size in (7, 64, 224):
        maker = DeviceViews(ViewSpec(size, size * 8 // 7, interpolation, augment))
        batch: list[Any] = []
        expected = []
        for height, width in ((1, 1), (1, 3000), (3000, 9), (37, 50), (224, 256), (375, 500), (1200, 1601)):
            image, sha256 = chance.integers(0, 256, (height, width, 3), dtype=np.uint8), chance.bytes(32)
            expected.append(make_views(image, maker.spec, sha256, range(4)))
            batch += [maker.plan(image, sha256, range(4)), expected[-1][:1]]
            expected.append(expected[-1][:1])
        made = maker.collate(batch).to(torch.device("cuda"))
        assert maker.note == ""
        assert made.is_cuda
        np.testing.assert_array_equal(made.cpu().numpy(), np.concatenate(expected))


def test_an_extraction_on_a_gpu_makes_its_views_there(split_folder: Path, tmp_path: Path) -> None:
    for augment in ("gentle", "trivial"):
        options: dict[str, Any] = {"views": 2, "augment": augment, "dtype": "float32"}
        here, there = (
            extract(split_folder, tmp_path / f"{device}-{augment}.h5", backbone=toy_backbone(device=device), **options)
            for device in ("cpu", "cuda")
        )
        assert there.note == ""
        on_device = 13 * 3 + 5 if augment == "gentle" else 5
        assert views_made_on(there.cache) == {"device": on_device, "cpu": 13 * 3 + 5 - on_device}
        for split in ("train", "val"):
            features = (one.cache.features(split).x for one in (here, there))
            np.testing.assert_allclose(*features, rtol=1e-4, atol=1e-4)


def test_an_extraction_on_a_gpu_is_that_of_the_cpu(split_folder: Path, tmp_path: Path) -> None:
    found = [
        extract(
            split_folder, tmp_path / f"{device}.h5", backbone="resnet18", device=device, precision="fp32", **NETWORK
        )
        for device in ("cpu", "cuda")
    ]
    x, y = (one.cache.features("train").x.reshape(-1, 512).astype(np.float32) for one in found)
    assert cosines(x, y).min() > 0.9999
    assert found[1].report.peak_gpu_memory_bytes


def test_a_classifier_on_a_gpu_says_what_it_says_on_the_cpu(split_folder: Path, tmp_path: Path) -> None:
    extract(split_folder, tmp_path / "c.h5", backbone="resnet18", weights="none", image_size=64, precision="fp32")
    fit_head(tmp_path / "c.h5", tmp_path / "head")
    images = sorted(split_folder.rglob("*.png"))
    one, two = (Classifier.load(tmp_path / "head", device=device).predict(images) for device in ("cpu", "cuda"))
    assert [found.label for found in one] == [found.label for found in two]
    shares = [[found.probability for found in several] for several in (one, two)]
    np.testing.assert_allclose(*shares, rtol=1e-3)


@pytest.mark.parametrize("compiled", [False, True])
def test_fine_tuning_in_bf16_learns(compiled: bool, split_folder: Path, tmp_path: Path) -> None:
    run = finetune(
        split_folder,
        tmp_path / "run",
        backbone="resnet18",
        device="cuda",
        precision="bf16",
        compile=compiled,
        config=TrainConfig(epochs=4, batch_size=6),
        **NETWORK,
    )
    assert run.history[-1].loss < run.history[0].loss


@pytest.mark.parametrize("mode", ["all", "head"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_no_step_waits_for_the_gpu(
    mode: Any, optimizer: Any, split_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch itself raises where the host would wait: from the fourth step on, in which a CUDA graph is replayed."""
    monkeypatch.setattr(cuda_graph, "EAGER_BATCHES", 2)
    backbone = load_backbone("resnet18", device="cuda", precision="bf16", **NETWORK)
    spec = backbone.extract_spec(image_size=64, augment="tutorial", seed=0, views=0, dtype="float32")
    head = nn.Linear(backbone.dim, 2)
    module = head if mode == "head" else BackboneWithHead(backbone.trainable_module(), head)
    config = TrainConfig(epochs=1, optimizer=optimizer)
    state = TrainState(module.to("cuda"), config, loss=ClassificationLoss(0.1, np.array([0.5, 2.0])))
    steps: list[int] = []

    def strictly(batches: Batches) -> Batches:
        for step, batch in enumerate(batches):
            yield batch
            steps.append(step)
            if step == 2:  # the first step copies the weights of classes, the second one captures
                torch.cuda.set_sync_debug_mode("error")
        torch.cuda.set_sync_debug_mode("default")

    with closing(ViewLoader(read_manifest(split_folder), spec.view, workers=1)) as loader:
        live = LiveBatches(backbone, spec, loader, mode, PhaseTimer(), None, SINGLE_PROCESS)
        live.batch_size = 2
        try:
            train(
                state,
                lambda epoch: strictly(live.train(epoch)),
                lambda: live.evaluation("val"),
                seed=0,
                on_epoch=lambda _state: None,
                context=backbone.feature_extractor.autocast,
            )
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len(steps) >= 5
    assert state.optimizer.param_groups[0]["fused"] is True
    if mode == "head":
        engine: Any = backbone._engine_for(64)
        assert engine._graphs._graphs
        assert backbone.note == ""


def test_features_that_stay_on_the_gpu_are_the_features() -> None:
    for engine in ("pytorch", "compiled"):
        backbone = load_backbone("resnet18", device="cuda", precision="bf16", **NETWORK)
        backbone.select_engine(64, engine)  # type: ignore[arg-type]
        on_device = backbone.embed_on_device(noise(41))
        assert on_device.device.type == "cuda"
        np.testing.assert_array_equal(on_device.cpu().numpy(), backbone.embed(noise(41)))


def test_live_routes_take_the_precision_of_the_gpu(split_folder: Path, tmp_path: Path) -> None:
    for mode in ("all", "head"):
        run = finetune(split_folder, tmp_path / mode, backbone="resnet18", device="cuda", mode=mode,  # type: ignore
                       config=TrainConfig(epochs=1, batch_size=6), **NETWORK)  # fmt: skip
        extracted = extract(split_folder, tmp_path / f"{mode}.h5", backbone="resnet18", device="cuda", **NETWORK)
        has_bf16 = torch.cuda.get_device_capability() >= (8, 0)
        assert run.report.precision == ("fp32" if mode == "all" and not has_bf16 else extracted.report.precision)
        assert run.report.tf32 is has_bf16
