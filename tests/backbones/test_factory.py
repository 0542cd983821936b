"""The user's own network can be used again with what was made with it. Sizes and preprocessing that differ from the
usual ones come back with a saved head.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from commands import as_json, featcache_cli, refused, write_folder
from featcache.backbones.backbone import Backbone
from featcache.backbones.factory import call_factory, from_factory
from featcache.backbones.load import load_backbone
from featcache.backbones.weights.load import sha256_of
from featcache.cache.feature_cache import FeatureCache
from featcache.errors import BackboneError, CacheMismatchError, ExportError
from featcache.extraction.extract import extract
from featcache.extraction.update import update
from featcache.finetuning.finetune import finetune
from featcache.heads.fit_head import fit_head
from featcache.models.classifier import Classifier
from featcache.models.export.export import export
from featcache.training.loop import TrainConfig

FACTORY = """
import torch
from torch import nn


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.layer = nn.Conv2d(3, 6, 3, 2)

    def forward(self, x):
        return self.layer(x).relu().mean((2, 3))


def build():
    return Own()


def wrapped():
    from featcache.backbones.backbone import Backbone

    return Backbone(Own(), name="wrapped", image_size=16, resize_size=18, interpolation="bicubic",
                    mean=(0.5, 0.5, 0.5), std=(0.2, 0.3, 0.4))


def broken():
    raise ValueError("no such GPU")


def text():
    return "a text"
