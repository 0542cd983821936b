"""Networks by name, without their classifiers, from torchvision and timm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featcache import weights as weights_
from featcache.errors import BackboneError, first_line
from featcache.rng import derived_seed
from featcache.spec import EMBEDDED
from featcache.telemetry import decline_usage_data


def build(name: str, weights: str, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """A network without its classifier, and the preprocessing of its weights; see `load_backbone`."""
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(seed, "weights"))
        model = timm_name(name)
        return _build_torchvision(name, weights) if model is None else _build_timm(name, model, weights)


def timm_name(name: str) -> str | None:
    """What timm calls a network; None for torchvision's."""
    if name == EMBEDDED:
        return "tf_efficientnet_lite0"
    return name.removeprefix("timm/") if name.startswith("timm/") else None


def preprocessing(name: str, weights: str) -> dict[str, Any] | None:
    """The preprocessing that `build` gives, without the network; None of a network of another name."""
    model = timm_name(name)
    if model is None:
        from torchvision import models

        return _preset(name, weights) if name in models.list_models(module=models) else None
    import timm

    config = timm.get_pretrained_cfg(model) if timm.is_model(model) else None
    return _of_timm(timm.data.resolve_data_config(pretrained_cfg=config.to_dict())) if config else None


def linear_classifiers(name: str) -> list[str]:
    """Names of the last layers of the network as its makers build it, where those are linear and give the logits: one,
    or two (distilled), whose logits are averaged. None where a head cannot take their place, as in SqueezeNet.
    """
    model = timm_name(name)
    with torch.random.fork_rng():  # of weights that are thrown away
        if model is None:
            network = _plain_torchvision(name)
            found = [_classifier_name(name, network)]
        else:
            import timm

            network = timm.create_model(model, num_classes=1)  # those without a classifier get one
            found = _timm_classifiers(network)
    linear = all(isinstance(network.get_submodule(path), nn.Linear) for path in found)
    return found if linear else []


def pretrained_state(name: str, weights: str) -> dict[str, Tensor]:
    """All of the pretrained weights that `build` takes, the classifier's too; by the names of the network as its
    makers build it, of which `linear_classifiers` tells.
    """
    if weights != "pretrained":
        return weights_.read_state(Path(weights))
    model = timm_name(name)
    if model is None:
        from torchvision import models

        return weights_.pretrained_torchvision(name, models.get_model_weights(name).DEFAULT)
    decline_usage_data()
    import timm

    network = timm.create_model(model, pretrained=name != EMBEDDED)
    return weights_.embedded_state(network) if name == EMBEDDED else dict(network.state_dict())


def _build_timm(name: str, model: str, weights: str) -> tuple[nn.Module, dict[str, Any]]:
    decline_usage_data()
    import timm

    pretrained = weights == "pretrained"
    try:
        network = timm.create_model(model, pretrained=pretrained and name != EMBEDDED)
    except Exception as error:
        if model.split(".")[0] not in timm.list_models():
            close = ", ".join(timm.list_models(f"*{model.split('_')[0]}*")[:5])
            raise BackboneError(f"timm has no model {model!r}" + (f"; close: {close}" if close else "")) from error
        raise BackboneError(
            f"the pretrained weights of {name} cannot be had ({first_line(error)}). Put {_hub_file(model)} into the "
            f"Hugging Face cache ({_hub_cache()}), give --weights PATH, or use the embedded --backbone {EMBEDDED}, "
            "which needs no network."
        ) from error
    if name == EMBEDDED and pretrained:
        network.load_state_dict(weights_.embedded_state(network))
    elif weights not in ("pretrained", "none"):
        weights_.load_state(network, weights_.read_state(Path(weights)), _timm_classifiers(network), weights)
    config = timm.data.resolve_model_data_config(network)
    network.reset_classifier(0)
    return network, _of_timm(config)


def _of_timm(config: dict[str, Any]) -> dict[str, Any]:
    size = config["input_size"][-1]
    return {
        "image_size": size,
        "resize_size": round(size / config["crop_pct"]),
        "interpolation": config["interpolation"] if config["interpolation"] == "bicubic" else "bilinear",
        "mean": config["mean"],
        "std": config["std"],
    }


def _timm_classifiers(network: nn.Module) -> list[str]:
    """Names of the layers that `reset_classifier` will replace: one, two (distilled), or none (headless)."""
    found: Any = network.get_classifier()  # type: ignore[operator]
    layers = found if isinstance(found, (tuple, list, nn.ModuleList)) else [found]
    return [path for path, module in network.named_modules() if any(module is layer for layer in layers)]


def _hub_file(model: str) -> str:
    """The file that timm looks for on the Hugging Face hub."""
    import timm

    config = timm.get_pretrained_cfg(model)
    return f"model.safetensors of {config.hf_hub_id}" if config and config.hf_hub_id else "them"


def _hub_cache() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    return str(HF_HUB_CACHE)


def _build_torchvision(name: str, weights: str) -> tuple[nn.Module, dict[str, Any]]:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        close = [model for model in known if model.startswith(name[:4])] or known
        raise BackboneError(
            f"there is no backbone {name!r}. Use {EMBEDDED} (embedded), a torchvision model "
            f"({', '.join(close[:6])}, ...) or timm/<model>."
        )
    network = _plain_torchvision(name)
    classifier = _classifier_name(name, network)
    if weights == "pretrained":
        entry = _entry(name, weights)
        weights_.load_state(network, weights_.pretrained_torchvision(name, entry), [classifier], entry)
    elif weights != "none":
        weights_.load_state(network, weights_.read_state(Path(weights)), [classifier], weights)
    _behead(network, classifier)
    return network, _preset(name, weights)


def _entry(name: str, weights: str) -> Any:
    """torchvision's entry of the weights: a file of one's own is taken for the first recipe, the tutorials' one;
    "pretrained" for the best.
    """
    from torchvision import models

    entries = models.get_model_weights(name)
    return entries.DEFAULT if weights == "pretrained" else next(iter(entries))


def _preset(name: str, weights: str) -> dict[str, Any]:
    preset = _entry(name, weights).transforms()
    return {
        "image_size": preset.crop_size[0],
        "resize_size": preset.resize_size[0],
        "interpolation": "bicubic" if preset.interpolation.value == "bicubic" else "bilinear",
        "mean": preset.mean,
        "std": preset.std,
    }


def _plain_torchvision(name: str) -> nn.Module:
    """A network with random weights and its own classifier."""
    from torchvision import models

    # Their pretrained weights expect the inputs as TensorFlow scaled them; torchvision sets this for them alike.
    options = {"init_weights": True, "transform_input": True} if name in ("googlenet", "inception_v3") else {}
    return models.get_model(name, weights=None, **options)


def _classifier_name(name: str, network: nn.Module) -> str:
    """The last linear layer, or SqueezeNet's last convolution."""
    linears = [
        path for path, module in network.named_modules() if isinstance(module, nn.Linear) and "aux" not in path.lower()
    ]
    if name.startswith("squeezenet"):
        return "classifier.1"
    if not linears:
        raise BackboneError(f"{name} has no linear layer to take the input of")
    return linears[-1]


def _behead(network: nn.Module, classifier: str) -> None:
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
