"""A backbone gives the input of the network's last linear layer, from the pixels that its weights expect."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision import models

from commands import PATHS
from featcache.backbones import devices
from featcache.backbones.backbone import Backbone
from featcache.backbones.devices import resolve_device, resolve_precision
from featcache.backbones.load import load_backbone
from featcache.backbones.sources import registry
from featcache.backbones.sources import timm as timm_networks
from featcache.backbones.sources.embedded import embedded_state
from featcache.backbones.sources.package_names import registered_names
from featcache.backbones.weights.load import sha256_of
from featcache.data.manifest import read_manifest
from featcache.errors import BackboneError
from featcache.vision.augment import make_views
from featcache.vision.decode import decode
from toys import ToyNet, random_image, toy_answer, toy_backbone

# Classifier of each family, and the width of its input.
FAMILIES = {
    "resnet18": ("fc", 512),
    "vgg11": ("classifier.6", 4096),
    "alexnet": ("classifier.6", 4096),
    "squeezenet1_1": ("classifier.1", 512),
    "densenet121": ("classifier", 1024),
    "mobilenet_v2": ("classifier.1", 1280),
    "mobilenet_v3_small": ("classifier.3", 1024),
    "efficientnet_b0": ("classifier.1", 1280),
    "convnext_tiny": ("classifier.2", 768),
    "vit_b_32": ("heads.head", 768),
    "swin_t": ("head", 768),
    "regnet_y_400mf": ("fc", 440),
    "inception_v3": ("fc", 2048),
    "googlenet": ("fc", 1024),
    "shufflenet_v2_x0_5": ("fc", 1024),
}
IMAGES = [np.array(random_image(seed, 60, 45, tint=seed)) for seed in range(2)]

Pixels = NDArray[np.uint8]


@contextmanager
def nothing_drawn() -> Iterator[None]:
    """Build networks with zeros: drawing weights is slow, and a file replaces them."""
    names = [name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")]
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(nn.init, name, lambda tensor, *_, **__: tensor.data.zero_())
        yield


def build(name: str) -> nn.Module:
    """A plain torchvision network with random weights and BatchNorm statistics of noise."""
    torch.manual_seed(1)
    options = {"init_weights": False, "transform_input": True} if name in ("inception_v3", "googlenet") else {}
    network = models.get_model(name, weights=None, **options).eval()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = 1.0
    with torch.inference_mode(bool(norms)):
        network(torch.randn(2, 3, 96, 96)) if norms else None
    return network.eval()


def input_of(network: nn.Module, layer: str, inputs: Tensor) -> Tensor:
    return _caught(
        network,
        layer,
        inputs,
        lambda module, caught: module.register_forward_pre_hook(lambda _module, args: caught.append(args[0].clone())),
    )


def output_of(network: nn.Module, layer: str, inputs: Tensor) -> Tensor:
    return _caught(
        network,
        layer,
        inputs,
        lambda module, caught: module.register_forward_hook(
            lambda _module, _args, output: caught.append(output.clone())
        ),
    )


def _caught(network: nn.Module, layer: str, inputs: Tensor, hook: Callable[[nn.Module, list[Tensor]], Any]) -> Tensor:
    caught: list[Tensor] = []
    handle = hook(network.get_submodule(layer), caught)
    with torch.inference_mode():
        network(inputs)
    handle.remove()
    assert len(caught) == 1
    return caught[0]


def load(name: str, network: nn.Module, folder: Path, **options: Any) -> Backbone:
    """A backbone with the weights of a network, by way of a file."""
    path = folder / "weights.pth"
    torch.save(network.state_dict(), path)
    with nothing_drawn():
        backbone = load_backbone(name, weights=str(path), device="cpu", **{"precision": "fp32", **options})
    path.unlink()
    return backbone


def clean_views(backbone: Backbone, images: list[Pixels], size: int | None = None) -> Pixels:
    spec = backbone.view_spec(image_size=size, augment="none")
    return np.concatenate([make_views(image, spec, b"", [0]) for image in images])


def torchvision_inputs(name: str, images: list[Pixels]) -> Tensor:
    """The images after torchvision's preset for this network."""
    preset = next(iter(models.get_model_weights(name))).transforms()
    return torch.stack([preset(Image.fromarray(image)) for image in images])


