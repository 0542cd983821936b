"""`Backbone`: a frozen network that turns pixels into features.

PyTorch is imported, and the network built, when it is needed: what an earlier run learnt of the network (`known`) and
its kept conversion do without.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from featcache._utils.environment import cache_folder
from featcache.backbones.devices import resolve_device, resolve_precision
from featcache.backbones.engines.base import (
    CompiledEngine,
    Engine,
    EngineName,
    PendingFeatures,
    PyTorchEngine,
    has_compiler,
    has_openvino,
)
from featcache.backbones.engines.openvino import OpenVinoEngine
from featcache.backbones.metadata_cache import (
    LOCAL,
    BackboneMetadata,
    kept_path,
    load_metadata_for,
    metadata_path,
    store_metadata,
)
from featcache.backbones.sources.names import check_name
from featcache.backbones.weights.location import absolute
from featcache.core.layer_names import ALL, LAST, STAGES
from featcache.core.options import ViewOptions
from featcache.core.specs import (
    EMBEDDED,
    PENULTIMATE,
    ExtractSpec,
    Interpolation,
    Precision,
    StorageDtype,
    ViewSpec,
    is_arrays,
    no_network,
)
from featcache.errors import BackboneError, first_line

if TYPE_CHECKING:
    from torch import Tensor, nn

    from featcache.backbones.feature_extractor import FeatureExtractor
    from featcache.backbones.weights.load import Built

CONVERSION_PAYS = 700
"""From so many views on a conversion (3 to 5 s) pays: from 600 of the embedded network and 1,000 of resnet18, by the
rates in benchmarks/results/extraction.json. It is kept, so that later runs gain from the first view on."""

COMPILING_PAYS = 20_000
"""The same of torch.compile, which takes half a minute to a minute."""


class Backbone:
    """A pretrained network without its classifier, in `eval()`, without gradients.

    Parameters
    ----------
    module : nn.Module from normalised pixels (b, 3, s, s) float32 to features (b, d), or a function that gives it;
        it is called when it is needed. known : its hash and widths, where they are known without it.
    kept : whether its conversion is kept for later runs: where name and weights decide what it computes.
    weights_note : what was done to its weights file to make it fit, one line.

    Attributes
    ----------
    name : as given to `load_backbone`.
    weights : "pretrained", "none" or a path: where the weights came from.
    layers : names of what `embed_layers` gives, see `featcache.core.layer_names`. dims : dict. Width d of each layer.
    image_size, resize_size, interpolation, mean, std : the preprocessing that belongs to the weights.
    weights_sha256 : hash of the weights.
    device, precision : where and how `embed` computes. engine : "pytorch", "compiled" or "openvino".
    weights_note : what was done to the weights file. engine_note : why not a faster engine, where `accelerate` tried
        one in vain. note : both, a line each.
    """

    def __init__(
        self,
        module: nn.Module | Callable[[], nn.Module],
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
        known: BackboneMetadata | None = None,
        kept: bool = False,
        weights_note: str = "",
    ) -> None:
        self.name, self.weights = name, weights
        self.image_size, self.resize_size = image_size, resize_size
        self.interpolation: Interpolation = interpolation
        self.mean = (float(mean[0]), float(mean[1]), float(mean[2]))
        self.std = (float(std[0]), float(std[1]), float(std[2]))
        self.device, self.precision = device, precision
        self.engine: EngineName = "pytorch"
        self.weights_note, self.engine_note = weights_note, ""
        self._given, self._kept = module, kept
        self.layers = tuple(known.dims) if known else self._expand(tuple(layers))
        self._fast: tuple[int, Engine] | None = None
        self.weights_sha256 = known.weights_sha256 if known else ""
        self.dims = known.dims if known else self._measure()

    @cached_property
    def frozen(self) -> FeatureExtractor:
        """The network itself, in PyTorch."""
        from featcache.backbones.feature_extractor import FeatureExtractor
        from featcache.backbones.weights.load import sha256_of

        module = self._build()
        found = sha256_of(module.state_dict())
        if self.weights_sha256 not in ("", found):
            raise BackboneError(
                f"{self.name} has weights {found[:12]}..., an earlier run saw {self.weights_sha256[:12]}... under the "
                f"same name. Remove {cache_folder() / 'networks'} and run the same command again."
            )
        self.weights_sha256 = found
        return FeatureExtractor(
            module,
            name=self.name,
            mean=self.mean,
            std=self.std,
            layers=self.layers,
            device=self.device,
            precision=self.precision,
        )

    @property
    def module(self) -> nn.Module:
        """The network: normalised pixels (b, 3, s, s), float32, to features (b, d). Fine-tuning trains a copy."""
        return self.frozen.network

    @property
    def note(self) -> str:
        """What the user should know of weights and engine, a line each."""
        return "\n".join(filter(None, [self.weights_note, self.engine_note]))

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
        return dict(zip(self.layers, self.submit(pixels)(), strict=True))

    def submit(self, pixels: NDArray[np.uint8]) -> PendingFeatures:
        """Start on pixels (b, s, s, 3), uint8; call what is returned to get the features, in the order of `layers`."""
        return self._engine_for(pixels.shape[1]).submit(pixels)

    def appetite(self, image_size: int) -> int:
        """Views that should be under way beside those that are waited for, so that the network is always busy."""
        return self._engine_for(image_size).appetite

    @property
    def batch_size(self) -> int:
        """Views a forward pass that suit the device."""
        return 256 if self.device.startswith("cuda") else 32

    def accelerate(
        self, image_size: int, engine: EngineName = "auto", views: int = CONVERSION_PAYS, like: str = ""
    ) -> None:
        """Let `embed` run on the fastest engine for pixels of this size; the features stay the same up to rounding.

        Parameters
        ----------
        engine : "auto" takes, on a CPU, OpenVINO where `views`, the number of views to come, are worth the
            conversion or where that is there from an earlier run; without OpenVINO compiled PyTorch where that pays.
        like : the engine that made the features which new ones go with. In bf16 two engines round so differently that a
            class can change: "auto" takes the same one then, and `engine_note` says where it could not.

        Raises
        ------
        BackboneError : the engine asked for cannot be had.
        """
        self.engine, self._fast, self.engine_note = "pytorch", None, ""
        takes_openvino = self.device == "cpu" and self.precision != "fp16" and has_openvino()
        if engine == "openvino" and not takes_openvino:
            raise BackboneError("OpenVINO runs on the CPU in fp32 or bf16, once it is there: pip install openvino")
        if engine == "compiled" and not has_compiler(self.device):
            raise BackboneError("torch.compile needs a C++ compiler (Triton on a GPU). Install g++, or drop --engine.")
        chosen = engine
        if engine == "auto":
            chosen = self._choose(views, like, takes_openvino, image_size)
        try:
            fast = self._engine(chosen, image_size)
        except (RuntimeError, ImportError, OSError, AttributeError) as error:  # or an installation that is broken
            tool, reason = "OpenVINO" if chosen == "openvino" else "torch.compile", first_line(error)
            self.engine_note = f"{tool} cannot run {self.name} ({reason}); PyTorch does"
            if engine != "auto":
                raise BackboneError(f"{tool} cannot run {self.name}: {reason}. Drop --engine.") from error
            return
        if fast:
            self.engine, self._fast = chosen, (image_size, fast)
        if self.precision == "bf16" and like not in ("", self.engine):
            self.engine_note = (
                f"{like} made the features in bf16, and {self.engine} computes here: they differ by about 1 %, and so "
                "does what a head says of them"
            )

    def _choose(self, views: int, like: str, takes_openvino: bool, image_size: int) -> EngineName:
        """What "auto" takes, see `accelerate`."""
        if self.precision == "bf16" and (like == "pytorch" or (like == "openvino" and takes_openvino)):
            return "pytorch" if like == "pytorch" else "openvino"
        if takes_openvino and (views >= CONVERSION_PAYS or self._is_converted(image_size)):
            return "openvino"
        if self.device == "cpu" and not takes_openvino and views >= COMPILING_PAYS and has_compiler("cpu"):
            return "compiled"
        return "pytorch"

    def normalise(self, pixels: NDArray[np.uint8]) -> Tensor:
        """uint8 pixels (b, s, s, 3) to the network's input (b, 3, s, s), float32, channels last, on the device."""
        return self.frozen.normalise(pixels)

    @property
    def device_name(self) -> str:
        """ "cpu", "mps", or the name of the GPU."""
        if not self.device.startswith("cuda"):
            return self.device
        import torch

        return torch.cuda.get_device_name(self.device)

    def trainable_module(self) -> nn.Module:
        """A copy of the network with gradients, for fine-tuning."""
        return copy.deepcopy(self.module).requires_grad_(True)

    def view_spec(self, **options: Unpack[ViewOptions]) -> ViewSpec:
        """A ViewSpec with this network's preprocessing; another image size keeps its resize ratio.

        Parameters
        ----------
        options : ViewOptions
            None and options that are left out take the network's own value, or that of `ViewSpec`.
        """
        requested = {name: value for name, value in options.items() if value is not None}
        size = options.get("image_size") or self.image_size
        if size != self.image_size and not self._is_converted(size):
            self._probe(size)
        resize = round(size * self.resize_size / self.image_size)
        fields: dict[str, Any] = {"image_size": size, "resize_size": resize, "interpolation": self.interpolation}
        return ViewSpec(**{**fields, **requested})

    def extract_spec(
        self, *, views: int, dtype: StorageDtype, val_views: int = 0, **options: Unpack[ViewOptions]
    ) -> ExtractSpec:
        """All that decides a feature of this network."""
        return ExtractSpec(
            backbone=self.name,
            weights_sha256=self.weights_sha256,
            view=self.view_spec(**options),
            mean=self.mean,
            std=self.std,
            views=views,
            layers=self.layers,
            precision=self.precision,
            dtype=dtype,
            val_views=val_views,
        )

    def _build(self) -> nn.Module:
        """The network as it was given, built once."""
        if not hasattr(self._given, "state_dict"):
            self._given = self._given()
        module: Any = self._given
        return module

    def _expand(self, layers: tuple[str, ...]) -> tuple[str, ...]:
        """Layers by name; sets of them need the network."""
        if not {LAST, STAGES, ALL} & set(layers):
            return layers
        from featcache.backbones.pooling import expand_layers

        return expand_layers(self._build().eval(), layers, self.image_size)

    def _probe(self, size: int) -> None:
        """Raise BackboneError where the network cannot take views of this size."""
        try:
            self.embed_layers(np.zeros((1, size, size, 3), dtype=np.uint8))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise BackboneError(
                f"{self.name} takes {self.image_size} pixels, you asked for {size} ({first_line(error)}). "
                "Drop --image-size, or choose another network."
            ) from error

    def _conversion(self, image_size: int) -> Path | None:
        """Where OpenVINO's conversion is kept, once it was made; None where it is not to be kept."""
        if not self._kept:
            return None
        return kept_path(".xml", self.name, self.weights_sha256, self.layers, self.mean, self.std, image_size)

    def _is_converted(self, image_size: int) -> bool:
        path = self._conversion(image_size)
        return path is not None and path.exists()

    def _measure(self) -> dict[str, int]:
        found = self.embed_layers(np.zeros((1, self.image_size, self.image_size, 3), dtype=np.uint8))
        for layer, values in found.items():
            if values.ndim != 2:
                raise BackboneError(
                    f"{self.name} gives {values.shape} for one picture, and features are (1, d): end it with "
                    "nn.AdaptiveAvgPool2d(1) and nn.Flatten()."
                )
            if not np.isfinite(values).all() and not np.isfinite(self._of_noise(layer)).all():
                raise BackboneError(
                    f"{self.name} gives features that are not finite, whatever the picture: its weights hold NaN or "
                    f"inf, or its values are too large for {self.precision}."
                )
        return {layer: values.shape[1] for layer, values in found.items()}

    def _of_noise(self, layer: str) -> NDArray[np.float32]:
        shape = (1, self.image_size, self.image_size, 3)
        return self.embed_layers(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))[layer]

    def _engine_for(self, image_size: int) -> Engine:
        return self._fast[1] if self._fast and self._fast[0] == image_size else self._pytorch

    @cached_property
    def _pytorch(self) -> Engine:
        return PyTorchEngine(self.frozen)

    def _engine(self, name: EngineName, image_size: int) -> Engine | None:
        if name == "openvino":
            return OpenVinoEngine(lambda: self.frozen, image_size, self.precision, self._conversion(image_size))
        if name == "compiled":
            return CompiledEngine(self.frozen, image_size)
        return None


