"""torchvision's classification networks, by their names there, such as resnet18."""

from __future__ import annotations

import os
import sys
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from featcache.backbones.sources.base import BackboneSource, BuiltNetwork
from featcache.backbones.sources.package_names import registered_names
from featcache.backbones.sources.registry import SOURCES
from featcache.backbones.weights.location import PRETRAINED, is_file, locate
from featcache.core.close_names import sizes_near
from featcache.core.specs import EMBEDDED
from featcache.errors import BackboneError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from featcache.backbones.weights.fitting import Convert

_INCEPTIONS = ("googlenet", "inception_v3")


class TorchvisionSource(BackboneSource):
    """Classification networks of torchvision; see `BackboneSource`."""

    hint = "a torchvision model such as resnet18"
    packages = ("torchvision",)

    def owns(self, name: str) -> bool:
        return name in self.names()

    def names(self) -> list[str]:
        if names := registered_names("torchvision"):
            return list(names)
        from torchvision import models

        return models.list_models(module=models)

    def build(self, name: str, weights: str, image_size: int | None) -> BuiltNetwork:
        from featcache.backbones.weights.checkpoint import read_checkpoint
        from featcache.backbones.weights.load import load_state

        values = self.preprocessing(name, weights)
        fixed = _has_fixed_size(name)
        if image_size and fixed:
            values |= {
                "image_size": image_size,
                "resize_size": round(image_size * values["resize_size"] / values["image_size"]),
            }
        network = _create(name, values["image_size"])
        classifiers, conversions = self.classifiers(name, network), _conversions(name, network)
        note = ""
        if weights == PRETRAINED:
            entry = _weights_entry(name, weights)
            load_state(network, _published_state(name, entry), classifiers, entry, conversions=conversions)
        elif is_file(weights):
            file = locate(weights, name)
            states = read_checkpoint(file.path)
            note = load_state(network, states, classifiers, file.path, key=file.key, conversions=conversions)
        _remove_classifier(network, classifiers[0])
        return BuiltNetwork(network, values, note, fixed)

    def preprocessing(self, name: str, weights: str) -> dict[str, Any]:
        transform = _weights_entry(name, weights).transforms()
        return {
            "image_size": transform.crop_size[0],
            "resize_size": transform.resize_size[0],
            "interpolation": "bicubic" if transform.interpolation.value == "bicubic" else "bilinear",
            "mean": transform.mean,
            "std": transform.std,
        }

    def plain_network(self, name: str) -> nn.Module:
        return _create(name)

    def classifiers(self, name: str, network: nn.Module) -> list[str]:
        """The last linear layer, or SqueezeNet's last convolution."""
        from torch import nn

        if name.startswith("squeezenet"):
            return ["classifier.1"]
        modules = network.named_modules()
        linears = [path for path, module in modules if isinstance(module, nn.Linear) and "aux" not in path.lower()]
        if not linears:
            raise BackboneError(f"{name} has no linear layer whose input could be the features")
        return linears[-1:]

    def pretrained_state(self, name: str, weights: str) -> Mapping[str, Tensor]:
        from featcache.backbones.weights.adapt import adapt
        from featcache.backbones.weights.checkpoint import StateDict, read_checkpoint

        network = _create(name)
        classifiers, conversions = self.classifiers(name, network), _conversions(name, network)
        if weights == PRETRAINED:
            states = [StateDict("", _published_state(name, _weights_entry(name, weights)))]
            return adapt(network, states, classifiers, name, conversions=conversions).state
        file = locate(weights, name)
        states = read_checkpoint(file.path)
        return adapt(network, states, classifiers, file.path, key=file.key, conversions=conversions).state

    def build_code(
        self, name: str, classifier: str, classes: int, width: int, image_size: int | None
    ) -> tuple[str, str]:
        options = f"image_size={image_size}" if image_size else ""
        if name in _INCEPTIONS:  # as `_create` builds them
            options = "aux_logits=False, transform_input=True, init_weights=False"
        path = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in classifier.split("."))
        code = f"model = {name}({options})\nmodel{path} = torch.nn.Linear({width}, {classes})"
        return f"from torchvision.models import {name}", code