def close_to(expected: NDArray[Any] | Tensor, actual: NDArray[Any], rounding: float = 1e-4) -> None:
    expected = np.asarray(expected)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=rounding * np.abs(expected).max())


@pytest.mark.parametrize("name", FAMILIES)
def test_embed_is_the_input_of_the_last_linear_layer(name: str, tmp_path: Path) -> None:
    network = build(name)
    backbone = load(name, network, tmp_path)
    pixels = clean_views(backbone, IMAGES)
    grey_level = 1 / 255 / min(backbone.std)
    difference = (backbone.normalise(pixels) - torchvision_inputs(name, IMAGES)).abs() / grey_level
    assert difference.max() < (2.01 if backbone.interpolation == "bicubic" else 1.01)
    assert difference.mean() < 0.05

    if name != "vit_b_32":  # it has a fixed size
        pixels = clean_views(backbone, IMAGES, 96)
    classifier, dim = FAMILIES[name]
    expected = input_of(network, classifier, backbone.normalise(pixels))
    if name == "squeezenet1_1":
        expected = expected.mean((2, 3))
    features = backbone.embed(pixels)
    assert features.shape == (2, dim)
    assert backbone.dim == dim
    assert np.abs(features[0] - features[1]).max() > 1e-3 * np.abs(features).max()
    close_to(expected, features)


def test_auxiliary_classifiers_are_gone_in_training_too() -> None:
    with nothing_drawn():
        module = load_backbone("googlenet", weights="none", device="cpu").trainable_module().train()
    out = module(torch.zeros(2, 3, 64, 64))
    assert isinstance(out, Tensor)
    assert out.shape == (2, 1024)
    assert not any("aux" in name for name in module.state_dict())


def test_the_toy_backbone_gives_the_known_answer() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    backbone = toy_backbone()
    np.testing.assert_allclose(backbone.embed(pixels), toy_answer(pixels), rtol=1e-5, atol=1e-5)
    assert backbone.embed(pixels).dtype == np.float32
    assert backbone.dims == {"penultimate": 3}


def test_a_network_given_in_training_mode_is_frozen() -> None:
    network = ToyNet().train()
    backbone = Backbone(network, name="toy", image_size=8, resize_size=10)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    backbone.embed(np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8))
    assert not backbone.module.training
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.module.state_dict().items())


def test_training_the_trainable_copy_leaves_the_backbone_alone() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    backbone = Backbone(network, name="small", image_size=8, resize_size=8)
    before = backbone.embed(pixels)
    module = backbone.trainable_module().train()
    assert all(parameter.requires_grad for parameter in module.parameters())
    module(backbone.normalise(pixels)).square().sum().backward()
    torch.optim.SGD(module.parameters(), 0.1).step()
    np.testing.assert_array_equal(backbone.embed(pixels), before)
    with torch.inference_mode():
        assert not np.allclose(module.eval()(backbone.normalise(pixels)), before)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_batch_size_changes_no_feature_beyond_rounding(name: str) -> None:
    backbone = load_backbone(name, weights="none", device="cpu", precision="fp32")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    whole = backbone.embed(pixels)
    close_to(whole, np.concatenate([backbone.embed(pixels[row : row + 1]) for row in range(6)]), 1e-5)
    close_to(whole[::-1], backbone.embed(np.ascontiguousarray(pixels[::-1])), 1e-5)


