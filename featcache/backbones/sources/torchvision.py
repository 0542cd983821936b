"""torchvision's classification networks by name, without their classifiers."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from featcache.backbones.weights.adapt import Convert, adapt
from featcache.backbones.weights.checkpoint import read_checkpoint
from featcache.backbones.weights.load import Built, load_state, pretrained_torchvision
from featcache.backbones.weights.location import PRETRAINED, is_file, locate
from featcache.core.close_names import sizes_near
from featcache.errors import BackboneError


def names() -> list[str]:
    """All of them."""
    from torchvision import models

    return models.list_models(module=models)


def takes_one_size(name: str) -> bool:
    """Whether a network is built for pictures of one size: ViT has a position for each patch."""
    return name.startswith("vit_")


def build(name: str, weights: str, image_size: int | None) -> Built:
    """A network without its classifier. See `load_backbone`."""
    shape = preset(name, weights)
    if image_size and takes_one_size(name):
        shape |= {
            "image_size": image_size,
            "resize_size": round(image_size * shape["resize_size"] / shape["image_size"]),
        }
    network = plain(name, shape["image_size"])
    classifier = classifier_name(name, network)
    note = ""
    if weights == PRETRAINED:
        entry = _entry(name, weights)
        load_state(
            network, pretrained_torchvision(name, entry), [classifier], entry, conversions=conversions(name, network)
        )
    elif is_file(weights):
        file = locate(weights, name)
        note = load_state(
            network,
            read_checkpoint(file.path),
            [classifier],
            file.path,
            key=file.key,
            conversions=conversions(name, network),
        )
    _remove_classifier(network, classifier)
    return Built(network, shape, note, takes_one_size(name))


def pretrained_state(name: str, weights: str) -> Mapping[str, Tensor]:
    """All tensors of the weights, the classifier's too, by the names of the plain network."""
    network = plain(name)
    classifiers, convert = [classifier_name(name, network)], conversions(name, network)
    if weights == PRETRAINED:
        from featcache.backbones.weights.checkpoint import StateDict

        states = [StateDict("", pretrained_torchvision(name, _entry(name, weights)))]
        return adapt(network, states, classifiers, name, conversions=convert).state
    file = locate(weights, name)
    states = read_checkpoint(file.path)
    return adapt(network, states, classifiers, file.path, key=file.key, conversions=convert).state


def plain(name: str, image_size: int | None = None) -> nn.Module:
    """A network with random weights and its own classifier."""
    from torchvision import models

    # Their pretrained weights expect the inputs as TensorFlow scaled them; torchvision sets this for them alike.
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": True, "transform_input": True}
    elif takes_one_size(name) and image_size:
        options = {"image_size": image_size}
    try:
        return models.get_model(name, weights=None, **options)
    except (AssertionError, RuntimeError) as error:
        cure, patch = "Drop --image-size.", name.rpartition("_")[2]
        if image_size and takes_one_size(name) and patch.isdecimal() and image_size % int(patch):
            cure = f"Choose {sizes_near(image_size, int(patch))}, multiples of its patches."
        raise BackboneError(f"{name} cannot be built for {image_size} pixels ({error}). {cure}") from error


def preset(name: str, weights: str) -> dict[str, Any]:
    """The preprocessing that belongs to the weights."""
    transform = _entry(name, weights).transforms()
    return {
        "image_size": transform.crop_size[0],
        "resize_size": transform.resize_size[0],
        "interpolation": "bicubic" if transform.interpolation.value == "bicubic" else "bilinear",
        "mean": transform.mean,
        "std": transform.std,
    }


def conversions(name: str, network: nn.Module) -> dict[str, Convert]:
    """What torchvision's own builder does to the names of published files, and its interpolation of positions."""
    from torchvision import models

    loader = getattr(sys.modules[models.get_model_builder(name).__module__], "_load_state_dict", None)

    def convert(state: OrderedDict[str, Tensor]) -> Mapping[str, Tensor]:
        if loader:  # of DenseNet
            recorder = _Recorder(state)
            loader(model=recorder, weights=recorder, progress=False)
            state = recorder.state
        if isinstance(network, models.VisionTransformer):
            from torchvision.models.vision_transformer import interpolate_embeddings

            return interpolate_embeddings(network.image_size, network.patch_size, state)
        return state

    return {"torchvision": convert}


class _Recorder:
    """Takes the place of the weights and of the network in torchvision's loading, and keeps what would be loaded."""

    def __init__(self, state: OrderedDict[str, Tensor]) -> None:
        self.state = state

    def get_state_dict(self, **_: Any) -> OrderedDict[str, Tensor]:
        return self.state

    def load_state_dict(self, state: OrderedDict[str, Tensor]) -> None:
        self.state = state


def _entry(name: str, weights: str) -> Any:
    """torchvision's entry of the weights: a file of one's own is taken for the first recipe, the tutorials' one;
    "pretrained" for the best.
    """
    from torchvision import models

    entries = models.get_model_weights(name)
    return entries.DEFAULT if weights == PRETRAINED else next(iter(entries))


def classifier_name(name: str, network: nn.Module) -> str:
    """The last linear layer, or SqueezeNet's last convolution."""
    linears = [
        path for path, module in network.named_modules() if isinstance(module, nn.Linear) and "aux" not in path.lower()
    ]
    if name.startswith("squeezenet"):
        return "classifier.1"
    if not linears:
        raise BackboneError(f"{name} has no linear layer to take the input of")
    return linears[-1]


def _remove_classifier(network: nn.Module, classifier: str) -> None:
    """Make the network return the input of its classifier, in training and in evaluation alike.

    SqueezeNet classifies with a convolution and averages its output; the input of that convolution, averaged
    over its places, stands in for the penultimate features.
    """
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
