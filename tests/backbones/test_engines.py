"""The converted network gives the features of PyTorch in fp32, and is converted once."""

from __future__ import annotations

import copy
import os
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images
from torch import nn

from featcache.backbones.backbone import Backbone
from featcache.backbones.engines import base as engines
from featcache.backbones.engines import openvino_files as conversion
from featcache.backbones.engines import select
from featcache.backbones.engines.select import CONVERSION_PAYS
from featcache.backbones.load import load_backbone
from featcache.backbones.metadata_cache import cache_path
from featcache.core.specs import ViewSpec
from featcache.errors import BackboneError
from featcache.extraction.extract import extract
from featcache.heads.fit_head import fit_head
from featcache.vision.augment import make_views
from toys import toy_answer, toy_backbone

needs_openvino = pytest.mark.skipif(not engines.has_openvino(), reason="OpenVINO has no wheel for this machine")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "featcache" / "networks"


def photos(size: int, views: int = 12) -> NDArray[np.uint8]:
    """Views of scikit-learn's two photos."""
    spec = ViewSpec(size, round(size * 8 / 7))
    arrays = [
        make_views(image, spec, bytes([n]) * 32, range(views)) for n, image in enumerate(load_sample_images().images)
    ]
    return np.concatenate(arrays)


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.asarray((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


@needs_openvino
@pytest.mark.parametrize(("precision", "mean", "least"), [("fp32", 0.999999, 0.99999), ("bf16", 0.999, 0.995)])
def test_the_embedded_network_keeps_its_features(precision: str, mean: float, least: float) -> None:
    exact = load_backbone(device="cpu", precision="fp32")
    converted = load_backbone(device="cpu", precision=precision)
    converted.select_engine(224)
    assert (exact.engine, converted.engine) == ("pytorch", "openvino")
    pixels = photos(224)
    expected, features = exact.embed(pixels), converted.embed(pixels)
    assert (features.shape, features.dtype) == (expected.shape, np.float32)
    assert cosines(expected, features).mean() >= mean
    assert cosines(expected, features).min() >= least


@needs_openvino
@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet18", ("layer2", "penultimate", "layer4")),
        ("squeezenet1_1", ("penultimate",)),
        ("densenet121", ("penultimate",)),
        ("vit_b_32", ("penultimate", "encoder.layers.encoder_layer_3")),
        ("timm/test_efficientnet", ("penultimate",)),
    ],
)
def test_every_layer_of_other_networks_too(name: str, layers: tuple[str, ...]) -> None:
    size = 224 if name == "vit_b_32" else 64
    exact, converted = (
        load_backbone(name, weights="none", layers=layers, device="cpu", precision="fp32") for _ in range(2)
    )
    converted.select_engine(size)
    assert converted.engine == "openvino", converted.note
    pixels = photos(size, 3)
    expected, features = exact.embed_layers(pixels), converted.embed_layers(pixels)
    assert list(features) == list(expected) == list(layers)
    for layer in layers:
        scale = np.abs(expected[layer]).max()
        np.testing.assert_allclose(features[layer], expected[layer], atol=2e-4 * scale, rtol=0)


@needs_openvino
def test_the_answer_of_the_toy_is_known() -> None:
    toy = toy_backbone()
    toy.select_engine(8)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_allclose(toy.embed(pixels), toy_answer(pixels), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(toy.embed(pixels), np.concatenate([toy.embed(pixels[:2]), toy.embed(pixels[2:])]))


@needs_openvino
def test_pixels_of_another_size_go_through_pytorch() -> None:
    toy = toy_backbone()
    toy.select_engine(8)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3), dtype=np.uint8)
    np.testing.assert_allclose(toy.embed(pixels), toy_answer(pixels), rtol=1e-5, atol=1e-5)


@needs_openvino
def test_a_network_is_converted_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_backbone(cache_conversion=True).select_engine(8)
    assert sorted(path.suffix for path in home.iterdir()) == [".bin", ".sha256", ".xml"]

    def never(*_: object) -> None:
        raise AssertionError("it was converted again")

    monkeypatch.setattr(conversion, "convert", never)
    again = toy_backbone(cache_conversion=True)
    again.select_engine(8, views=1)  # a cached conversion pays for a single view
    pixels = np.zeros((1, 8, 8, 3), np.uint8)
    assert again.engine == "openvino"
    np.testing.assert_allclose(again.embed(pixels), toy_answer(pixels), rtol=1e-5, atol=1e-5)


