"""Weights: the same hash in every file format, loaded strictly except for the classifier, never executed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from featcache.backbones.load import load_backbone
from featcache.backbones.sources.torchvision import download_folder
from featcache.backbones.weights.load import load_state, read_state, sha256_of
from featcache.errors import BackboneError
from toys import toy_backbone

NAME = "squeezenet1_1"


class Net(nn.Module):
    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(3)
        self.fc = nn.Linear(3, classes)


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(2)
    return dict(models.get_model(NAME, weights=None).state_dict())


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty download folder without a connection."""

    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    return tmp_path / "home" / "hub" / "checkpoints"


def test_the_hash_is_over_names_dtypes_shapes_and_bytes() -> None:
    state = {"b": torch.tensor([[1.0, 2.0]]), "a": torch.tensor(3)}
    expected = hashlib.sha256(
        b"a:torch.int64:();" + np.int64(3).tobytes() + b"b:torch.float32:(1, 2);" + np.float32([1, 2]).tobytes()
    )
    assert sha256_of(state) == expected.hexdigest()


def test_every_part_of_a_state_changes_the_hash() -> None:
    base = {"a": torch.zeros(2, 3), "b": torch.zeros(2)}
    others = [
        {**base, "b": torch.tensor([0.0, 1.0])},
        {**base, "a": torch.zeros(3, 2)},
        {**base, "b": torch.zeros(2, dtype=torch.int32)},
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"]},
    ]
    assert len({sha256_of(state) for state in [base, *others]}) == 6
    assert sha256_of(dict(reversed(base.items()))) == sha256_of(base)
    assert sha256_of({**base, "a": torch.zeros(3, 2).T}) == sha256_of(base)


def test_the_hash_of_a_backbone_covers_its_batchnorm_statistics() -> None:
    backbone = toy_backbone()
    before = backbone.weights_sha256
    assert sha256_of(backbone.module.state_dict()) == before == toy_backbone().weights_sha256
    backbone.module.norm.running_mean += 1  # type: ignore[union-attr, operator]
    assert sha256_of(backbone.module.state_dict()) != before


def test_pth_and_safetensors_of_one_state_have_one_hash(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "a.pth")
    save_file(state, tmp_path / "a.safetensors")
    pth, safe = (
        load_backbone(NAME, weights=str(tmp_path / name), device="cpu", precision="fp32")
        for name in ("a.pth", "a.safetensors")
    )
    assert pth.weights_sha256 == safe.weights_sha256
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(pth.embed(pixels), safe.embed(pixels))
    random = load_backbone(NAME, weights="none", device="cpu", precision="fp32")
    assert random.weights_sha256 != pth.weights_sha256


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_file_gives_the_tensors_that_were_saved(state: dict[str, Tensor], tmp_path: Path, name: str) -> None:
    (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
    loaded = read_state(tmp_path / name)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_nested_state_dict_is_found(tmp_path: Path, key: str) -> None:
    torch.save({key: {"a": torch.ones(2)}, "epoch": 3}, tmp_path / "a.pth")
    loaded = read_state(tmp_path / "a.pth")
    assert list(loaded) == ["a"]
    assert torch.equal(loaded["a"], torch.ones(2))


@pytest.mark.parametrize("value", [[torch.ones(2)], {"a": 3}, {"epoch": 3, "weights": torch.ones(2)}, 7])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, value: object) -> None:
    path = tmp_path / "a.pth"
    torch.save(value, path)
    with pytest.raises(BackboneError) as error:
        read_state(path)
    assert str(error.value) == f"{path} does not hold a state dict (names to tensors)"


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.marker,)


def test_a_file_that_holds_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path, marker = tmp_path / "a.pth", tmp_path / "exploded"
    torch.save({"a": torch.ones(2), "bomb": Bomb(marker)}, path)
    with pytest.raises(BackboneError) as error:
        load_backbone(NAME, weights=str(path), device="cpu")
    message = str(error.value)
    assert message.startswith(f"{path} is not a file of plain weights (")
    assert message.endswith(
        "). Save it with torch.save(model.state_dict(), PATH) or as safetensors; files that hold code are not loaded."
    )
    assert not marker.exists()