def download_folder() -> Path:
    """Where torchvision caches pretrained weights."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"


def _has_fixed_size(name: str) -> bool:
    """Whether a network is built for one image size: ViT has a position for each patch."""
    return name.startswith("vit_")


def _create(name: str, image_size: int | None = None) -> nn.Module:
    """A network with random weights and its classifier."""
    from torchvision import models

    options: dict[str, Any] = {}
    if name in _INCEPTIONS:  # their pretrained weights expect inputs scaled as in TensorFlow; so does torchvision's API
        options = {"init_weights": True, "transform_input": True}
    elif _has_fixed_size(name) and image_size:
        options = {"image_size": image_size}
    try:
        return models.get_model(name, weights=None, **options)
    except (AssertionError, RuntimeError) as error:
        cure, patch = "Drop --image-size.", name.rpartition("_")[2]
        if image_size and _has_fixed_size(name) and patch.isdecimal() and image_size % int(patch):
            cure = f"Choose {sizes_near(image_size, int(patch))}, multiples of its patches."
        raise BackboneError(f"{name} cannot be built for {image_size} pixels ({error}). {cure}") from error


def _conversions(name: str, network: nn.Module) -> dict[str, Convert]:
    """torchvision's conversion of the names in published files, and its interpolation of positions."""
    from torchvision import models

    loader = getattr(sys.modules[models.get_model_builder(name).__module__], "_load_state_dict", None)

    def convert(state: OrderedDict[str, Tensor]) -> Mapping[str, Tensor]:
        if loader:  # of DenseNet
            recorder = _StateRecorder(state)
            loader(model=recorder, weights=recorder, progress=False)
            state = recorder.state
        if isinstance(network, models.VisionTransformer):
            from torchvision.models.vision_transformer import interpolate_embeddings

            return interpolate_embeddings(network.image_size, network.patch_size, state)
        return state

    return {"torchvision": convert}


class _StateRecorder:
    """Stands for the weights and the network in torchvision's loader, and records the state dict that it loads."""

    def __init__(self, state: OrderedDict[str, Tensor]) -> None:
        self.state = state

    def get_state_dict(self, **_: Any) -> OrderedDict[str, Tensor]:
        return self.state

    def load_state_dict(self, state: OrderedDict[str, Tensor]) -> None:
        self.state = state


def _weights_entry(name: str, weights: str) -> Any:
    """torchvision's entry of the weights: for "pretrained" the best, for a file the first, which tutorials use."""
    from torchvision import models

    entries = models.get_model_weights(name)
    return entries.DEFAULT if weights == PRETRAINED else next(iter(entries))


def _published_state(name: str, entry: Any) -> OrderedDict[str, Tensor]:
    """The published weights, from the download cache or the network."""
    file = Path(os.path.basename(urlparse(entry.url).path))
    try:
        return entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # URLError, HTTPError, a wrong hash, ...
        raise BackboneError(
            f"the pretrained weights of {name} are not available: {file} is not in {download_folder()} and the "
            f"download failed ({error}). Put that file there, pass --weights PATH, or use the embedded "
            f"--backbone {EMBEDDED}, which needs no download."
        ) from error


def _remove_classifier(network: nn.Module, classifier: str) -> None:
    """Make the network return the input of its classifier, in training and in evaluation.

    SqueezeNet classifies with a convolution and averages its output over positions: its features are the input of that
    convolution, averaged over positions.
    """
    from torch import nn

    parent_name, _, child = classifier.rpartition(".")
    parent = network.get_submodule(parent_name)
    if isinstance(parent.get_submodule(child), nn.Conv2d):
        network.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    else:
        setattr(parent, child, nn.Identity())
    for auxiliary in ("AuxLogits", "aux1", "aux2"):  # Inception and GoogLeNet: extra classifiers for training
        if hasattr(network, auxiliary):
            setattr(network, auxiliary, None)
            network.aux_logits = False  # type: ignore[assignment]


SOURCES.register("torchvision", TorchvisionSource())
