"""Weights files of trainers and libraries load to the weights in them, with a note on what was changed; a file that
does not fit is refused with the nearest reason.
"""

from __future__ import annotations

import argparse
import collections
import copy
import dataclasses
import datetime
import enum
import functools
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from featcache.backbones.load import load_backbone
from featcache.backbones.sources import timm as timm_networks
from featcache.backbones.sources import torchvision as torchvision_networks
from featcache.backbones.sources.registry import SOURCES
from featcache.backbones.weights import adapt as adapting
from featcache.backbones.weights.adapt import adapt
from featcache.backbones.weights.checkpoint import StateDict, read_checkpoint
from featcache.backbones.weights.load import sha256_of
from featcache.errors import BackboneError

NAME = "timm/test_resnet"
AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(5)
    return timm.create_model("test_resnet", num_classes=1000)


@pytest.fixture(scope="module")
def expected(network: nn.Module) -> str:
    """The hash of the network without its classifier."""
    return sha256_of({name: value for name, value in network.state_dict().items() if not name.startswith("fc.")})


def loaded(content: Any, folder: Path, name: str = NAME, key: str = "", **options: Any) -> Any:
    path = folder / "w.pth"
    torch.save(content, path)
    return load_backbone(name, weights=f"{path}#{key}" if key else str(path), device="cpu", **options)


def prefixed(state: State, prefix: str) -> OrderedDict[str, Tensor]:
    return OrderedDict((prefix + name, value) for name, value in state.items())


def other(state: State) -> State:
    return {name: value + 1 for name, value in state.items()}


def headless(state: State) -> State:
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


def numbered(state: State) -> State:
    """As of nn.Sequential(*list(network.children())[:-1])."""
    parts = [name for name, _ in timm.create_model("test_resnet").named_children()]
    named = [(name.partition("."), value) for name, value in headless(state).items()]
    return {f"{parts.index(part)}.{rest}": value for (part, _, rest), value in named}


@dataclasses.dataclass
class Settings:
    lr: float = 0.1


class Kind(enum.Enum):
    LARGE = 1


class Dict(dict[str, Any]):
    pass


class List(list[Any]):
    pass