def test_bf16_is_close_to_fp32(tmp_path: Path) -> None:
    network = build("resnet18")
    pixels = np.stack([np.array(random_image(seed, 64, 64, tint=seed)) for seed in range(4)])
    exact, rough = (
        load("resnet18", network, tmp_path, precision=precision).embed(pixels) for precision in ("fp32", "bf16")
    )
    cosine = (exact * rough).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    assert cosine.min() > 0.999
    assert rough.dtype == np.float32
    assert not np.array_equal(exact, rough)


def test_random_weights_depend_on_the_seed_and_on_nothing_else() -> None:
    hashes = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(hashes))
        hashes.append(load_backbone("squeezenet1_1", weights="none", device="cpu", seed=seed).weights_sha256)
    assert hashes[0] == hashes[1] != hashes[2]


def test_loading_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    load_backbone("squeezenet1_1", weights="none", device="cpu")
    assert torch.equal(torch.rand(3), expected)


def test_layers_by_name_are_averaged_over_their_places(tmp_path: Path) -> None:
    network = build("resnet18")
    layers = ("layer2.0", "penultimate", "layer3")
    backbone = load("resnet18", network, tmp_path, layers=layers)
    pixels = clean_views(backbone, IMAGES, 96)
    features = backbone.embed_layers(pixels)
    inputs = backbone.normalise(pixels)
    assert backbone.dims == {"layer2.0": 128, "penultimate": 512, "layer3": 256}
    assert list(features) == list(layers)
    close_to(input_of(network, "fc", inputs), features["penultimate"])
    close_to(output_of(network, "layer3", inputs).mean((2, 3)), features["layer3"])
    close_to(output_of(network, "layer2.0", inputs).mean((2, 3)), features["layer2.0"])
    np.testing.assert_array_equal(backbone.embed(pixels), features["penultimate"])


def test_without_the_penultimate_layer_embed_gives_the_first_one(tmp_path: Path) -> None:
    network = build("resnet18")
    backbone = load("resnet18", network, tmp_path, layers=("layer3", "layer1"))
    pixels = clean_views(backbone, IMAGES, 96)
    assert (backbone.main_layer, backbone.dim) == ("layer3", 256)
    close_to(output_of(network, "layer3", backbone.normalise(pixels)).mean((2, 3)), backbone.embed(pixels))


def test_tokens_are_averaged_over_their_places() -> None:
    layers = ("blocks.0", "penultimate")
    backbone = load_backbone("timm/test_vit", weights="none", layers=layers, device="cpu", precision="fp32")
    pixels = clean_views(backbone, IMAGES)
    expected = output_of(backbone.module, "blocks.0", backbone.normalise(pixels))
    assert expected.ndim == 3
    close_to(expected.mean(1), backbone.embed_layers(pixels)["blocks.0"])


def test_maps_with_channels_last_are_averaged_over_their_places_too() -> None:
    backbone = load_backbone("timm/test_mambaout", weights="none", layers=("stages.1",), device="cpu", precision="fp32")
    pixels = clean_views(backbone, IMAGES)
    expected = output_of(backbone.module, "stages.1", backbone.normalise(pixels))
    assert expected.shape == (2, 20, 20, 32)
    assert backbone.dims == {"stages.1": 32}
    close_to(expected.mean((1, 2)), backbone.embed(pixels))


def test_a_layer_is_kept_as_it_was_before_an_activation_in_place(tmp_path: Path) -> None:
    network = build("mobilenet_v3_small")
    backbone = load("mobilenet_v3_small", network, tmp_path, layers=("classifier.0",))
    pixels = clean_views(backbone, IMAGES, 96)
    close_to(output_of(network, "classifier.0", backbone.normalise(pixels)), backbone.embed(pixels))


