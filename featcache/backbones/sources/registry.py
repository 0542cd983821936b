"""Networks by name, without their classifiers, from torchvision and timm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from featcache.backbones.sources import timm as timm_networks
from featcache.backbones.sources import torchvision as torchvision_networks
from featcache.backbones.sources.names import unknown
from featcache.backbones.weights.load import Built
from featcache.backbones.weights.location import is_file, locate
from featcache.core.rng import derived_seed
from featcache.core.specs import EMBEDDED


def build(name: str, weights: str, seed: int, image_size: int | None = None) -> Built:
    """A network without its classifier, and the preprocessing of its weights; see `load_backbone`."""
    run = locate(weights, name).preprocessing if is_file(weights) else {}
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(seed, "weights"))
        model, size = timm_name(name), image_size or run.get("image_size")
        if model is not None:
            built = timm_networks.build(name, model, weights, size)
        elif name in torchvision_networks.names():
            built = torchvision_networks.build(name, weights, size)
        else:
            raise unknown(name, torchvision_networks.names(), timm_networks.names())
    if run and built.one_size and image_size:  # it was built for this size, not for that of the run
        run |= {"image_size": image_size, "resize_size": round(image_size * run["resize_size"] / run["image_size"])}
    return built._replace(preprocessing={**built.preprocessing, **run}) if run else built


def timm_name(name: str) -> str | None:
    """What timm calls a network; None for torchvision's."""
    if name == EMBEDDED:
        return "tf_efficientnet_lite0"
    return name.removeprefix("timm/") if name.startswith("timm/") else None


def is_named(name: str) -> bool:
    """Whether `build` would look for a network of this name."""
    return timm_name(name) is not None or name in torchvision_networks.names()


def preprocessing(name: str, weights: str) -> dict[str, Any] | None:
    """The preprocessing that `build` gives, without the network; None of a network of another name."""
    model = timm_name(name)
    if model is None and name not in torchvision_networks.names():
        return None
    found = torchvision_networks.preset(name, weights) if model is None else timm_networks.preprocessing(model)
    if found is None or not is_file(weights):
        return found
    return {**found, **locate(weights, name).preprocessing}


def linear_classifiers(name: str) -> list[str]:
    """Names of the last layers of the network as its makers build it, where those are linear and give the logits: one,
    or two (distilled), whose logits are averaged. None where a head cannot take their place, as in SqueezeNet.
    """
    model = timm_name(name)
    with torch.random.fork_rng():  # of weights that are thrown away
        if model is None:
            network = torchvision_networks.plain(name)
            found = [torchvision_networks.classifier_name(name, network)]
        else:
            network = timm_networks.with_one_class(model)
            found = timm_networks.classifiers(network)
    linear = all(isinstance(network.get_submodule(path), nn.Linear) for path in found)
    return found if linear else []


def differs_in_size(name: str, module: nn.Module) -> bool:
    """Whether a network of this name is built for another image size than its usual one."""
    model = timm_name(name)
    with torch.random.fork_rng():
        plain = torchvision_networks.plain(name) if model is None else timm_networks.with_one_class(model)
    usual = {key: value.shape for key, value in plain.state_dict().items()}
    return any(usual.get(key, value.shape) != value.shape for key, value in module.state_dict().items())


def pretrained_state(name: str, weights: str) -> Mapping[str, Tensor]:
    """All of the pretrained weights that `build` takes, the classifier's too; by the names of the network as its
    makers build it, of which `linear_classifiers` tells.
    """
    model = timm_name(name)
    with torch.random.fork_rng():
        if model is None:
            return torchvision_networks.pretrained_state(name, weights)
        return timm_networks.pretrained_state(name, model, weights)
