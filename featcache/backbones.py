"""`Backbone`: a frozen network that turns pixels into features."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featcache import weights as weights_
from featcache.errors import BackboneError
from featcache.rng import derived_seed
from featcache.spec import PENULTIMATE, Interpolation, Precision, ViewSpec
from featcache.weights import EMBEDDED

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Backbone:
    """A pretrained network without its classifier, in `eval()`, without gradients.

    Attributes
    ----------
    name : as given to `load_backbone`.
    weights : "pretrained", "none" or a path: where the weights came from.
    module : nn.Module from normalised pixels (b, 3, s, s) float32 to features (b, d). Fine-tuning trains a copy.
    dims : dict. Width d of each layer.
    image_size, resize_size, interpolation, mean, std : the preprocessing that belongs to the weights.
    weights_sha256 : hash of the weights.
    device, precision : where and how `embed` computes.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str,
        weights: str = "none",
        image_size: int = 224,
        resize_size: int = 256,
        interpolation: Interpolation = "bilinear",
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        layers: Sequence[str] = (PENULTIMATE,),
        device: str = "cpu",
        precision: Precision = "fp32",
    ) -> None:
        self.name, self.weights = name, weights
        self.image_size, self.resize_size = image_size, resize_size
        self.interpolation: Interpolation = interpolation
        self.mean = (float(mean[0]), float(mean[1]), float(mean[2]))
        self.std = (float(std[0]), float(std[1]), float(std[2]))
        self.device, self.precision = torch.device(device), precision
        self.weights_sha256 = weights_.sha256_of(module.state_dict())
        self.module = module.eval().requires_grad_(False).to(self.device, memory_format=torch.channels_last)
        self.layers = tuple(layers)
        self._tapped: dict[str, Tensor] = {}
        self._tap()
        blank = np.zeros((1, image_size, image_size, 3), dtype=np.uint8)
        self.dims = {layer: values.shape[1] for layer, values in self.embed_layers(blank).items()}

    @property
    def main_layer(self) -> str:
        """The penultimate layer, or the first one asked for where that is not among them."""
        return PENULTIMATE if PENULTIMATE in self.layers else self.layers[0]

    @property
    def dim(self) -> int:
        """Width d of what `embed` returns."""
        return self.dims[self.main_layer]

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features of the main layer.

        Parameters
        ----------
        pixels : ndarray, shape (b, s, s, 3), uint8.

        Returns
        -------
        features : ndarray, shape (b, d), float32; by default the input of the network's last linear layer.
        """
        return self.embed_layers(pixels)[self.main_layer]

    def embed_layers(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Features of every layer asked for, each (b, d), float32."""
        self._tapped.clear()
        with torch.inference_mode(), self.autocast():
            self._tapped[PENULTIMATE] = self.module(self.normalise(pixels))
        return {layer: self._tapped[layer].float().cpu().numpy() for layer in self.layers}

    def normalise(self, pixels: NDArray[np.uint8]) -> Tensor:
        """uint8 pixels (b, s, s, 3) to the network's input (b, 3, s, s), float32, channels last, on the device."""
        mean = torch.tensor(self.mean, device=self.device).view(1, 3, 1, 1) * 255
        std = torch.tensor(self.std, device=self.device).view(1, 3, 1, 1) * 255
        batch = torch.from_numpy(pixels).to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        return (batch.float() - mean) / std

    def autocast(self) -> torch.autocast:
        """The context in which the network computes at this precision."""
        return autocast(self.device, self.precision)

    def trainable_module(self) -> nn.Module:
        """A copy of the network with gradients, for fine-tuning."""
        return copy.deepcopy(self.module).requires_grad_(True)

    def view_spec(self, *, image_size: int | None = None, **fields: Any) -> ViewSpec:
        """A ViewSpec with this network's preprocessing; another image size keeps its resize ratio."""
        size = image_size or self.image_size
        resize = round(size * self.resize_size / self.image_size)
        return ViewSpec(size, resize, self.interpolation, **fields)

    def _tap(self) -> None:
        """Hook the intermediate layers, so that one forward pass gives them all."""
        modules = dict(self.module.named_modules())
        for layer in self.layers:
            if layer == PENULTIMATE:
                continue
            if layer not in modules:
                known = ", ".join(name for name, _ in self.module.named_children())
                raise BackboneError(f"{self.name} has no layer {layer!r}; its stages are {known}")
            modules[layer].register_forward_hook(self._keep(layer))

    def _keep(self, layer: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._tapped[layer] = _pool(self.name, layer, output)

        return hook


def _pool(name: str, layer: str, output: Any) -> Tensor:
    """Maps (b, d, h, w) and tokens (b, t, d) are averaged over their places; vectors stay."""
    if isinstance(output, Tensor) and output.ndim in (2, 3, 4):
        return {2: lambda x: x, 3: lambda x: x.mean(1), 4: lambda x: x.mean((2, 3))}[output.ndim](output)
    raise BackboneError(f"layer {layer} of {name} does not give one tensor of 2 to 4 dimensions")


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Mixed precision as PyTorch does it; off in fp32."""
    return torch.autocast(device.type, _DTYPES[precision], enabled=precision != "fp32")


def resolve_device(device: str = "auto") -> str:
    """ "auto" takes CUDA, then MPS, then the CPU. Raises BackboneError for a device that is not there."""
    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise BackboneError(f"device {device!r} cannot be used: {reason}. Try --device auto or cpu.") from error
    return device


def resolve_precision(precision: str, device: str) -> Precision:
    """ "auto" takes bf16 where the hardware multiplies matrices in it, fp16 on older GPUs, else fp32."""
    kind = torch.device(device).type
    if precision == "auto":
        if kind == "cuda":
            return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
        fast = kind == "cpu" and torch.cpu._is_avx512_bf16_supported()
        return "bf16" if fast else "fp32"
    if precision not in _DTYPES:
        raise BackboneError(f"precision is {precision!r}; it must be auto, {', '.join(_DTYPES)}")
    if precision == "fp16" and kind == "cpu":
        raise BackboneError("fp16 on a CPU is slow and overflows; use bf16 or fp32")
    return precision  # type: ignore[return-value]


def load_backbone(
    name: str = EMBEDDED,
    *,
    weights: str = "pretrained",
    layers: Sequence[str] = (PENULTIMATE,),
    device: str = "auto",
    precision: str = "fp32",
    seed: int = 0,
) -> Backbone:
    """Load a network as a frozen feature extractor.

    Parameters
    ----------
    name : `efficientnet_lite0` (embedded, needs no network), any torchvision classification model such as
        `resnet18`, or `timm/<model>`.
    weights : "pretrained"; "none" for random weights drawn with `seed`; or the path of a state dict.
    layers : "penultimate" (the input of the last linear layer) and names of inner modules, such as `layer3`,
        whose outputs are averaged over their places.
    device : "auto", "cpu", "cuda", "cuda:1", "mps".
    precision : "auto", "fp32", "bf16", "fp16".

    Raises
    ------
    BackboneError : unknown name, weights that do not fit, or that cannot be had.
    """
    device = resolve_device(device)
    if weights not in ("pretrained", "none"):
        weights = str(Path(weights).resolve())  # recorded with the features, to be found again from elsewhere
    module, preprocessing = _build(name, weights, seed)
    return Backbone(
        module,
        name=name,
        weights=weights,
        layers=layers,
        device=device,
        precision=resolve_precision(precision, device),
        **preprocessing,
    )


def _build(name: str, weights: str, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(seed, "weights"))
        if name == EMBEDDED:
            return _build_timm(name, "tf_efficientnet_lite0", weights)
        if name.startswith("timm/"):
            return _build_timm(name, name.removeprefix("timm/"), weights)
        return _build_torchvision(name, weights)


def _build_timm(name: str, model: str, weights: str) -> tuple[nn.Module, dict[str, Any]]:
    import timm

    pretrained = weights == "pretrained"
    try:
        network = timm.create_model(model, pretrained=pretrained and name != EMBEDDED)
    except Exception as error:
        if model not in timm.list_models():
            close = ", ".join(timm.list_models(f"*{model.split('_')[0]}*")[:5])
            raise BackboneError(f"timm has no model {model!r}" + (f"; close: {close}" if close else "")) from error
        raise BackboneError(
            f"the pretrained weights of {name} cannot be had ({str(error).splitlines()[0]}). Put them into the "
            f"Hugging Face cache ({_hub_cache()}), give --weights PATH, or use the embedded --backbone {EMBEDDED}, "
            "which needs no network."
        ) from error
    classifier = _classifier_name(name, network)
    if name == EMBEDDED and pretrained:
        network.load_state_dict(weights_.embedded_state(network))
    elif weights not in ("pretrained", "none"):
        weights_.load_state(network, weights_.read_state(Path(weights)), classifier, weights)
    config = timm.data.resolve_model_data_config(network)
    network.reset_classifier(0)
    size = config["input_size"][-1]
    return network, {
        "image_size": size,
        "resize_size": round(size / config["crop_pct"]),
        "interpolation": config["interpolation"] if config["interpolation"] == "bicubic" else "bilinear",
        "mean": config["mean"],
        "std": config["std"],
    }


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
    entries = models.get_model_weights(name)
    # A file of one's own is taken for the first recipe, the tutorials' one; "pretrained" for the best.
    entry = entries.DEFAULT if weights == "pretrained" else next(iter(entries))
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    network = models.get_model(name, weights=None, **options)
    classifier = _classifier_name(name, network)
    if weights == "pretrained":
        state = weights_.pretrained_torchvision(name, entry)
        weights_.load_state(network, state, classifier, entry)
    elif weights != "none":
        weights_.load_state(network, weights_.read_state(Path(weights)), classifier, weights)
    _behead(network, classifier)
    preset = entry.transforms()
    return network, {
        "image_size": preset.crop_size[0],
        "resize_size": preset.resize_size[0],
        "interpolation": "bicubic" if preset.interpolation.value == "bicubic" else "bilinear",
        "mean": preset.mean,
        "std": preset.std,
    }


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
            network.aux_logits = False