def test_a_downloaded_file_that_holds_code_is_not_run_either(offline: Path) -> None:
    marker = offline.parent / "exploded"
    offline.mkdir(parents=True)
    file = os.path.basename(models.get_model_weights(NAME).DEFAULT.url)
    torch.save({"bomb": Bomb(marker)}, offline / file)
    with pytest.raises(BackboneError):
        load_backbone(NAME, device="cpu")
    assert not marker.exists()


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights", b"\x80\x04garbage"])
def test_garbage_is_not_weights(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BackboneError) as error:
        read_state(path)
    assert str(error.value).startswith(f"{path} is not a file of plain weights (")


def test_a_missing_weights_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackboneError) as error:
        load_backbone(NAME, weights=str(tmp_path / "a.pth"), device="cpu")
    assert str(error.value) == f"there is no weights file {tmp_path / 'a.pth'}"


@pytest.mark.parametrize("classes", [5, 2, None])
def test_the_classifier_of_a_file_is_ignored(classes: int | None) -> None:
    torch.manual_seed(0)
    source, target = Net(classes or 5), Net(5)
    fc = target.fc.weight.clone()
    state = {k: v for k, v in source.state_dict().items() if classes or not k.startswith("fc.")}
    load_state(target, state, ["fc"], "w.pth")
    assert torch.equal(target.stem.weight, source.stem.weight)
    assert torch.equal(target.fc.weight, fc)


def _without(state: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name not in names}


STATE = dict(Net().state_dict())
NEARLY = (
    "the weights in w.pth nearly fit: {}. They belong to a variant of this network: pass its name, or save the weights "
    "of the network as its library builds it."
)
OTHERS = (
    "the weights in w.pth are not those of this network: 5 tensors missing (for example norm.bias); stem.bias is (1,), "
    "expected (3,). Pass the network that they belong to with --backbone."
)
WRONG = {
    "missing": (
        _without(STATE, "norm.running_mean"),
        NEARLY.format("6 of 7 tensors match, but 1 tensors missing (for example norm.running_mean)"),
    ),
    "unknown": (
        {**STATE, "stem.extra": torch.ones(1), "mystery": torch.ones(1)},
        NEARLY.format("7 of 7 tensors match, but 2 unknown (for example mystery)"),
    ),
    "another shape": (
        {**STATE, "stem.weight": torch.ones(3, 5)},
        NEARLY.format("6 of 7 tensors match, but stem.weight is (3, 5), expected (3, 4)"),
    ),
    "another network": ({"x.y": torch.ones(1), "stem.bias": torch.ones(1)}, OTHERS),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_weights_of_another_network_are_refused_with_the_nearest_reason(wrong: str) -> None:
    state, message = WRONG[wrong]
    with pytest.raises(BackboneError) as error:
        load_state(Net(), state, ["fc"], "w.pth")
    assert str(error.value) == message


def test_weights_of_another_network_are_refused_by_load_backbone(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(state, path)
    with pytest.raises(BackboneError, match=f"^the weights in {path} are not those of this network: "):
        load_backbone("resnet18", weights=str(path), device="cpu")


def test_pretrained_weights_that_cannot_be_had_name_file_folder_and_ways_out(offline: Path) -> None:
    with pytest.raises(BackboneError) as error:
        load_backbone(NAME, device="cpu")
    assert download_folder() == offline
    assert str(error.value) == (
        f"the pretrained weights of {NAME} are not available: squeezenet1_1-b8a52dc0.pth is not in {offline} and "
        "the download failed (<urlopen error no route to host>). Put that file there, pass --weights PATH, "
        "or use the embedded --backbone efficientnet_lite0, which needs no download."
    )


def test_pretrained_weights_in_the_download_folder_need_no_network(
    state: dict[str, Tensor], offline: Path, tmp_path: Path
) -> None:
    offline.mkdir(parents=True)
    torch.save(state, offline / "squeezenet1_1-b8a52dc0.pth")
    pretrained = load_backbone(NAME, device="cpu")
    from_file = load_backbone(NAME, weights=str(offline / "squeezenet1_1-b8a52dc0.pth"), device="cpu")
    assert pretrained.weights == "pretrained"
    assert pretrained.weights_sha256 == from_file.weights_sha256
