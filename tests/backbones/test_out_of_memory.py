"""A batch that does not fit into the memory of a GPU is halved. The stand-in for a GPU is a network that raises."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featcache.backbones.backbone import Backbone
from featcache.backbones.feature_extractor import FeatureExtractor
from featcache.errors import BackboneError, RunError
from featcache.extraction.extract import extract
from featcache.finetuning.checks import explain_torch_errors
from featcache.models.network_classifier import network_classifier
from featcache.training.config import TrainConfig
from featcache.training.network import BackboneWithHead
from toys import TOY_SIZE, ToyNet, toy_answer, toy_backbone


class SmallMemory(ToyNet):
    """Raises if a batch has more than `most` images. `sizes` : those of the batches that fit."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.sizes = most, list[int]()
        self.error: Exception = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore")

    def forward(self, pixels: Tensor) -> Tensor:
        if len(pixels) > self.most:
            raise self.error
        self.sizes.append(len(pixels))
        return super().forward(pixels)


def small_memory(most: int) -> tuple[Backbone, SmallMemory]:
    toy = toy_backbone()
    network = SmallMemory(10**6)
    backbone = Backbone(
        network, name="toy", image_size=TOY_SIZE, resize_size=toy.resize_size, mean=toy.mean, std=toy.std
    )
    network.most, network.sizes = most, []
    return backbone, network


def noise(n: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (n, TOY_SIZE, TOY_SIZE, 3), dtype=np.uint8)


def test_batches_are_halved_until_they_fit_and_stay_so() -> None:
    backbone, network = small_memory(20)
    assert backbone.note == ""
    pixels = noise(70)
    np.testing.assert_allclose(backbone.embed(pixels), toy_answer(pixels), rtol=1e-4, atol=1e-4)
    assert network.sizes == [18, 18, 18, 16]
    network.sizes.clear()
    np.testing.assert_allclose(backbone.embed(pixels), toy_answer(pixels), rtol=1e-4, atol=1e-4)
    assert network.sizes == [18, 18, 18, 16]
    assert backbone.note == "cpu has too little free memory for larger batches: batches have 18 views"


def test_an_odd_batch_is_two_batches() -> None:
    backbone, network = small_memory(128)
    backbone.embed(noise(255))
    assert network.sizes == [128, 127]


def test_one_view_is_not_halved() -> None:
    backbone, network = small_memory(1)
    backbone.embed(noise(3))
    assert network.sizes == [1, 1, 1]


def test_an_error_of_a_library_halves_batches_and_other_errors_do_not() -> None:
    backbone, network = small_memory(4)
    network.error = RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
    backbone.embed(noise(8))
    assert network.sizes == [4, 4]
    network.most, network.error = 2, RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError, match="shapes do not match"):
        backbone.embed(noise(8))
    assert network.sizes == [4, 4]


def test_a_fine_tuned_network_predicts_in_smaller_batches() -> None:
    backbone, network = small_memory(7)
    pixels, head = noise(20), nn.Linear(backbone.dim, 2)
    card: Any = SimpleNamespace(multilabel=False, thresholds=None)
    labels, probabilities, _ = network_classifier(backbone, BackboneWithHead(backbone.module, head), card)(pixels)()
    assert network.sizes == [5, 5, 5, 5]
    expected = head(torch.from_numpy(toy_answer(pixels)).float()).softmax(1).detach().numpy()
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    assert labels.tolist() == expected.argmax(1).tolist()


def test_one_image_that_does_not_fit_is_an_error_with_what_to_do() -> None:
    backbone, network = small_memory(0)
    with pytest.raises(BackboneError) as error:
        backbone.embed(noise(8))
    assert str(error.value) == (
        "one view of this network does not fit into the free memory of cpu (CUDA out of memory. Tried to allocate "
        "20.00 GiB.). Stop other programs that use this memory, or give a smaller --image-size, --device cpu or "
        "another network."
    )
    assert network.sizes == []


def test_an_extraction_goes_on_with_smaller_batches_and_says_so_once(split_folder: Path, tmp_path: Path) -> None:
    expected = extract(split_folder, tmp_path / "a.h5", backbone=toy_backbone(), views=2, batch_size=24)
    backbone, network = small_memory(7)
    found = extract(split_folder, tmp_path / "b.h5", backbone=backbone, views=2, batch_size=24)
    for split in ("train", "val"):
        x, y = (extraction.cache.features(split).x for extraction in (expected, found))
        np.testing.assert_allclose(np.asarray(y), np.asarray(x), rtol=1e-2, atol=1e-3)
    assert max(network.sizes) == 6
    assert found.note == "cpu has too little free memory for larger batches: batches have 6 views"
    assert str(found).count("batches have 6 views") == 1


NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", NO_MEMORY)
def test_weights_that_do_not_fit_are_an_error(error: Exception) -> None:
    class TooLarge(nn.Linear):
        def to(self, *_: Any, **__: Any) -> Any:
            raise error

    with pytest.raises(BackboneError, match=r"^the weights of giant do not fit into the free memory of cpu"):
        FeatureExtractor(
            TooLarge(1, 1), name="giant", mean=(0,) * 3, std=(1,) * 3, layers=("penultimate",), device="cpu",
            precision="fp32",
        )  # fmt: skip


@pytest.mark.parametrize("error", NO_MEMORY)
def test_training_batches_that_do_not_fit_are_an_error(error: Exception) -> None:
    with (
        pytest.raises(RunError, match=r"with batches of 64 \(CUDA .*\)\. Give a smaller --batch-size"),
        explain_torch_errors("image at 8 pixels", "--image-size", TrainConfig(batch_size=64), False),
    ):
        raise error