def test_an_unknown_layer_is_refused_with_the_names_of_the_stages() -> None:
    with pytest.raises(BackboneError) as error:
        load_backbone("squeezenet1_1", weights="none", layers=("layer9",), device="cpu")
    assert str(error.value) == (
        "squeezenet1_1 has no layer 'layer9'; its parts are features, classifier. `--layers stages` selects the ends "
        "of its stages."
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_layer_that_no_picture_passes_is_refused(precision: str) -> None:
    with pytest.raises(BackboneError) as error:
        load_backbone(layers=("penultimate", "blocks.0.0.drop_path"), device="cpu", precision=precision)
    assert (
        str(error.value)
        == "layer blocks.0.0.drop_path of efficientnet_lite0 is not used in the forward pass. Choose another layer."
    )


def test_view_spec_has_the_networks_preprocessing() -> None:
    backbone = toy_backbone(interpolation="bicubic")
    spec = backbone.view_spec(augment="crop", seed=3)
    assert (spec.image_size, spec.resize_size, spec.interpolation) == (8, 10, "bicubic")
    assert (spec.augment, spec.seed) == ("crop", 3)
    wider = backbone.view_spec(image_size=16)
    assert (wider.image_size, wider.resize_size) == (16, 20)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("efficientnet_lite0", "pretrained"), ("timm/test_vit.r160_in1k", "none"), ("timm/test_resnet", "none"),
        ("mobilenet_v3_small", "none"), ("googlenet", "none"),
    ],
)  # fmt: skip
def test_preprocessing_is_known_by_name_as_the_built_network_has_it(name: str, weights: str) -> None:
    assert registry.preprocessing(name, weights) == registry.build(name, weights, 0)[1]


@pytest.mark.parametrize("name", ["toy", "timm/toy", "resnet"])
def test_of_other_networks_no_preprocessing_is_known(name: str) -> None:
    assert registry.preprocessing(name, "pretrained") is None


def test_weights_of_ones_own_have_the_preprocessing_of_the_first_recipe() -> None:
    sizes = [registry.preprocessing("resnet50", weights)["resize_size"] for weights in ("pretrained", "w.pth")]
    assert sizes == [232, 256]