@needs_openvino
@pytest.mark.parametrize("suffix", [".xml", ".bin", ".sha256"])
@pytest.mark.parametrize("damage", ["empty", "cut", "a byte", "gone"])
def test_a_damaged_conversion_is_made_again(suffix: str, damage: str, home: Path) -> None:
    toy_backbone(cache_conversion=True).select_engine(8)
    (file,) = home.glob(f"*{suffix}")
    whole = file.read_bytes()
    middle = len(whole) // 2
    changed = {"empty": b"", "cut": whole[:middle], "a byte": whole[:middle] + b"x" + whole[middle + 1 :]}
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(changed[damage])
    again = toy_backbone(cache_conversion=True)
    again.select_engine(8)
    assert again.engine == "openvino"
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_allclose(again.embed(pixels), toy_answer(pixels), rtol=1e-5, atol=1e-5)
    assert len(file.read_bytes()) == pytest.approx(len(whole), rel=0.1)


class Branching(nn.Module):
    """A network with a branch that a trace on a black picture does not see."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) if x.max() < 1 else x.amax((2, 3))


@needs_openvino
def test_a_conversion_that_gives_other_features_is_not_taken(home: Path) -> None:
    branching = Backbone(Branching(), name="branching", image_size=8, resize_size=8, cache_conversion=True)
    branching.select_engine(8)
    assert branching.engine == "pytorch"
    assert branching.note.startswith("OpenVINO cannot run branching (its features ")
    assert list(home.iterdir()) == []


@needs_openvino
def test_networks_of_ones_own_share_no_conversion(home: Path) -> None:
    for pool, expected in ((nn.AdaptiveAvgPool2d(1), np.mean), (nn.AdaptiveMaxPool2d(1), np.max)):
        backbone = Backbone(
            nn.Sequential(pool, nn.Flatten()), name="mine", image_size=8, resize_size=8, mean=[0] * 3, std=[1] * 3
        )
        backbone.select_engine(8)
        assert backbone.engine == "openvino"
        pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
        np.testing.assert_allclose(backbone.embed(pixels), expected(pixels / 255, axis=(1, 2)), rtol=1e-5)
    assert not home.exists()


@needs_openvino
def test_an_engine_can_be_given_up_again() -> None:
    toy = toy_backbone()
    toy.select_engine(8)
    assert toy.engine == "openvino"
    toy.select_engine(8, "pytorch")
    assert (toy.engine, toy._selected) == ("pytorch", None)


def test_a_broken_installation_of_openvino_falls_back_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(select, "has_openvino", lambda: True)
    toy = toy_backbone()
    toy.select_engine(8)
    assert toy.engine == "pytorch"
    assert toy.note.startswith("OpenVINO cannot run toy (import of openvino halted")


def test_all_that_decides_a_conversion_is_in_its_name() -> None:
    names = {
        cache_path(".xml", None, *identity)
        for identity in (("a", "w", 8), ("b", "w", 8), ("a", "v", 8), ("a", "w", 9), ("a", "w", 8))
    }
    assert len(names) == 4


@needs_openvino
def test_a_folder_that_cannot_be_written_is_no_obstacle(home: Path) -> None:
    home.parent.mkdir(parents=True)
    home.write_text("a file where the folder should be")
    toy = toy_backbone()
    toy.select_engine(8)
    assert toy.engine == "openvino"


@needs_openvino
def test_few_views_are_not_worth_a_conversion(home: Path) -> None:
    toy = toy_backbone()
    toy.select_engine(8, views=CONVERSION_PAYS - 1)
    assert (toy.engine, toy.note) == ("pytorch", "")
    toy.select_engine(8, "openvino", views=1)
    assert toy.engine == "openvino"
    other = toy_backbone()
    other.select_engine(8, "pytorch")
    assert other.engine == "pytorch"


class Refused(nn.Module):
    """A network that cannot be traced."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_tracing():
            raise ValueError("no tracing here\nat all")
        return x.mean((2, 3))