def load_backbone(
    name: str = EMBEDDED,
    *,
    weights: str = "pretrained",
    layers: Sequence[str] = (PENULTIMATE,),
    device: str = "auto",
    precision: str = "fp32",
    seed: int = 0,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: Interpolation | None = None,
    lazy: bool = False,
) -> Backbone:
    """Load a network as a frozen feature extractor.

    Parameters
    ----------
    name : `efficientnet_lite0` (embedded, needs no network), any torchvision classification model such as
        `resnet18`, or `timm/<model>`, where the model may be `hf-hub:<user>/<repository>` or `local-dir:<folder>`.
    weights : "pretrained"; "none" for random weights drawn with `seed`; the path of a weights file, or of a folder that
        `finetune` wrote; or "PATH#KEY", which of several state dicts in the file.
    layers : "penultimate" (the input of the last linear layer), inner modules such as `layer3` or `layer3:max`, or the
        sets "last", "stages" and "all", see `featcache.core.layer_names`.
    device : "auto", "cpu", "cuda", "cuda:1", "mps".
    precision : "auto", "fp32", "bf16", "fp16".
    image_size : pixels; networks that take pictures of one size only are built for it, their positions interpolated.
    mean, std, interpolation : what the weights expect; None takes what the network's makers say.
    lazy : where an earlier run knows the network, build it when it is needed: its kept conversion does without.

    Raises
    ------
    BackboneError : unknown name, weights that do not fit, or that cannot be had.
    """
    if is_arrays(name):
        raise BackboneError(
            f"{name} is no network: {no_network(name)}. Give the head features of the same kind: "
            "`fit_head(...).estimator.predict(features)`."
        )
    device, weights = resolve_device(device), absolute(weights)
    precision = resolve_precision(precision, device)
    given: dict[str, Any] = {
        "name": name,
        "weights": weights,
        "layers": layers,
        "device": device,
        "precision": precision,
        "kept": not name.startswith(LOCAL),
    }
    own = {"mean": mean, "std": std, "interpolation": interpolation}
    own = {what: value for what, value in own.items() if value is not None}

    def build() -> Built:
        from featcache.backbones.sources import registry

        return registry.build(name, weights, seed, image_size)

    identity = (name, weights, layers, seed)
    known = load_metadata_for(image_size, *identity) if lazy else None
    if known:
        given |= {"known": known, "weights_note": known.note, **known.preprocessing, **own}
        return Backbone(lambda: build().module, **given)
    check_name(name)
    built = build()
    note = f"{Path(weights).name}: {built.note}" if built.note else ""
    backbone = Backbone(built.module, weights_note=note, **given, **{**built.preprocessing, **own})
    found = BackboneMetadata(backbone.weights_sha256, backbone.dims, built.preprocessing, note, built.one_size)
    store_metadata(metadata_path(*identity, image_size if built.one_size else None), found)
    return backbone


def preprocessing_of(spec: ExtractSpec, weights: str) -> dict[str, Any] | None:
    """The preprocessing that belongs to the weights of a spec's network, without loading those; None where the name is
    not one that `load_backbone` takes.

    weights : "pretrained", "none" or a path.
    """
    if is_arrays(spec.backbone):
        return None
    known = load_metadata_for(spec.view.image_size, spec.backbone, weights, spec.layers, spec.view.seed)
    if known:
        return known.preprocessing
    from featcache.backbones.sources import registry  # seconds of imports

    return registry.preprocessing(spec.backbone, weights)