HEAD = {"head.mlp.0.weight": torch.ones(2, 2), "head.mlp.0.bias": torch.ones(2)}
FILES: dict[str, tuple[Callable[[State], Any], str]] = {
    "plain": (lambda s: s, ""),
    "DataParallel": (lambda s: prefixed(s, "module."), "stripped the prefix module."),
    "torch.compile": (lambda s: {"model": prefixed(s, "_orig_mod.")}, "took model, stripped the prefix _orig_mod."),
    "compiled in DDP": (lambda s: prefixed(s, "module._orig_mod."), "stripped the prefix module._orig_mod."),
    "Lightning": (
        lambda s: {"state_dict": {**prefixed(s, "model."), "criterion.weight": torch.ones(2)}, "epoch": 3},
        "took state_dict, stripped the prefix model., left out 1 tensors that are not part of this network (for "
        "example "
        "criterion.weight)",
    ),
    "SimCLR": (
        lambda s: {**prefixed(headless(s), "backbone."), "projector.0.weight": torch.ones(2)},
        "stripped the prefix backbone., left out 1 tensors that are not part of this network (for example "
        "projector.0.weight)",
    ),
    "MoCo": (
        lambda s: {
            "state_dict": {
                **prefixed(headless(s), "module.encoder_q."),
                **prefixed(headless(other(s)), "module.encoder_k."),
                "module.queue": torch.ones(3),
            },
            "arch": "resnet50",
        },
        "took state_dict, module.encoder_k would fit, too (--weights-key), stripped the prefix module.encoder_q., left "
        "out 91 tensors that are not part of this network (for example module.encoder_k.conv1.0.weight)",
    ),
    "DINO": (
        lambda s: {
            "student": prefixed(headless(other(s)), "module.backbone."),
            "teacher": {**prefixed(headless(s), "backbone."), **HEAD},
            "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]},
            "args": argparse.Namespace(arch="x", out=Path("a")),
        },
        "",
    ),
    "AveragedModel": (
        lambda s: {"n_averaged": torch.tensor(3), **prefixed(s, "module.")},
        "stripped the prefix module., left out 1 tensors that are not part of this network (for example n_averaged)",
    ),
    "timm with EMA": (
        lambda s: {"state_dict": s, "state_dict_ema": other(s), "args": argparse.Namespace(lr=0.1), "metric": 0.1},
        "took state_dict, state_dict_ema would fit, too (--weights-key)",
    ),
    "EMA alone": (lambda s: {"model_ema": s, "epoch": 3}, "took model_ema"),
    "net": (lambda s: {"net": s, "acc": np.float64(0.9), "epoch": np.int64(3)}, "took net"),
    "a key of its own": (lambda s: {"generator": {"weights": s}}, "took generator.weights"),
    "random states": (lambda s: {"model": s, "rng": np.random.default_rng(0).normal(size=3)}, "took model"),
    "a head with a projection": (
        lambda s: {**headless(s), **HEAD},
        "left out 2 tensors that are not part of this network (for example head.mlp.0.weight)",
    ),
    "a head replaced by Sequential": (
        lambda s: {**headless(s), "fc.1.weight": torch.ones(2, 3), "fc.1.bias": torch.ones(2)},
        "left out 2 tensors that are not part of this network (for example fc.1.weight)",
    ),
    "other classes": (lambda s: {**s, "fc.weight": torch.ones(2, 3), "fc.bias": torch.ones(2)}, ""),
    "encoder": (lambda s: prefixed(headless(s), "encoder."), "stripped the prefix encoder."),
    "Lightning with hyperparameters": (
        lambda s: {
            "epoch": 1,
            "global_step": 20,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": {**prefixed(s, "model."), "val_accuracy.tp": torch.tensor(3)},
            "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"ready": 1}}}},
            "callbacks": {"ModelCheckpoint{'monitor': 'x'}": {"best_model_score": torch.tensor(0.5)}},
            "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"params": [0]}]}],
            "hparams_name": "kwargs",
            "hyper_parameters": {"lr": 0.1, "out": Path("x"), "since": datetime.date(2026, 1, 2)},
        },
        "took state_dict, stripped the prefix model., left out 1 tensors that are not part of this network (for "
        "example "
        "val_accuracy.tp)",
    ),
    "Lightning with settings of one's own": (
        lambda s: {"state_dict": prefixed(s, "net."), "hyper_parameters": {"settings": Settings(), "kind": Kind.LARGE}},
        "took state_dict, stripped the prefix net.; objects of tests.backbones.test_checkpoint.Kind, "
        "tests.backbones.test_checkpoint.Settings are not read",
    ),
    "Hydra": (
        lambda s: {
            "state_dict": prefixed(s, "model."),
            "hyper_parameters": {"optimizer": functools.partial(torch.optim.SGD, lr=0.1)},
        },
        "took state_dict, stripped the prefix model.; objects of torch.optim.sgd.SGD are not read",
    ),
    "timm's train script": (
        lambda s: {
            "epoch": 3,
            "arch": "test_resnet",
            "state_dict": s,
            "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": []},
            "version": 2,
            "args": argparse.Namespace(lr=0.1, data_dir=Path("x")),
            "amp_scaler": {"scale": 65536.0},
            "metric": np.float64(0.5),
        },
        "took state_dict",
    ),
    "torchvision's reference": (
        lambda s: {
            "model": s,
            "model_ema": {"n_averaged": torch.tensor(3), **prefixed(other(s), "module.")},
            "lr_scheduler": {"base_lrs": [0.1]},
            "args": argparse.Namespace(amp=True),
        },
        "took model, model_ema would fit, too (--weights-key)",
    ),
    "Hugging Face's wrapper of timm": (lambda s: prefixed(s, "timm_model."), "stripped the prefix timm_model."),
    "Hugging Face's model for classification": (  # of save_pretrained(safe_serialization=False): pytorch_model.bin
        lambda s: {
            **prefixed(headless(s), "resnet."),
            "classifier.1.weight": torch.ones(2, 96),
            "classifier.1.bias": torch.ones(2),
        },
        "stripped the prefix resnet., left out 2 tensors that are not part of this network (for example "
        "classifier.1.weight)",
    ),
    "DeepSpeed": (lambda s: {"module": s, "optimizer": None, "ds_version": "0.1"}, "took module"),
    "MMPretrain": (
        lambda s: {
            "meta": {"cfg": "model = dict()", "dataset_meta": {"classes": ("a", "b")}, "history": List([0.1])},
            "state_dict": {**prefixed(headless(s), "backbone."), "head.fc.weight": torch.ones(2, 2)},
            "message_hub": {"log_scalars": {"lr": Settings()}},
        },
        "took state_dict, stripped the prefix backbone., left out 1 tensors that are not part of this network (for "
        "example head.fc.weight); objects of tests.backbones.test_checkpoint.List, "
        "tests.backbones.test_checkpoint.Settings are not read",
    ),
    "VISSL": (
        lambda s: {
            "classy_state_dict": {
                "base_model": {"model": {"trunk": prefixed(headless(s), "_feature_blocks."), "heads": {}}}
            }
        },
        "took classy_state_dict.base_model.model.trunk, stripped the prefix _feature_blocks.",
    ),
    "fastai with timm": (
        lambda s: {
            "model": {**prefixed(headless(s), "0.model."), "1.2.weight": torch.ones(2)},
            "opt": {"state": [{"mom": torch.ones(2)}], "hypers": List([{"lr": 0.1}])},
        },
        "took model, stripped the prefix 0.model., left out 1 tensors that are not part of this network (for example "
        "1.2.weight); objects of tests.backbones.test_checkpoint.List are not read",
    ),
    "fastai": (
        lambda s: {"model": {**prefixed(numbered(s), "0."), "1.2.weight": torch.ones(2)}, "opt": {}},
        "took model, stripped the prefix 0., took numbers for the parts of the network in their order, left out 1 "
        "tensors that are not part of this network (for example 1.2.weight)",
    ),
    "children in a Sequential": (
        lambda s: numbered(s),
        "took numbers for the parts of the network in their order",
    ),
    "children of a module": (
        lambda s: {"state_dict": {**prefixed(numbered(s), "features."), "fc.weight": torch.ones(2)}},
        "took state_dict, stripped the prefix features., took numbers for the parts of the network in their order, "
        "left out 1 tensors that are not part of this network (for example fc.weight)",
    ),
    "MoCo v3": (
        lambda s: {
            "state_dict": {
                **prefixed(headless(s), "module.base_encoder."),
                "module.base_encoder.fc.0.weight": torch.ones(2, 2),
                **prefixed(headless(other(s)), "module.momentum_encoder."),
                "module.predictor.0.weight": torch.ones(2, 2),
            }
        },
        "took state_dict, module.momentum_encoder would fit, too (--weights-key), stripped the prefix "
        "module.base_encoder., left out 92 tensors that are not part of this network (for example "
        "module.momentum_encoder.conv1.0.weight)",
    ),
    "BYOL": (
        lambda s: {
            **prefixed(headless(other(s)), "target_encoder.net."),
            **prefixed(headless(s), "online_encoder.net."),
            "online_encoder.projector.0.weight": torch.ones(2),
        },
        "target_encoder.net would fit, too (--weights-key), stripped the prefix online_encoder.net., left out 91 "
        "tensors that are not part of this network (for example target_encoder.net.conv1.0.weight)",
    ),
    "SwAV": (
        lambda s: {**prefixed(headless(s), "module."), "module.prototypes.weight": torch.ones(2, 2)},
        "stripped the prefix module., left out 1 tensors that are not part of this network (for example "
        "prototypes.weight)",
    ),
    "ema-pytorch": (
        lambda s: {
            "initted": torch.tensor(True),
            "step": torch.tensor(3),
            **prefixed(s, "online_model."),
            **prefixed(other(s), "ema_model."),
        },
        "ema_model would fit, too (--weights-key), stripped the prefix online_model., left out 94 tensors that are "
        "not part of this network (for example initted)",
    ),
    "torch_ema beside the weights": (
        lambda s: {"model": s, "ema": {"decay": 0.9, "shadow_params": [torch.ones(2), torch.ones(2)]}},
        "took model",
    ),
    "DDP in torch.compile": (
        lambda s: prefixed(s, "_orig_mod.module."),
        "stripped the prefix _orig_mod.module.",
    ),
    "a compiled part": (
        lambda s: {name.replace("layer1.0.", "layer1.0._orig_mod."): value for name, value in s.items()},
        "stripped _orig_mod from inner names",
    ),
    "activation checkpoints in FSDP": (
        lambda s: {
            "model": {
                "_fsdp_wrapped_module." + name.replace("layer1.", "layer1._checkpoint_wrapped_module."): value
                for name, value in s.items()
            }
        },
        "took model, stripped _checkpoint_wrapped_module, _fsdp_wrapped_module from inner names",
    ),
    "two levels of keys": (lambda s: {"checkpoint": {"net": s, "optimizer": None}, "v": 1}, "took checkpoint.net"),
    "a list of state dicts": (lambda s: [s, {"state": {}, "param_groups": []}], "took 0"),
    "folds": (lambda s: {"folds": [s, other(s)]}, "took folds.0, folds.1 would fit, too (--weights-key)"),
    "a dict of one's own": (
        lambda s: {"model": s, "settings": Dict(a=1, b=Dict())},
        "took model; objects of tests.backbones.test_checkpoint.Dict are not read",
    ),
    "a defaultdict": (lambda s: collections.defaultdict(None, s), ""),
    "an OrderedDict without versions": (lambda s: OrderedDict(s), ""),
    "parameters with gradients": (
        lambda s: {name: nn.Parameter(value) if value.is_floating_point() else value for name, value in s.items()},
        "",
    ),
    "double precision": (
        lambda s: {name: value.double() if value.is_floating_point() else value for name, value in s.items()},
        "",
    ),
    "from before num_batches_tracked": (
        lambda s: OrderedDict((n, v) for n, v in s.items() if not n.endswith("num_batches_tracked")),
        "",
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_checkpoint_gives_its_weights_and_it_is_said_what_was_done(
    kind: str, network: nn.Module, expected: str, tmp_path: Path
) -> None:
    write, note = FILES[kind]
    backbone = loaded(write(network.state_dict()), tmp_path)
    assert backbone.weights_sha256 == expected
    if kind != "DINO":
        assert backbone.note == (f"w.pth: {note}" if note else "")
        assert "\n" not in backbone.note
    else:
        assert backbone.note.startswith("w.pth: took teacher, student")


@pytest.mark.parametrize("key", ["state_dict_ema", "ema.module", "module.encoder_k"])
def test_a_key_or_a_prefix_chooses(key: str, network: nn.Module, expected: str, tmp_path: Path) -> None:
    state = network.state_dict()
    files = {
        "state_dict_ema": {"state_dict": other(state), "state_dict_ema": state},
        "ema.module": {"ema": {"module": state}, "state_dict": other(state)},
        "module.encoder_k": {**prefixed(other(state), "module.encoder_q."), **prefixed(state, "module.encoder_k.")},
    }
    assert loaded(files[key], tmp_path, key=key).weights_sha256 == expected
    assert loaded(files[key], tmp_path).weights_sha256 != expected


def test_a_key_that_is_not_there_is_refused_with_those_that_are(network: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(BackboneError) as error:
        loaded({"model": network.state_dict(), "model_ema": network.state_dict()}, tmp_path, key="ema")
    assert "w.pth has no weights under 'ema'; there are " in str(error.value)
    assert "model, model_ema" in str(error.value)


def test_what_was_done_is_said_again_where_the_network_is_known(network: nn.Module, tmp_path: Path) -> None:
    first = loaded(prefixed(network.state_dict(), "module."), tmp_path, lazy=True)
    again = load_backbone(NAME, weights=first.weights, device="cpu", lazy=True)
    assert not hasattr(again._module, "state_dict")
    assert again.note == first.note == "w.pth: stripped the prefix module."


def test_a_deeper_network_with_the_same_names_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = models.get_model("resnet34", weights=None).state_dict()
    with pytest.raises(BackboneError) as error:
        loaded(state, tmp_path, "resnet18")
    assert "unknown (for example layer1.2.bn1.bias)" in str(error.value)
    assert "--backbone" not in str(error.value)


def test_nan_in_a_weights_file_is_refused_as_that(network: nn.Module, tmp_path: Path) -> None:
    state = {**network.state_dict()}
    state["conv1.0.weight"] = state["conv1.0.weight"] * float("nan")
    with pytest.raises(BackboneError) as error:
        loaded(state, tmp_path)
    assert str(error.value) == (
        f"the weights in {tmp_path / 'w.pth'} hold NaN in 1 of {len(state)} tensors (for example conv1.0.weight): "
        "their training diverged, or the file is damaged. Take an earlier checkpoint."
    )


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "sparse": lambda value: value.to_sparse(),
    "quantized": lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
    "without data": lambda value: value.to("meta"),
}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("kind", KINDS)
def test_tensors_that_are_not_plain_are_refused_as_that(network: nn.Module, kind: str) -> None:
    state = OrderedDict(network.state_dict())
    state["conv1.0.weight"] = KINDS[kind](state["conv1.0.weight"])
    with pytest.raises(BackboneError, match=rf"1 of {len(state)} tensors in w.pth are {kind}.*conv1\.0\.weight"):
        adapt(network, [StateDict("", state)], ["fc"], "w.pth")


def test_weights_of_whole_numbers_are_refused_with_the_reason(network: nn.Module) -> None:
    state = OrderedDict((name, value.to(torch.int8)) for name, value in network.state_dict().items())
    with pytest.raises(BackboneError) as error:
        adapt(network, [StateDict("", state)], ["fc"], "w.pth")
    assert re.match(r"75 of 92 tensors in w.pth are whole numbers \(int8\) \(for example conv1", str(error.value))


def test_nan_in_the_classifier_which_is_not_used_is_no_obstacle(
    network: nn.Module, expected: str, tmp_path: Path
) -> None:
    state = {**network.state_dict()}
    state["fc.weight"] = state["fc.weight"] * float("nan")
    assert loaded(state, tmp_path).weights_sha256 == expected


class Trap:
    """Creates a folder if the unpickler calls functions that the file names."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


class Call:
    """Calls a function if the unpickler calls functions that the file names."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("beside", ["in a Namespace", "in an array", "on its own"])
def test_values_beside_the_weights_run_no_code(beside: str, network: nn.Module, tmp_path: Path) -> None:
    trap = Trap(tmp_path / "sprung")
    values = {
        "in a Namespace": argparse.Namespace(a=trap),
        "in an array": np.array([trap], dtype=object),
        "on its own": trap,
    }
    with pytest.raises(BackboneError, match=r"is not a file of plain weights \(it holds objects of posix\.mkdir\)"):
        loaded({"model": network.state_dict(), "args": values[beside]}, tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_a_refusal_names_the_functions_of_python_alone_that_it_is_for(network: nn.Module, tmp_path: Path) -> None:
    """Foreign classes in the same file have stand-ins and are not reported."""
    content = {"model": network.state_dict(), "cfg": Settings(), "x": [Call(eval, "1"), Call(os.mkdir, "x")]}
    with pytest.raises(BackboneError) as error:
        loaded(content, tmp_path)
    assert "(it holds objects of builtins.eval, posix.mkdir). " in str(error.value)


def test_harmless_values_are_not_built(network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file names their classes, which are never called."""
    content = {"model": network.state_dict(), "args": argparse.Namespace(a=1), "acc": np.float64(0.5)}
    torch.save(content, tmp_path / "w.pth")
    monkeypatch.setattr(argparse.Namespace, "__setattr__", lambda *_: 1 / 0)
    monkeypatch.setattr(argparse.Namespace, "__init__", lambda *_, **__: 1 / 0)
    assert [state.key for state in read_checkpoint(tmp_path / "w.pth")] == ["model"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_the_rounded_weights_in_fp32(
    dtype: torch.dtype, network: nn.Module, tmp_path: Path
) -> None:
    state = network.state_dict()
    half = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    rounded = {name: value.to(state[name].dtype) for name, value in headless(half).items()}
    backbone = loaded({"model": half}, tmp_path)
    assert backbone.weights_sha256 == sha256_of(rounded)
    assert {value.dtype for value in backbone.module.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["w.safetensors", "pytorch_model.bin"])
def test_safetensors_are_known_by_their_content(name: str, network: nn.Module, expected: str, tmp_path: Path) -> None:
    save_file(prefixed(network.state_dict(), "module."), tmp_path / name, metadata={"format": "pt", "epoch": "3"})
    backbone = load_backbone(NAME, weights=str(tmp_path / name), device="cpu")
    assert backbone.weights_sha256 == expected
    assert backbone.note == f"{name}: stripped the prefix module."


def test_files_of_before_pytorch_1_6_load(network: nn.Module, expected: str, tmp_path: Path) -> None:
    content = {"model": network.state_dict(), "args": argparse.Namespace(a=1), "settings": Settings()}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert load_backbone(NAME, weights=str(tmp_path / "w.pth"), device="cpu").weights_sha256 == expected
    torch.save({"a": Trap(tmp_path / "sprung")}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(BackboneError, match=r"\(it holds objects of posix\.mkdir\)"):
        load_backbone(NAME, weights=str(tmp_path / "w.pth"), device="cpu")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(("prefix", "key"), [("model", None), ("a.model", "a"), ("0", "0")])
def test_the_features_alone_load(prefix: str, key: str | None, tmp_path: Path) -> None:
    """As of `network.features`, wrapped."""
    torch.manual_seed(0)
    squeeze = models.squeezenet1_1(weights=None)
    whole = {**prefixed(squeeze.features.state_dict(), f"{prefix}."), "b.fc.weight": torch.ones(2)}
    backbone = loaded(whole, tmp_path, "squeezenet1_1", key=key or "")
    assert backbone.weights_sha256 == sha256_of(prefixed(squeeze.features.state_dict(), "features."))
    assert "added the prefix features." in backbone.note


@pytest.fixture(scope="module")
def squeeze() -> State:
    torch.manual_seed(0)
    return dict(models.squeezenet1_1(weights=None).state_dict())


def features(state: State, prefix: str) -> State:
    """As of `network.features`, which numbers its layers."""
    inside = [name for name in state if name.startswith("features.")]
    return {prefix + name.removeprefix("features."): state[name] for name in inside}


def compiled(state: State, prefix: str) -> State:
    """With a layer that is wrapped by torch.compile."""
    return {prefix + name.replace("features.3.", "features.3._orig_mod."): value for name, value in state.items()}


COPIES: dict[str, tuple[Callable[[State], State], str]] = {
    "encoder and ema": (
        lambda s: {**features(s, "encoder."), **features(other(s), "ema.")},
        "ema would fit, too (--weights-key), stripped the prefix encoder., added the prefix features., left out 50 "
        "tensors that are not part of this network (for example ema.0.weight)",
    ),
    "ema and encoder": (
        lambda s: {**features(other(s), "ema."), **features(s, "encoder.")},
        "ema would fit, too (--weights-key), stripped the prefix encoder., added the prefix features., left out 50 "
        "tensors that are not part of this network (for example ema.0.weight)",
    ),
    "online and target": (
        lambda s: {**features(s, "online_encoder."), **features(other(s), "target.")},
        "target would fit, too (--weights-key), stripped the prefix online_encoder., added the prefix features., left "
        "out 50 tensors that are not part of this network (for example target.0.weight)",
    ),
    "base and momentum_encoder": (
        lambda s: {**features(s, "module.base."), **features(other(s), "module.momentum_encoder.")},
        "module.momentum_encoder would fit, too (--weights-key), stripped the prefix module.base., added the prefix "
        "features., left out 50 tensors that are not part of this network (for example "
        "module.momentum_encoder.0.weight)",
    ),
    "children of both": (
        lambda s: {**features(s, "model.0."), **features(other(s), "ema.0.")},
        "ema would fit, too (--weights-key), stripped the prefix model., took numbers for the parts of the network in "
        "their order, left out 50 tensors that are not part of this network (for example ema.0.0.weight)",
    ),
    "a compiled layer in both": (
        lambda s: {**compiled(other(s), "ema_model."), **compiled(s, "model.")},
        "ema_model would fit, too (--weights-key), stripped _orig_mod from inner names, stripped the prefix model., "
        "left out 52 tensors that are not part of this network (for example ema_model.features.0.weight)",
    ),
    "both compiled as a whole, too": (
        lambda s: {**compiled(other(s), "_orig_mod.ema_model."), **compiled(s, "_orig_mod.model.")},
        "_orig_mod.ema_model would fit, too (--weights-key), stripped _orig_mod from inner names, stripped the prefix "
        "model., left out 52 tensors that are not part of this network (for example ema_model.features.0.weight)",
    ),
}


@pytest.mark.parametrize("kind", COPIES)
def test_of_two_copies_by_other_names_the_trained_one_is_taken_and_the_other_named(
    kind: str, squeeze: State, tmp_path: Path
) -> None:
    expected, averaged = (sha256_of(prefixed(features(state, ""), "features.")) for state in (squeeze, other(squeeze)))
    write, note = COPIES[kind]
    backbone = loaded(write(squeeze), tmp_path, "squeezenet1_1")
    assert backbone.weights_sha256 == expected
    assert backbone.note == f"w.pth: {note}"
    key = note.partition(" would fit")[0]
    assert loaded(write(squeeze), tmp_path, "squeezenet1_1", key=key).weights_sha256 == averaged


@pytest.mark.parametrize("write", [features, compiled])
def test_a_key_leads_to_other_names_beside_a_copy_under_plain_ones(
    write: Callable[[State, str], State], squeeze: State, tmp_path: Path
) -> None:
    content = {**prefixed(squeeze, "model."), **write(other(squeeze), "ema.")}
    expected = sha256_of(prefixed(features(other(squeeze), ""), "features."))
    assert loaded(content, tmp_path, "squeezenet1_1", key="ema").weights_sha256 == expected


REFUSED: dict[str, tuple[Callable[[nn.Module], Any], str]] = {
    "a whole model beside others": (
        lambda n: {"model": nn.Sequential(nn.Linear(2, 2)), "ema": None, "epoch": 3},
        "is not a file of plain weights (it holds objects of torch.nn.modules.container.Sequential, "
        "torch.nn.modules.linear.Linear). Save it with torch.save(model.state_dict(), PATH) or as safetensors",
    ),
    "torch_ema": (
        lambda n: {"decay": 0.9, "num_updates": 3, "shadow_params": list(n.parameters()), "collected_params": None},
        "holds its tensors in a list, without names (shadow_params, as torch_ema writes them). Copy them into the "
        "network (`ema.copy_to(model.parameters())`), and save model.state_dict().",
    ),
    "Detectron2": (
        lambda n: {"model": {name: value.numpy() for name, value in n.state_dict().items()}, "__author__": "x"},
        "holds 92 NumPy arrays (for example model.conv1.0.weight) and no tensors. Convert them: "
        "torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, PATH).",
    ),
    "parameters alone": (
        lambda n: dict(n.named_parameters()),
        "lack 30 buffers (for example bn1.running_mean). The file seems to hold only the parameters: "
        "save model.state_dict(), which includes the statistics of BatchNorm.",
    ),
    "another network beside a whole one": (
        lambda n: {"model": nn.Linear(2, 2), "scaler": {"scale": torch.ones(1)}},
        "the file also holds objects of torch.nn.modules.linear.Linear, which are not read",
    ),
    "no weights": (lambda n: {"epoch": 3}, "does not hold a state dict (names to tensors)"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_weights_by_name_is_refused_with_the_way_out(kind: str, network: nn.Module, tmp_path: Path) -> None:
    write, reason = REFUSED[kind]
    with pytest.raises(BackboneError) as error:
        loaded(write(network), tmp_path)
    assert reason in str(error.value)
    assert str(tmp_path / "w.pth") in str(error.value)


OTHERS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is an empty file"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run `git lfs pull`"),
    "a web page": (b"\n<!DOCTYPE html><html>", "it is a web page (HTML): download the weights again"),
    "an index": (b'{"metadata": {}}', "it is a text in JSON, such as the index of several files"),
    "Keras": (b"\x89HDF\r\n\x1a\n", "it is an HDF5 file"),
    "gzip": (b"\x1f\x8b\x08\0", "it is an archive: unpack it"),
    "a pickle": (pickle.dumps({"model": 1}, protocol=4), "it is damaged, or a pickle file, not one of torch.save"),
    "noise": (b"\x08\x07\x12\x07pytorch", "it is damaged, or no file of torch.save"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_that_is_something_else_is_called_that(kind: str, tmp_path: Path) -> None:
    content, reason = OTHERS[kind]
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(BackboneError) as error:
        load_backbone(NAME, weights=str(tmp_path / "w.pth"), device="cpu")
    assert str(error.value).startswith(f"{tmp_path / 'w.pth'} is not a file of plain weights (")
    assert reason in str(error.value)
    assert "weights_only" not in str(error.value)  # PyTorch advises to execute the file


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_npz_and_torchscript_are_called_that(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **{"a.weight": np.ones(2)})
    with pytest.raises(BackboneError, match=r"it is a NumPy archive \(\.npz\), whose arrays are no tensors"):
        load_backbone(NAME, weights=str(tmp_path / "w.npz"), device="cpu")
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "w.pt")
    with pytest.raises(BackboneError, match="it is a TorchScript program, which is code"):
        load_backbone(NAME, weights=str(tmp_path / "w.pt"), device="cpu")


def test_a_whole_model_is_refused_by_its_class(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "w.pth")
    with pytest.raises(BackboneError, match=r"\(it holds objects of torch\.nn\.modules\.linear\.Linear\)"):
        load_backbone(NAME, weights=str(tmp_path / "w.pth"), device="cpu")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_may_not_be_read_is_told_as_that(network: nn.Module, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "w.pth")
    (tmp_path / "w.pth").chmod(0)
    with pytest.raises(BackboneError, match="cannot be read: permission denied"):
        load_backbone(NAME, weights=str(tmp_path / "w.pth"), device="cpu")


def test_versions_that_are_none_are_no_obstacle(network: nn.Module, tmp_path: Path) -> None:
    state = OrderedDict(network.state_dict())
    state._metadata = ["no versions"]  # type: ignore[attr-defined]
    assert loaded(state, tmp_path).dim == network.num_features


def vit(**options: Any) -> nn.Module:
    torch.manual_seed(3)
    return timm.create_model("test_vit", **options)


def test_positions_of_another_size_are_interpolated_as_timm_does(tmp_path: Path) -> None:
    wide = vit(img_size=224)
    nn.init.normal_(wide.pos_embed)
    backbone = loaded(prefixed(wide.state_dict(), "module."), tmp_path, "timm/test_vit")
    expected = timm.create_model("test_vit", pretrained=True, pretrained_cfg_overlay={"state_dict": wide.state_dict()})
    expected.reset_classifier(0)
    assert backbone.weights_sha256 == sha256_of(expected.state_dict())
    assert backbone.note == (
        "w.pth: stripped the prefix module., interpolated pos_embed from (1, 197, 64) to (1, 101, 64) as timm does"
    )


def test_positions_of_torchvisions_vit_are_interpolated_as_torchvision_does() -> None:
    torch.manual_seed(3)
    narrow, wide = (models.VisionTransformer(size, 32, 1, 1, 8, 16) for size in (64, 96))
    nn.init.normal_(wide.encoder.pos_embedding)
    states = [StateDict("", wide.state_dict())]
    conversions = torchvision_networks._conversions("vit_b_32", narrow)
    adapted = adapt(narrow, states, ["heads.head"], "w.pth", conversions=conversions)
    expected = models.vision_transformer.interpolate_embeddings(64, 32, OrderedDict(wide.state_dict()))
    assert torch.equal(adapted.state["encoder.pos_embedding"], expected["encoder.pos_embedding"])
    assert adapted.note == "interpolated encoder.pos_embedding from (1, 10, 8) to (1, 5, 8) as torchvision does"


def test_a_masked_autoencoders_file_loads_without_its_decoder(tmp_path: Path) -> None:
    network = vit()
    state = {name: value for name, value in network.state_dict().items() if not name.startswith("head.")}
    decoder = {"mask_token": torch.ones(1, 1, 64), "decoder_blocks.0.norm1.weight": torch.ones(8)}
    backbone = loaded({"model": {**state, **decoder}}, tmp_path, "timm/test_vit")
    assert backbone.weights_sha256 == sha256_of(state)
    assert "left out 2 tensors" in backbone.note


SELF_SUPERVISED: dict[str, tuple[Callable[[State], Any], str]] = {
    "DINO": (
        lambda s: {
            "student": {**prefixed(other(s), "module.backbone."), **prefixed(HEAD, "module.")},
            "teacher": {**prefixed(s, "backbone."), **HEAD},
            "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
            "args": argparse.Namespace(arch="vit_tiny"),
            "dino_loss": {"center": torch.zeros(1, 2)},
        },
        "took teacher, student would fit, too (--weights-key), stripped the prefix backbone., left out 2 tensors that "
        "are not part of this network (for example head.mlp.0.weight)",
    ),
    "DINOv2's teacher": (
        lambda s: {
            "teacher": {
                **prefixed(s, "backbone."),
                "backbone.mask_token": torch.ones(1, 64),
                "dino_head.last_layer.weight_v": torch.ones(2, 2),
                "ibot_head.last_layer.weight_v": torch.ones(2, 2),
            }
        },
        "took teacher, stripped the prefix backbone., left out 3 tensors that are not part of this network (for "
        "example "
        "dino_head.last_layer.weight_v)",
    ),
    "MoCo v3": (
        lambda s: {
            "state_dict": {
                **prefixed(s, "module.base_encoder."),
                "module.base_encoder.head.0.weight": torch.ones(2, 2),
                **prefixed(other(s), "module.momentum_encoder."),
            }
        },
        "took state_dict, module.momentum_encoder would fit, too (--weights-key), stripped the prefix "
        "module.base_encoder., left out 79 tensors that are not part of this network (for example "
        "module.momentum_encoder.cls_token)",
    ),
    "I-JEPA": (
        lambda s: {
            "encoder": prefixed(s, "module."),
            "target_encoder": prefixed(other(s), "module."),
            "predictor": {"module.mask_token": torch.ones(1, 1, 8)},
        },
        "took encoder, target_encoder would fit, too (--weights-key), stripped the prefix module.",
    ),
    "MAE, fine-tuned": (lambda s: {"model": {**s, "head.weight": torch.ones(2, 64)}, "epoch": 3}, "took model"),
}


@pytest.mark.parametrize("kind", SELF_SUPERVISED)
def test_a_self_supervised_transformer_loads(kind: str, tmp_path: Path) -> None:
    state = {name: value for name, value in vit().state_dict().items() if not name.startswith("head.")}
    write, note = SELF_SUPERVISED[kind]
    backbone = loaded(write(state), tmp_path, "timm/test_vit")
    assert backbone.weights_sha256 == sha256_of(state)
    assert backbone.note == f"w.pth: {note}"


AUXILIARIES: dict[str, Callable[[State], State]] = {
    "as published": lambda s: s,
    "of other classes": lambda s: {
        name: value[:2] if name.startswith(AUXILIARY) and ".fc" in name else value for name, value in s.items()
    },
    "left out": lambda s: {name: value for name, value in s.items() if not name.startswith(AUXILIARY)},
}


@pytest.mark.parametrize("network", ["googlenet", "inception_v3"])
def test_auxiliary_classifiers_of_any_kind_are_no_obstacle(network: str) -> None:
    torch.manual_seed(0)
    model = models.get_model(network, weights=None, init_weights=False)
    state = OrderedDict(model.state_dict())
    assert any(name.startswith(AUXILIARY) for name in state)
    used = {name: value for name, value in state.items() if not name.startswith((*AUXILIARY, "fc."))}
    for write in AUXILIARIES.values():
        adapted = adapt(model, [StateDict("", OrderedDict(write(state)))], ["fc"], "w.pth")
        fitted = {name: value for name, value in adapted.state.items() if not name.startswith((*AUXILIARY, "fc."))}
        assert sha256_of(fitted) == sha256_of(used)
        assert adapted.note == ""


def test_register_tokens_that_a_network_does_not_have_are_not_left_out(tmp_path: Path) -> None:
    state = {**vit().state_dict(), "reg_token": torch.ones(1, 4, 64)}
    with pytest.raises(BackboneError, match=r"nearly fit: .* 1 unknown \(for example reg_token\)"):
        loaded(state, tmp_path, "timm/test_vit")


def test_foreign_names_are_converted_as_timm_does() -> None:
    """Swin's published files downsample at the end of a stage, and contain buffers."""
    torch.manual_seed(0)
    small = {"depths": (1, 1, 1, 1), "embed_dim": 8, "num_heads": (1, 1, 1, 1)}
    network, conversions = timm_networks._create_with_filter("swin_tiny_patch4_window7_224", small)
    state = {}
    for key, value in network.state_dict().items():
        parts = key.split(".")
        if parts[0] == "layers" and parts[2] == "downsample":
            parts[1] = str(int(parts[1]) - 1)
        state[".".join(parts).replace("head.fc.", "head.")] = value
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49)
    adapted = adapt(network, [StateDict("model", OrderedDict(state))], ["head.fc"], "w.pth", conversions=conversions)
    assert sha256_of(adapted.state) == sha256_of(network.state_dict())
    assert adapted.note == "took model, converted names as timm does"


def test_conversions_that_take_the_state_dict_alone_convert_as_well(tmp_path: Path) -> None:
    """As timm's conversions of VGG and RegNet."""
    torch.manual_seed(0)
    other = models.get_model("regnet_y_400mf", weights=None).eval()
    backbone = loaded(other.state_dict(), tmp_path, "timm/regnety_004")
    other.fc = nn.Identity()
    pixels = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(backbone.module.eval()(pixels), other(pixels))
    assert "converted names as timm does" in backbone.note


def test_a_safetensors_file_without_versions_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = models.get_model("mnasnet0_5", weights=None)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    backbone = load_backbone("mnasnet0_5", weights=str(tmp_path / "w.safetensors"), device="cpu")
    rest = {name: value for name, value in network.state_dict().items() if not name.startswith("classifier.")}
    assert backbone.weights_sha256 == sha256_of(rest)


def published(name: str, state: State) -> OrderedDict[str, Tensor]:
    """Names, counters and versions of the file that torchvision publishes, which may be older than its code."""
    file = OrderedDict(state)
    old_counters = ("vgg", "resnet", "densenet", "inception", "googlenet", "wide_resnet", "resnext", "squeezenet")
    if name.startswith(old_counters):
        file = OrderedDict((key, value) for key, value in file.items() if not key.endswith("num_batches_tracked"))
    if name.startswith("densenet"):
        old = re.compile(r"(denselayer\d+\.(?:norm|conv))([12])\.")
        return OrderedDict((old.sub(r"\1.\2.", key), value) for key, value in file.items())
    if name.startswith("vit_"):
        return OrderedDict(
            (key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."), value)
            for key, value in file.items()
        )
    if name.startswith("mnasnet"):
        file._metadata = state._metadata  # type: ignore[attr-defined]
    return file


FAMILIES = [
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
    "swin_v2_t",
    "vgg11_bn",
    "vit_b_32",
    "vit_h_14",
    "wide_resnet50_2",
]
NETWORKS = SOURCES.get("torchvision").names() if os.environ.get("FEATCACHE_ALL_NETWORKS") else FAMILIES


@pytest.mark.parametrize("name", NETWORKS)
def test_published_files_are_taken_where_torchvision_takes_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and shapes, without data; values are compared below."""
    entry = models.get_model_weights(name).DEFAULT
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": True, "init_weights": False}
    elif name.startswith("vit_"):
        options = {"image_size": entry.meta["min_size"][0]}
    blocks = models.regnet.BlockParams.from_init_params

    def block_params(*args: Any, **kwargs: Any) -> Any:
        with torch.device("cpu"):  # it computes with tensors
            return blocks(*args, **kwargs)

    monkeypatch.setattr(models.regnet.BlockParams, "from_init_params", block_params)
    with torch.device("meta"):
        network = models.get_model(name, weights=None, **options)
        file = published(name, network.state_dict())
        monkeypatch.setattr(type(entry), "get_state_dict", lambda *_, **__: copy.copy(file))
        monkeypatch.setattr(adapting, "_check_dense", lambda *_: None)  # it rejects tensors without data
        monkeypatch.setattr(adapting, "_check_nan", lambda *_: None)  # it reads data
        models.get_model(name, weights=entry)
        built = SOURCES.get("torchvision").build(name, "pretrained", None)
    (classifier,) = SOURCES.get("torchvision").classifiers(name, network)
    expected = {key for key in network.state_dict() if not key.startswith((f"{classifier}.", *AUXILIARY))}
    assert built.module.state_dict().keys() == expected
    assert built.note == ""


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mnasnet0_5"])
def test_published_files_give_the_weights_that_torchvision_loads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    file = published(name, models.get_model(name, weights=None).state_dict())
    entry = models.get_model_weights(name).DEFAULT
    monkeypatch.setattr(type(entry), "get_state_dict", lambda *_, **__: copy.copy(file))
    expected = models.get_model(name, weights=entry)
    built = SOURCES.get("torchvision").build(name, "pretrained", None)
    (classifier,) = SOURCES.get("torchvision").classifiers(name, expected)
    torchvision_networks._remove_classifier(expected, classifier)
    assert sha256_of(built.module.state_dict()) == sha256_of(expected.state_dict())


def test_weights_of_which_a_bit_changed_are_refused(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(network.state_dict(), path)
    weight = network.state_dict()["fc.weight"].numpy().tobytes()
    content = path.read_bytes()
    path.write_bytes(content.replace(weight, weight[:-1] + bytes([weight[-1] ^ 1])))
    assert path.read_bytes() != content
    with pytest.raises(BackboneError, match=r"w\.pth is damaged: its part \S+ does not have its checksum\. Copy or"):
        read_checkpoint(path)


def test_weights_that_were_written_without_checksums_are_read(network: nn.Module, tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(network.state_dict(), tmp_path / "w.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    (state,) = read_checkpoint(tmp_path / "w.pth")
    assert torch.equal(state.tensors["fc.weight"], network.state_dict()["fc.weight"])
