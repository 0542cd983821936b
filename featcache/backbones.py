"""`Backbone`: a frozen network that turns pixels into features."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featcache.architectures import build
from featcache.engines import (
    WORTHWHILE_VIEWS,
    Engine,
    EngineName,
    conversion_path,
    openvino_engine,
    openvino_is_there,
)
from featcache.errors import BackboneError
from featcache.folders import cache_folder
from featcache.spec import PENULTIMATE, Augment, ExtractSpec, Interpolation, Precision, StorageDtype, ViewSpec
from featcache.weights import EMBEDDED, first_line, sha256_of

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
    device, precision : where and how `embed` computes. engine : "pytorch" or "openvino". note : why not OpenVINO,
        where `accelerate` tried it in vain.
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
        self.weights_sha256 = sha256_of(module.state_dict())
        self.module = module.eval().requires_grad_(False).to(self.device).to(memory_format=torch.channels_last)
        self.layers = tuple(layers)
        self.engine, self.note = "pytorch", ""
        self._converted: tuple[int, Engine] | None = None
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
        if self._converted and self._converted[0] == pixels.shape[1]:
            return dict(zip(self.layers, self._converted[1](pixels), strict=True))
        with torch.inference_mode(), self.autocast():
            features = self.forward(self.normalise(pixels))
        return {layer: values.float().cpu().numpy() for layer, values in features.items()}

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        """Features of every layer asked for, each (b, d), of normalised pixels (b, 3, s, s)."""
        self._tapped.clear()
        self._tapped[PENULTIMATE] = self.module(batch)
        return {layer: self._tapped[layer] for layer in self.layers}

    def accelerate(self, image_size: int, engine: EngineName = "auto", views: int = WORTHWHILE_VIEWS) -> None:
        """Let `embed` run on the faster engine for pixels of this size; the features stay the same up to rounding.

        Parameters
        ----------
        engine : "auto" takes OpenVINO on a CPU where it is installed and `views`, the number of views to come, are
            worth the conversion, or where that is there from an earlier run.

        Raises
        ------
        BackboneError : "openvino" was asked for and cannot be had.
        """
        possible = self.device.type == "cpu" and self.precision != "fp16" and openvino_is_there()
        if engine == "openvino" and not possible:
            raise BackboneError("OpenVINO runs on the CPU in fp32 or bf16, once it is there: pip install openvino")
        if engine == "pytorch" or not possible:
            return
        path = conversion_path(
            cache_folder() / "openvino", self.name, self.weights_sha256, self.layers, self.mean, self.std, image_size
        )
        if engine == "auto" and views < WORTHWHILE_VIEWS and not path.exists():
            return
        try:
            run = openvino_engine(_FromPixels(self), image_size, self.precision, path)
        except RuntimeError as error:
            self.note = f"OpenVINO cannot run {self.name} ({error}); PyTorch does"
            if engine == "openvino":
                raise BackboneError(f"OpenVINO cannot run {self.name}: {error}. Drop --engine.") from error
            return
        self.engine, self._converted = "openvino", (image_size, run)

    def normalise(self, pixels: NDArray[np.uint8]) -> Tensor:
        """uint8 pixels (b, s, s, 3) to the network's input (b, 3, s, s), float32, channels last, on the device."""
        return self.scale(torch.from_numpy(np.require(pixels, requirements="W")).to(self.device, non_blocking=True))

    def scale(self, batch: Tensor) -> Tensor:
        """The same from a tensor that is on the device."""
        mean = torch.tensor(self.mean, device=self.device).view(1, 3, 1, 1) * 255
        std = torch.tensor(self.std, device=self.device).view(1, 3, 1, 1) * 255
        return (batch.permute(0, 3, 1, 2).float() - mean) / std

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """The context in which a forward pass computes at this precision."""
        with (
            self.exact(),
            torch.autocast(self.device.type, _DTYPES[self.precision], enabled=self.precision != "fp32"),
        ):
            yield

    @contextmanager
    def exact(self) -> Iterator[None]:
        """The context in which fp32 means fp32, not TF32, in convolutions forward and backward."""
        before = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = before and self.precision != "fp32"
        try:
            yield
        finally:
            torch.backends.cudnn.allow_tf32 = before

    @property
    def device_name(self) -> str:
        """ "cpu", "mps", or the name of the GPU."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type

    def trainable_module(self) -> nn.Module:
        """A copy of the network with gradients, for fine-tuning."""
        return copy.deepcopy(self.module).requires_grad_(True)

    def view_spec(self, *, image_size: int | None = None, **fields: Any) -> ViewSpec:
        """A ViewSpec with this network's preprocessing; another image size keeps its resize ratio."""
        size = image_size or self.image_size
        if size != self.image_size:
            self._probe(size)
        resize = round(size * self.resize_size / self.image_size)
        return ViewSpec(size, resize, self.interpolation, **fields)

    def extract_spec(
        self, *, image_size: int | None, augment: Augment, seed: int, views: int, dtype: StorageDtype
    ) -> ExtractSpec:
        """All that decides a feature of this network."""
        return ExtractSpec(
            backbone=self.name,
            weights_sha256=self.weights_sha256,
            view=self.view_spec(image_size=image_size, augment=augment, seed=seed),
            mean=self.mean,
            std=self.std,
            views=views,
            layers=self.layers,
            precision=self.precision,
            dtype=dtype,
        )

    def _probe(self, size: int) -> None:
        """Raise BackboneError where the network cannot take views of this size."""
        try:
            self.embed_layers(np.zeros((1, size, size, 3), dtype=np.uint8))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise BackboneError(
                f"{self.name} takes {self.image_size} pixels, you asked for {size} ({first_line(error)}). "
                "Drop --image-size, or choose another network."
            ) from error

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


class _FromPixels(nn.Module):
    """Normalisation, network and pooled layers in one: what is converted."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.network = backbone.module
        self._backbone = backbone

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """(b, s, s, 3), uint8, to (b, d), float32, of each layer."""
        return tuple(self._backbone.forward(self._backbone.scale(pixels)).values())


def _pool(name: str, layer: str, output: Any) -> Tensor:
    """Maps and tokens (b, t, d) are averaged over their places; vectors stay, apart from later in-place changes."""
    if isinstance(output, Tensor) and output.ndim == 2:
        return output.clone()
    if isinstance(output, Tensor) and output.ndim == 3:
        return output.mean(1)
    if isinstance(output, Tensor) and output.ndim == 4:
        # Square views give square maps, so the odd axis out holds the channels: (b, h, w, d) in Swin.
        channels_last = output.shape[1] == output.shape[2] != output.shape[3]
        return output.mean((1, 2) if channels_last else (2, 3))
    raise BackboneError(f"layer {layer} of {name} does not give one tensor of 2 to 4 dimensions")


def resolve_device(device: str = "auto") -> str:
    """ "auto" takes CUDA, then MPS, then the CPU. Raises BackboneError for a device that is not there."""
    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = first_line(error)
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
    module, preprocessing = build(name, weights, seed)
    return Backbone(
        module,
        name=name,
        weights=weights,
        layers=layers,
        device=device,
        precision=resolve_precision(precision, device),
        **preprocessing,
    )