@needs_openvino
def test_a_network_that_cannot_be_converted_falls_back_and_says_so(home: Path) -> None:
    stubborn = Backbone(Refused(), name="stubborn", image_size=8, resize_size=8)
    stubborn.select_engine(8)
    assert stubborn.engine == "pytorch"
    assert stubborn.note.startswith("OpenVINO cannot run stubborn (")
    assert stubborn.embed(np.zeros((1, 8, 8, 3), np.uint8)).shape == (1, 3)
    with pytest.raises(BackboneError, match=r"^OpenVINO cannot run stubborn: .* Drop --engine\.$"):
        stubborn.select_engine(8, "openvino")


def test_without_openvino_pytorch_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "has_openvino", lambda: False)
    toy = toy_backbone()
    toy.select_engine(8)
    assert (toy.engine, toy.note) == ("pytorch", "")
    with pytest.raises(BackboneError, match=r"pip install openvino$"):
        toy.select_engine(8, "openvino")


@needs_openvino
def test_the_head_on_real_photos_is_right_as_often(ants_bees: Path, tmp_path: Path) -> None:
    right = []
    clean = []
    for engine, precision in (("pytorch", "fp32"), ("openvino", "bf16")):
        cache = extract(ants_bees, tmp_path / f"{engine}.h5", views=0, engine=engine, precision=precision).cache
        assert (cache.provenance["engine"], cache.spec.precision) == (engine, precision)
        fit = fit_head(cache)
        right.append(round(fit.accuracy.accuracy * fit.accuracy.n))
        clean.append(np.concatenate([cache.features(split).clean() for split in ("train", "val")]))
    assert abs(right[0] - right[1]) <= 1
    cosine = cosines(*clean)
    assert cosine.mean() >= 0.999
    assert np.count_nonzero(cosine < 0.995) <= 1  # of 397 photos; PyTorch in bf16 has none


@pytest.mark.parametrize("engine", ["pytorch", pytest.param("openvino", marks=needs_openvino)])
def test_batches_under_way_at_once_give_each_its_own_features(engine: Any) -> None:
    toy = toy_backbone()
    toy.select_engine(8, engine)
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8) for n in (1, 40, 7, 16, 33)]
    pending = [toy.submit(batch) for batch in batches]
    for batch, features in reversed(list(zip(batches, pending, strict=True))):
        np.testing.assert_allclose(features()[0], toy_answer(batch), rtol=1e-5, atol=1e-5)


@needs_openvino
def test_openvino_gives_the_same_bits_whatever_the_batch() -> None:
    backbone = load_backbone("resnet18", weights="none", device="cpu", precision="bf16")
    backbone.select_engine(64)
    pixels = photos(64)
    whole = backbone.embed(pixels)
    for size in (1, 5, 13):
        parts = [backbone.embed(pixels[start : start + size]) for start in range(0, len(pixels), size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


@needs_openvino
def test_an_error_inside_of_an_engine_reaches_who_asks_for_the_features() -> None:
    toy = toy_backbone()
    toy.select_engine(8)
    assert toy._selected
    features = toy._selected[1].submit(np.zeros((3, 8, 8, 5), np.uint8))
    with pytest.raises((RuntimeError, ValueError)):
        features()
    np.testing.assert_allclose(  # the engine still works
        toy.embed(np.zeros((3, 8, 8, 3), np.uint8)), toy_answer(np.zeros((3, 8, 8, 3))), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("back_end", ["eager", "inductor"])
def test_compiled_pytorch_keeps_the_features(back_end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if back_end == "inductor" and not os.environ.get("FEATCACHE_COMPILE"):
        pytest.skip("FEATCACHE_COMPILE is not set: compiling takes two minutes")
    if back_end == "eager":  # everything except the compiler
        compiler = torch.compile
        monkeypatch.setattr(torch, "compile", lambda module, **_: compiler(module, dynamic=False, backend="eager"))
        monkeypatch.setattr(select, "has_compiler", lambda _: True)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 5, 4), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 64)
    )
    layers = ("2", "penultimate")
    options = {"name": "small", "image_size": 64, "resize_size": 72, "layers": layers}
    exact = Backbone(network, **options)
    compiled = Backbone(copy.deepcopy(network), precision="bf16", **options)
    compiled.select_engine(64, "compiled")
    assert compiled.engine == "compiled"
    pixels = np.concatenate([photos(64), photos(64)[:11]])  # 35: a full batch, and one that is padded
    expected, features = exact.embed_layers(pixels), compiled.embed_layers(pixels)
    for layer in layers:
        assert features[layer].shape == expected[layer].shape
        assert cosines(expected[layer], features[layer]).mean() >= 0.999
        assert cosines(expected[layer], features[layer]).min() >= 0.995


def test_without_a_compiler_compiling_is_refused_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "has_compiler", lambda _: False)
    with pytest.raises(BackboneError, match=r"needs a C\+\+ compiler .* Install g\+\+, or drop --engine\.$"):
        toy_backbone().select_engine(8, "compiled")