"""


class Own(nn.Module):
    def __init__(self, seed: int = 4) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Conv2d(3, 6, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).relu().mean((2, 3))


class Maps(Own):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Pairs(Own):
    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"features": self.layer(x)}


def backbone(module: nn.Module | None = None) -> Backbone:
    mean = (0.5, 0.4, 0.3)
    return Backbone(module or Own(), name="mine", image_size=16, resize_size=18, mean=mean, std=mean)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "data", {"train/a": 4, "train/b": 4, "val/a": 2, "val/b": 2})


@pytest.fixture
def head(data: Path, tmp_path: Path) -> Path:
    extract(data, tmp_path / "own.h5", backbone=backbone(), views=1)
    fit_head(tmp_path / "own.h5", tmp_path / "head", head="centroid")
    return tmp_path / "head"


def test_a_head_on_an_own_network_asks_for_it(head: Path) -> None:
    with pytest.raises(BackboneError) as error:
        Classifier.load(head)
    assert str(error.value) == (
        f"{head} was made with your own network 'mine', and stores only its name. Pass the network: "
        "--backbone MODULE:FACTORY, or backbone=... in Python."
    )


@pytest.mark.parametrize("network", [Own(), backbone()], ids=["module", "Backbone"])
def test_given_again_it_predicts_what_the_head_said_of_val(network: object, head: Path, data: Path) -> None:
    classifier = Classifier.load(head, backbone=network, device="cpu")  # type: ignore[arg-type]
    assert (classifier.backbone.mean, classifier.backbone.image_size) == ((0.5, 0.4, 0.3), 16)
    predictions = classifier.predict(sorted((data / "val").rglob("*.png")))
    rows = (head / "val.csv").read_text().splitlines()[1:]
    expected = {row.split(",")[0]: row.split(",")[2] for row in rows}
    paths = [Path(prediction.path) for prediction in predictions]
    labels = {f"val/{path.parent.name}/{path.name}": item.label for path, item in zip(paths, predictions, strict=True)}
    assert labels == expected


def test_other_weights_are_refused(head: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"--backbone has .* Give the network with the weights it had then"):
        Classifier.load(head, backbone=Own(seed=5))
    with pytest.raises(CacheMismatchError, match="those of --backbone are"):
        update(tmp_path / "own.h5", data, views=2, backbone=Own(seed=5))


def test_update_takes_it_too(head: Path, data: Path, tmp_path: Path) -> None:
    result = update(tmp_path / "own.h5", data, views=2, backbone=Own())
    assert result.shown == 8
    assert FeatureCache.open(tmp_path / "own.h5").spec.views == 2


def test_the_users_module_stays_as_it_was_and_a_trained_one_comes_back(data: Path, tmp_path: Path) -> None:
    finetune(data, tmp_path / "run", backbone=backbone(), config=TrainConfig(epochs=1, batch_size=4))
    module = Own().train()
    before = sha256_of(module.state_dict())
    classifier = Classifier.load(tmp_path / "run", backbone=module, device="cpu")
    assert sha256_of(module.state_dict()) == before
    assert module.training
    assert len(classifier.predict(data / "val/a/000.png")) == 1
    with pytest.raises(BackboneError, match="your own network 'mine'"):
        Classifier.load(tmp_path / "run")


def test_it_is_exported_as_a_graph_alone(head: Path, tmp_path: Path) -> None:
    done = export(head, tmp_path / "n.pt2", "torch-export", backbone=Own())
    assert done.difference < 1e-4
    with pytest.raises(ExportError, match=r"^mine is your own network, which no library builds"):
        export(head, tmp_path / "n.pth", "state-dict", backbone=Own())


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Maps(), r"mine returns \(1, 6, 7, 7\) for one image, expected features \(1, d\)"),
        (Pairs(), r"mine returns a dict, expected a tensor of features \(b, d\)"),
    ],
)
def test_what_is_no_features_is_refused_before_the_work(module: nn.Module, reason: str) -> None:
    with pytest.raises(BackboneError, match=reason):
        backbone(module)


def test_features_that_are_never_finite_are_refused_before_the_work() -> None:
    module = Own()
    nn.init.constant_(module.layer.bias, float("nan"))
    with pytest.raises(BackboneError, match="mine returns features that are not finite for any image"):
        backbone(module)


def test_the_command_line_takes_a_factory_and_asks_for_it_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cli_factory.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    as_json("extract", data, "-o", "f.h5", "--backbone", "cli_factory:wrapped", "--views", 1, "--device", "cpu")
    spec = FeatureCache.open("f.h5").spec
    assert (spec.backbone, spec.view.image_size, spec.view.mean) == ("wrapped", 16, (0.5, 0.5, 0.5))
    assert (spec.view.std, spec.view.interpolation) == ((0.2, 0.3, 0.4), "bicubic")
    as_json("fit-head", "f.h5", "-o", "head", "--head", "centroid")
    assert "your own network 'wrapped'" in refused("predict", "head", data / "val")
    predicted = as_json("predict", "head", data / "val", "--backbone", "cli_factory:build")
    assert len(predicted["predictions"]) == 4
    assert "--backbone MODULE:FACTORY" in refused("evaluate", "head", data)
    assert as_json("evaluate", "head", data, "--backbone", "cli_factory:build")["images"] == 4
    for factory in ("cli_factory:build", "cli_factory:wrapped"):  # a module, and a Backbone
        report = json.loads(featcache_cli("doctor", "f.h5", data, "--backbone", factory, "--json").stdout)
        assert [check["looked"] for check in report["checks"] if check["name"] == "network"] == [True]
    as_json("update", "f.h5", data, "--views", 2, "--backbone", "cli_factory:build")
    assert FeatureCache.open("f.h5").spec.views == 2


def test_a_plain_module_is_named_by_its_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "named_factory.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    backbone = from_factory("named_factory:build", layers=("penultimate", "layer"), device="cpu")
    assert (backbone.name, backbone.dims) == ("named_factory:build", {"penultimate": 6, "layer": 6})
    with pytest.raises(BackboneError) as error:
        call_factory("named_factory:broken")
    assert str(error.value) == "the factory named_factory:broken failed: ValueError: no such GPU"
    with pytest.raises(BackboneError, match=r"^named_factory:text returns a str; a factory must return an nn\.Module"):
        call_factory("named_factory:text")
    with pytest.raises(BackboneError, match="ModuleNotFoundError"):
        call_factory("nowhere.at.all:build")


def test_a_factory_is_never_called_because_a_file_says_so(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "idle_factory.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    extract(data, tmp_path / "f.h5", backbone=from_factory("idle_factory:build", device="cpu"), views=0, image_size=32)
    fit_head(tmp_path / "f.h5", tmp_path / "head", head="centroid")
    (tmp_path / "idle_factory.py").write_text("raise SystemExit('imported')")
    with pytest.raises(BackboneError, match="--backbone idle_factory:build, or backbone="):
        Classifier.load(tmp_path / "head")


def test_a_run_of_finetune_is_weights_with_its_own_preprocessing(data: Path, tmp_path: Path) -> None:
    name = "timm/test_resnet"
    options = {"weights": "none", "image_size": 32, "config": TrainConfig(epochs=1, batch_size=4)}
    finetune(data, tmp_path / "run", backbone=name, device="cpu", **options)  # type: ignore[arg-type]
    trained = Classifier.load(tmp_path / "run", device="cpu").backbone
    for weights in (tmp_path / "run", tmp_path / "run/network.safetensors"):
        backbone = load_backbone(name, weights=str(weights), device="cpu")
        assert backbone.weights_sha256 == sha256_of(trained.module.state_dict())
        assert backbone.image_size == 32
        assert "stripped the prefix body." in backbone.note
    lazy = load_backbone(name, weights=str(tmp_path / "run"), device="cpu", lazy=True)
    assert not hasattr(lazy._module, "state_dict")
    with pytest.raises(BackboneError, match="holds weights of timm/test_resnet, not of resnet18: --backbone timm/"):
        load_backbone("resnet18", weights=str(tmp_path / "run"), device="cpu")
    exported = export(tmp_path / "run", tmp_path / "plain.pth", "state-dict")
    assert load_backbone(name, weights=str(exported.path), device="cpu").weights_sha256 == backbone.weights_sha256


def test_folders_that_are_no_weights_are_told_apart(head: Path, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="holds only a head"):
        load_backbone("resnet18", weights=str(head), device="cpu")
    with pytest.raises(BackboneError, match=r"is a folder without model\.json"):
        load_backbone("resnet18", weights=str(tmp_path), device="cpu")


def test_a_transformer_is_built_for_another_size_and_comes_back(data: Path, tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224"
    torch.manual_seed(0)
    usual = timm.create_model(name)
    torch.save(usual.state_dict(), tmp_path / "w.pth")
    options = {"weights": str(tmp_path / "w.pth"), "device": "cpu"}
    small = load_backbone(f"timm/{name}", image_size=64, **options)
    assert (small.image_size, small.view_spec().resize_size) == (64, round(64 / 0.9))
    overlay = {"state_dict": usual.state_dict()}
    expected = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, img_size=64)
    expected.reset_classifier(0)
    assert small.weights_sha256 == sha256_of(expected.state_dict())
    assert small.note == "w.pth: interpolated pos_embed from (1, 197, 192) to (1, 17, 192) as timm does"
    extract(data, tmp_path / "v.h5", backbone=f"timm/{name}", image_size=64, views=0, **options)
    fit_head(tmp_path / "v.h5", tmp_path / "vit", head="centroid")
    assert Classifier.load(tmp_path / "vit", device="cpu").backbone.weights_sha256 == small.weights_sha256
    fit_head(tmp_path / "v.h5", tmp_path / "linear", head="linear")
    assert export(tmp_path / "linear", tmp_path / "vit.pth", "state-dict").difference < 1e-4


def test_dinov2_at_224_pixels_has_its_positions_interpolated_as_timm_does(tmp_path: Path) -> None:
    """Its own file has 518 pixels, a mask token, and no classifier."""
    name = "vit_small_patch14_dinov2.lvd142m"
    torch.manual_seed(0)
    usual = timm.create_model(name.partition(".")[0])
    nn.init.normal_(usual.pos_embed)
    nn.init.uniform_(usual.blocks[0].ls1.gamma)
    state = {**usual.state_dict(), "mask_token": torch.ones(1, 384)}
    assert state["pos_embed"].shape == (1, 1370, 384)
    torch.save(state, tmp_path / "w.pth")
    backbone = load_backbone(
        f"timm/{name}", weights=str(tmp_path / "w.pth"), device="cpu", image_size=224, precision="fp32"
    )
    overlay = {"state_dict": dict(state)}
    expected = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, img_size=224)
    assert expected.pos_embed.shape == (1, 257, 384)
    assert backbone.weights_sha256 == sha256_of(expected.state_dict())
    assert backbone.note == (
        "w.pth: converted names as timm does, interpolated pos_embed from (1, 1370, 384) to (1, 257, 384) as timm does"
    )
    view = backbone.view_spec(image_size=224)
    assert (view.image_size, view.resize_size, backbone.dim, backbone.mean[0]) == (224, 224, 384, 0.485)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    with torch.inference_mode():
        features = expected.eval()(backbone.normalise(pixels))
    np.testing.assert_allclose(backbone.embed(pixels), features, rtol=1e-3, atol=1e-4)
    random = load_backbone(f"timm/{name}", weights="none", device="cpu", image_size=224)
    assert random.view_spec().image_size == 224


def test_a_network_that_takes_any_size_stays_as_it_was() -> None:
    options = {"weights": "none", "device": "cpu"}
    usual, small = (load_backbone("timm/test_resnet", image_size=size, **options) for size in (None, 96))
    assert small.weights_sha256 == usual.weights_sha256
    assert small.image_size == usual.image_size


def test_own_mean_deviation_and_interpolation_come_back_with_the_head(data: Path, tmp_path: Path) -> None:
    statistics = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    loaded = load_backbone("timm/test_resnet", weights="none", device="cpu", interpolation="bicubic", **statistics)
    assert (loaded.mean, loaded.std, loaded.interpolation) == (*statistics.values(), "bicubic")
    extract(data, tmp_path / "c.h5", backbone=loaded, views=0, image_size=32)
    spec = FeatureCache.open(tmp_path / "c.h5").spec
    assert (spec.view.mean, spec.view.std, spec.view.interpolation) == (*statistics.values(), "bicubic")
    assert load_backbone("timm/test_resnet", weights="none", device="cpu").interpolation == "bilinear"
    fit_head(tmp_path / "c.h5", tmp_path / "h", head="centroid")
    reloaded = Classifier.load(tmp_path / "h", device="cpu").backbone
    assert (reloaded.mean, reloaded.std, reloaded.interpolation) == (*statistics.values(), "bicubic")


def test_a_folder_that_timm_wrote_has_its_own_preprocessing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=3)
    preprocessing = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "interpolation": "lanczos"}
    network.pretrained_cfg = {**network.pretrained_cfg, **preprocessing}
    timm.models.save_for_hf(network, tmp_path / "net", safe_serialization=True)
    backbone = load_backbone(f"timm/local-dir:{tmp_path / 'net'}", device="cpu")
    rest = {name: value for name, value in network.state_dict().items() if not name.startswith("fc.")}
    assert backbone.weights_sha256 == sha256_of(rest)
    assert (backbone.mean, backbone.std) == (preprocessing["mean"], preprocessing["std"])
    overridden = load_backbone(f"timm/local-dir:{tmp_path / 'net'}", device="cpu", mean=(0.5, 0.5, 0.5))
    assert (overridden.mean, overridden.std, overridden.weights_sha256) == (
        (0.5, 0.5, 0.5),
        preprocessing["std"],
        backbone.weights_sha256,
    )
    assert "images are resized bilinear, not lanczos" in backbone.note
    assert json.loads((tmp_path / "net/config.json").read_text())["architecture"] == "test_resnet"
    with pytest.raises(BackboneError, match=r"has no config\.json: timm/local-dir:"):
        load_backbone(f"timm/local-dir:{tmp_path}", device="cpu")


def test_the_key_is_an_option(data: Path, tmp_path: Path) -> None:
    network = timm.create_model("test_resnet")
    states = {"state_dict": timm.create_model("test_resnet").state_dict(), "model_ema": network.state_dict()}
    torch.save(states, tmp_path / "w.pth")
    common = ("--backbone", "timm/test_resnet", "--image-size", 32, "--views", 0, "--device", "cpu")
    as_json(
        "extract", data, "-o", tmp_path / "k.h5", "--weights-key", "model_ema", "--weights", tmp_path / "w.pth", *common
    )
    cache = FeatureCache.open(tmp_path / "k.h5")
    rest = {name: value for name, value in network.state_dict().items() if not name.startswith("fc.")}
    assert cache.spec.weights_sha256 == sha256_of(rest)
    assert cache.provenance["weights"] == f"{tmp_path / 'w.pth'}#model_ema"
    fit_head(tmp_path / "k.h5", tmp_path / "kh", head="centroid")
    assert np.isfinite(
        [prediction.top[0][1] or 0 for prediction in Classifier.load(tmp_path / "kh").predict(data / "val/a/000.png")]
    ).all()
    assert "it needs --weights PATH: it selects a state dict of that file" in refused(
        "extract", data, "-o", "x.h5", "--weights-key", "ema", *common, status=2
    )