def test_preprocessing_of_the_embedded_network_is_timms() -> None:
    backbone = load_backbone("efficientnet_lite0", weights="none", device="cpu")
    assert (backbone.image_size, backbone.resize_size, backbone.interpolation) == (224, 256, "bicubic")
    assert (backbone.mean, backbone.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_the_embedded_network_is_timms_with_the_packages_weights() -> None:
    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(embedded_state(network))
    backbone = load_backbone(device="cpu", precision="fp32")
    pixels = clean_views(backbone, IMAGES)
    with torch.inference_mode():
        inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        expected = network.forward_head(network.forward_features(inputs), pre_logits=True)
    assert (backbone.name, backbone.weights, backbone.dim) == ("efficientnet_lite0", "pretrained", 1280)
    close_to(expected, backbone.embed(pixels))


@pytest.mark.parametrize("model", ["test_vit", "test_resnet", "test_efficientnet", "test_convnext", "test_nfnet"])
def test_a_timm_network_gives_its_pre_logits(model: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = timm.create_model(model).eval()
    backbone = load(f"timm/{model}", network, tmp_path)
    config = timm.data.resolve_model_data_config(network)
    assert (backbone.mean, backbone.std) == (config["mean"], config["std"])
    assert backbone.image_size == config["input_size"][-1]
    pixels = clean_views(backbone, IMAGES)
    with torch.inference_mode():
        features = network.forward_features(backbone.normalise(pixels))
        expected = network.forward_head(features, pre_logits=True)
    close_to(expected, backbone.embed(pixels))


def test_a_timm_network_without_a_classifier_takes_every_tensor_of_the_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = timm.create_model("eva02_tiny_patch14_224").eval()
    backbone = load("timm/eva02_tiny_patch14_224", network, tmp_path)
    assert backbone.weights_sha256 == sha256_of(network.state_dict())


def test_a_timm_network_has_seeded_random_weights() -> None:
    hashes = [
        load_backbone("timm/test_vit", weights="none", device="cpu", seed=seed).weights_sha256 for seed in (0, 0, 1)
    ]
    assert hashes[0] == hashes[1] != hashes[2]


NEAR = {
    "resnet19": ["resnet18", "timm/resnet18"],
    "ResNet18": ["resnet18", "timm/resnet18"],
    "vit_small_patch16_224": ["timm/vit_small_patch16_224"],
    "timm/vit_smal_patch16_224": ["timm/vit_small_patch16_224"],
    "dinov2": ["timm/vit_base_patch14_dinov2"],
    "timm/test_nothing": ["timm/test_coatnet"],
    "timm/resnet18.a1": ["timm/resnet18.a1_in1k"],
}


@pytest.mark.parametrize("name", NEAR)
def test_a_name_that_does_not_exist_is_refused_with_the_best_match_first(name: str) -> None:
    with pytest.raises(BackboneError) as error:
        load_backbone(name, weights="none", device="cpu")
    suggested = str(error.value).partition("; close: ")[2] or str(error.value).partition("; it has ")[2]
    assert suggested.removesuffix(".").split(". Use ")[0].split(", ")[: len(NEAR[name])] == NEAR[name]


def test_the_names_in_the_sources_are_those_of_the_packages() -> None:
    assert list(registered_names("timm")) == sorted(timm.list_models())
    assert list(registered_names("torchvision")) == sorted(models.list_models(module=models))


@pytest.mark.parametrize("name", ["timm/vit_smal_patch16_224", "resnet19"])
def test_a_name_that_nobody_has_is_refused_before_imports_and_images(name: str, tmp_path: Path) -> None:
    """With the message of `build`, which imports everything."""
    with pytest.raises(BackboneError) as caught:
        registry.build(name, "none", 0)
    expected = str(caught.value)
    code = f"""
import sys
import featcache
for call in (featcache.load_backbone, lambda name: featcache.extract("gone", "{tmp_path}/c.h5", backbone=name),
             lambda name: featcache.estimate("gone", "{tmp_path}/c.h5", backbone=name),
             lambda name: featcache.finetune("gone", "{tmp_path}/run", backbone=name),
             lambda name: featcache.try_out("gone", "{tmp_path}/try", backbone=name)):
    try:
        call({name!r})
    except featcache.FeatcacheError as error:
        print(error)
print({{"torchvision", "timm", "openvino"}} & set(sys.modules))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": PATHS},
        check=True,
    )
    assert ran.stdout.splitlines() == [expected] * 5 + ["set()"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["timm/vit_tiny_patch16_224_in21k", "module:factory", "timm/hf-hub:a/b", 5])
def test_a_name_that_somebody_may_know_passes(name: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "timm")  # an imported timm may have more models
    registry.check_name(name)
    assert "timm" not in sys.modules


@pytest.mark.parametrize("name", ["hf-hub:user/network", "local-dir:folder"])
def test_a_place_of_timms_networks_is_refused_with_the_name_that_loads_it(name: str) -> None:
    with pytest.raises(BackboneError) as error:
        load_backbone(name, weights="none", device="cpu")
    assert str(error.value).endswith(f"timm loads such networks, as timm/{name}")


def test_a_name_like_no_other_is_refused() -> None:
    with pytest.raises(BackboneError) as error:
        load_backbone("timm/qqqqq", weights="none", device="cpu")
    assert str(error.value) == "timm has no model 'qqqqq'"


@pytest.mark.parametrize("model", ["test_vit", "test_vit.r160_in1k", "hf-hub:timm/test_vit.r160_in1k"])
def test_timm_weights_that_cannot_be_had_name_the_ways_out_after_one_try(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = []

    def offline(url: str, **_: Any) -> None:
        requests.append(url)
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", offline)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(timm_networks, "_hub_cache", lambda: "HUB")
    with pytest.raises(BackboneError) as error:
        load_backbone(f"timm/{model}", device="cpu")
    assert str(error.value) == (
        f"the pretrained weights of timm/{model} are not available (no route to host). Put "
        f"{'config.json and ' * model.startswith('hf-hub')}model.safetensors of "
        "timm/test_vit.r160_in1k into the Hugging Face cache (HUB), pass --weights PATH, or use the "
        "embedded --backbone efficientnet_lite0, which needs no download."
    )
    assert len(requests) == 1


@pytest.mark.parametrize("weights", ["none", "FILE"])
def test_a_repository_without_its_config_is_asked_for_once(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = []

    def offline(url: str, **_: Any) -> None:
        requests.append(url)
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", offline)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(timm_networks, "_hub_cache", lambda: "HUB")
    (tmp_path / "FILE").touch()
    with pytest.raises(BackboneError) as error:
        load_backbone("timm/hf-hub:me/net", weights=weights.replace("FILE", str(tmp_path / "FILE")), device="cpu")
    assert str(error.value) == (
        "the config of timm/hf-hub:me/net is not available (no route to host). Put config.json and model.safetensors "
        "of me/net into the Hugging Face cache (HUB) or use the embedded --backbone efficientnet_lite0, which needs no "
        "download."
    )
    assert len(requests) == 1


@pytest.mark.parametrize("revision", ["main", "v2"])
def test_a_repository_that_was_downloaded_loads_offline_with_its_own_preprocessing(
    revision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=3)
    preprocessing = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "interpolation": "bilinear"}
    network.pretrained_cfg = {**network.pretrained_cfg, **preprocessing}
    repository = tmp_path / "models--me--net"
    timm.models.save_for_hf(network, repository / "snapshots" / ("a" * 40), safe_serialization=True)
    (repository / "refs").mkdir()
    (repository / "refs" / revision).write_text("a" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    name = "timm/hf-hub:me/net" + ("" if revision == "main" else f"@{revision}")
    backbone = load_backbone(name, device="cpu")
    rest = {key: value for key, value in network.state_dict().items() if not key.startswith("fc.")}
    assert backbone.weights_sha256 == sha256_of(rest)
    assert {what: getattr(backbone, what) for what in preprocessing} == preprocessing
    torch.save({"state_dict": rest}, tmp_path / "w.pth")  # its config with other weights
    backbone = load_backbone(name, weights=str(tmp_path / "w.pth"), device="cpu", std=(1, 1, 1))
    assert (backbone.weights_sha256, backbone.mean, backbone.std) == (
        sha256_of(rest),
        preprocessing["mean"],
        (1.0, 1.0, 1.0),
    )


def test_a_folder_without_weights_names_what_belongs_there(tmp_path: Path) -> None:
    timm.models.save_for_hf(timm.create_model("test_resnet"), tmp_path, safe_serialization=True)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match=rf"not available \(.*\)\. Put model\.safetensors into {tmp_path}, pass"):
        load_backbone(f"timm/local-dir:{tmp_path}", device="cpu")


def test_a_timm_network_without_published_weights_is_not_given_random_ones() -> None:
    with pytest.raises(BackboneError, match=r"are not available \(No pretrained weights exist for"):
        load_backbone("timm/efficientnet_lite1", device="cpu")


def test_devices_and_precisions_that_cannot_be_are_refused() -> None:
    with pytest.raises(BackboneError, match=r"^device 'abacus' cannot be used: .*Try --device auto or cpu\.$"):
        resolve_device("abacus")
    with pytest.raises(BackboneError) as error:
        resolve_precision("fp8", "cpu")
    assert str(error.value) == "precision is 'fp8'; it must be auto, fp32, bf16, fp16"
    with pytest.raises(BackboneError) as error:
        resolve_precision("fp16", "cpu")
    assert str(error.value) == "fp16 on a CPU is slow and overflows; use bf16 or fp32"


@pytest.mark.parametrize(("fast", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_precision_on_a_cpu_follows_the_hardware(
    fast: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = "flags : fpu avx512_bf16 amx" if fast else "flags : fpu avx2"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: flags)
    assert resolve_precision("auto", "cpu") == expected


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_precision_on_a_gpu_follows_its_generation(
    capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert resolve_precision("auto", "cuda") == expected


def photos(folder: Path, backbone: Backbone, per_class: int) -> tuple[Pixels, NDArray[np.int64], int]:
    """Clean views and labels of the first photos of each class, train before val, and the number of train photos."""
    manifest = read_manifest(folder)
    chosen = [
        row
        for split in ("train", "val")
        for label in (0, 1)
        for row in [r for r in manifest.samples.rows(split) if manifest.samples.labels[r] == label][:per_class]
    ]
    images = [decode(manifest.path(row).read_bytes()) for row in chosen]
    return clean_views(backbone, images), manifest.samples.labels[chosen], 2 * per_class


def test_imagenet_features_separate_ants_from_bees(mobilenet_weights: Path, ants_bees: Path) -> None:
    backbone = load_backbone("mobilenet_v2", weights=str(mobilenet_weights), device="cpu", precision="fp32")
    pixels, labels, trained = photos(ants_bees, backbone, 8)
    x = backbone.embed(pixels)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    centres = np.stack([x[:trained][labels[:trained] == label].mean(0) for label in (0, 1)])
    guesses = (x[trained:] @ centres.T).argmax(1)
    assert (guesses == labels[trained:]).mean() >= 0.85
    rough = load_backbone("mobilenet_v2", weights=str(mobilenet_weights), device="cpu", precision="bf16").embed(pixels)
    rough /= np.linalg.norm(rough, axis=1, keepdims=True)
    assert (x * rough).sum(1).min() > 0.98


SIZES = {
    (
        "timm/test_vit",
        225,
    ): "timm/test_vit cuts images into patches of 16 pixels, and 225 is not a multiple of 16: choose "
    "--image-size 224 or 240",
    ("timm/test_vit", 7): "timm/test_vit cuts images into patches of 16 pixels, and 7 is not a multiple of 16: choose "
    "--image-size 16 or a multiple of it",
    ("timm/vit_tiny_patch16_224", 230): "timm/vit_tiny_patch16_224 cuts images into patches of 16 pixels, and 230 is "
    "not a multiple of 16: choose --image-size 224 or 240",
    ("vit_b_32", 225): "vit_b_32 cannot be built for 225 pixels (Input shape indivisible by patch size!). Choose "
    "--image-size 224 or 256, multiples of its patches.",
    ("timm/levit_128s", 225): "timm/levit_128s does not accept images of 225 pixels. Drop --image-size.",
}


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_a_size_that_a_network_is_not_built_for_is_refused_with_those_that_are(name: str, size: int) -> None:
    with pytest.raises(BackboneError) as error:
        load_backbone(name, weights="none", device="cpu", image_size=size)
    assert str(error.value) == SIZES[name, size]


def test_an_image_size_that_a_network_cannot_take_is_refused() -> None:
    backbone = load_backbone("vit_b_32", weights="none", device="cpu")
    with pytest.raises(BackboneError) as error:
        backbone.view_spec(image_size=64)
    assert str(error.value) == (
        "vit_b_32 takes images of 224 pixels, not of 64 (Wrong image height! Expected 224 but got 64!). "
        "Drop --image-size, or choose another network."
    )
    assert load_backbone("resnet18", weights="none", device="cpu").view_spec(image_size=64).image_size == 64


@pytest.mark.parametrize(("fast", "expected"), [(True, "bf16"), (False, "fp32")])
def test_the_default_precision_is_that_of_the_hardware(
    fast: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_cpu_multiplies_bf16", lambda: fast)
    assert load_backbone("squeezenet1_1", weights="none", device="cpu").precision == expected