def test_what_auto_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It depends on what is installed and on the number of views. No engine is started."""
    started: list[str] = []
    monkeypatch.setattr(select, "start_engine", lambda name, *_: started.append(name))
    for openvino, compiler, device, precision, views in (
        (True, True, "cpu", "bf16", 10**6),
        (True, True, "cpu", "bf16", 10),
        (False, True, "cpu", "bf16", 10**6),
        (False, True, "cpu", "bf16", 10**3),
        (False, False, "cpu", "bf16", 10**6),
    ):
        monkeypatch.setattr(select, "has_openvino", lambda available=openvino: available)
        monkeypatch.setattr(select, "has_compiler", lambda _, available=compiler: available)
        toy_backbone(device=device, precision=precision).select_engine(8, "auto", views)
    assert started == ["openvino", "pytorch", "compiled", "pytorch", "pytorch"]


@needs_openvino
@pytest.mark.parametrize(
    ("like", "precision", "converted", "views", "expected"),
    [
        ("", "bf16", False, 1, "pytorch"),
        ("", "bf16", True, 1, "openvino"),
        ("openvino", "bf16", False, 1, "openvino"),  # the engine that made the features, even for one view
        ("pytorch", "bf16", True, 1, "pytorch"),  # even with a cached conversion
        ("pytorch", "bf16", True, 10**6, "pytorch"),  # classes do not depend on the number of images
        ("compiled", "bf16", True, 10**6, "openvino"),  # with a note, see below
        ("openvino", "fp32", False, 1, "pytorch"),  # rounding in fp32 changes no class
        ("pytorch", "fp32", True, 1, "openvino"),
    ],
)
def test_auto_takes_the_engine_that_made_the_features(
    like: str,
    precision: str,
    converted: bool,
    views: int,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(select, "has_openvino", lambda: True)
    path = tmp_path / "network.xml"
    if converted:
        path.touch()
    monkeypatch.setattr(Backbone, "_conversion_path", lambda *_: path)
    monkeypatch.setattr(select, "start_engine", lambda name, *_: None if name == "pytorch" else object())
    toy = toy_backbone(device="cpu", precision=precision)
    toy.select_engine(8, "auto", views, like)
    assert toy.engine == expected
    differs = precision == "bf16" and like not in ("", expected)
    assert toy.engine_note == (
        f"the earlier features were computed by {like} in bf16, and {expected} is used now: features differ by about "
        "1 %, and predictions can change"
        if differs
        else ""
    )


def test_nothing_is_reported_to_the_makers_of_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """`openvino.convert_model` would import its telemetry and send data. For the import see test_telemetry.py."""

    def never(*_: object) -> None:
        raise AssertionError("something is sent")

    for name in [name for name in sys.modules if name.startswith("openvino_telemetry")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(socket.socket, "connect", never)
    toy = toy_backbone()
    toy.select_engine(8)
    assert toy.engine == "openvino", toy.note
    assert not any(name.startswith("openvino_telemetry") for name in sys.modules)
