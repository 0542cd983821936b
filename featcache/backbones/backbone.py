"""`Backbone`: a frozen network that turns pixels into features.

It imports PyTorch and builds the network on first use: with cached metadata and a cached OpenVINO model it needs
neither.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

import numpy as np
from numpy.typing import NDArray

from featcache._utils.environment import cache_folder
from featcache._utils.formatting import split_names
from featcache.backbones.devices import allows_tf32, expand_device, name_devices
from featcache.backbones.engines.base import Engine, EngineName, PendingFeatures
from featcache.backbones.engines.data_parallel import join_engines
from featcache.backbones.engines.pytorch import PyTorchEngine
from featcache.backbones.engines.select import CONVERSION_PAYS, EngineRequest, select_engine
from featcache.backbones.metadata_cache import BackboneMetadata, cache_path
from featcache.backbones.probe import check_image_size, measure_dims
from featcache.core.layer_names import ALL, LAST, STAGES
from featcache.core.options import ViewOptions
from featcache.core.specs import (
    PENULTIMATE,
    ExtractSpec,
    Interpolation,
    Precision,
    StorageDtype,
    ViewSpec,
)
from featcache.errors import BackboneError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from featcache.backbones.feature_extractor import FeatureExtractor
    from featcache.data.sample_loader import Inputs


class Backbone:
    """A pretrained network without its classifier, in `eval()` mode, without gradients.

    Parameters
    ----------
    module : nn.Module or callable
        Maps normalized pixels (b, 3, s, s), float32, to features (b, d). A callable returns the module; it is called
        when the module is needed.
    name : str
        Stored in caches and heads.
    weights : str, default "none"
        Where the weights come from: "pretrained", "none" or a path. Stored only.
    image_size : int, default 224
        Side s of the views in pixels.
    resize_size : int, default 256
        Length in pixels to which the short side of an image is resized before the crop.
    interpolation : {"bilinear", "bicubic"}, default "bilinear"
        How images are resized.
    mean : sequence of 3 floats
        Mean per channel of pixels scaled to 0..1; by default ImageNet's.
    std : sequence of 3 floats
        Standard deviation per channel of pixels scaled to 0..1; by default ImageNet's.
    layers : str or sequence of str, default ("penultimate",)
        Layers that `embed_layers` returns, or the sets "last", "stages" and "all"; see `featcache.core.layer_names`.
    device : str, default "cpu"
        Device of the network, such as "cpu" or "cuda:1"; "cuda:all" is all GPUs, each with a copy of the network.
    precision : {"fp32", "bf16", "fp16"}, default "fp32"
        Precision of the network's computations.
    metadata : BackboneMetadata, optional
        Cached hash, widths and layers, which are otherwise measured.
    cache_conversion : bool, default False
        Cache the conversion to OpenVINO for later runs. Name and weights must decide what the network computes.
    weights_note : str, default ""
        How a weights file was changed to fit the network, one line.

    Attributes
    ----------
    layers : tuple of str
        Names of the layers that `embed_layers` returns.
    dims : dict of str to int
        Width d of each layer.
    devices : tuple of str
        Where it computes features; `device` is the first of them.
    weights_sha256 : str
        Hash of the weights.
    engine : {"pytorch", "compiled", "openvino"}
        What runs the network, see `select_engine`.
    engine_note : str
        Why a faster engine could not be used; "" otherwise.

    Raises
    ------
    BackboneError
        The module returns something else than finite features (b, d), or has no such layer.

    Examples
    --------
    >>> import numpy as np
    >>> from torch import nn
    >>> from featcache import Backbone
    >>> module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> backbone = Backbone(module, name="channel-means", image_size=8, mean=(0, 0, 0), std=(1, 1, 1))
    >>> backbone.dims
    {'penultimate': 3}
    >>> backbone.embed(np.full((2, 8, 8, 3), 255, np.uint8))
    array([[1., 1., 1.],
           [1., 1., 1.]], dtype=float32)
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
        layers: str | Sequence[str] = (PENULTIMATE,),
        device: str = "cpu",
        precision: Precision = "fp32",
        metadata: BackboneMetadata | None = None,
        cache_conversion: bool = False,
        weights_note: str = "",
    ) -> None:
        self.name, self.weights = name, weights
        self.image_size, self.resize_size = image_size, resize_size
        self.interpolation: Interpolation = interpolation
        self.mean = (float(mean[0]), float(mean[1]), float(mean[2]))
        self.std = (float(std[0]), float(std[1]), float(std[2]))
        self.devices, self.precision = expand_device(device), precision
        self.device = self.devices[0]
        self.engine: EngineName = "pytorch"
        self.weights_note, self.engine_note = weights_note, ""
        self._module, self._cache_conversion = module, cache_conversion
        self.layers = tuple(metadata.dims) if metadata else self._expand_layers(split_names(layers))
        self._computed = self.layers  # by the engines; `keep_layers` returns some of them
        self._selected: tuple[int, Engine] | None = None  # and the image size that it is for
        self.weights_sha256 = metadata.weights_sha256 if metadata else ""
        self.dims = metadata.dims if metadata else measure_dims(self)

    def __getstate__(self) -> dict[str, Any]:
        """Without the engine of PyTorch, whose streams belong to this process. A copy starts its own."""
        return {name: value for name, value in vars(self).items() if name != "_pytorch_engine"}

    @cached_property
    def feature_extractor(self) -> FeatureExtractor:
        """The network in PyTorch. Raises BackboneError if its weights are not those of the cached metadata."""
        from featcache.backbones.feature_extractor import FeatureExtractor
        from featcache.backbones.weights.load import sha256_of

        module = self._build()
        sha256 = sha256_of(module.state_dict())
        if self.weights_sha256 not in ("", sha256):
            raise BackboneError(
                f"{self.name} has weights {sha256[:12]}..., an earlier run saw {self.weights_sha256[:12]}... under the "
                f"same name. Remove {cache_folder() / 'networks'} and run the same command again."
            )
        self.weights_sha256 = sha256
        return FeatureExtractor(
            module,
            name=self.name,
            mean=self.mean,
            std=self.std,
            layers=self._computed,
            device=self.device,
            precision=self.precision,
        )

    @property
    def module(self) -> nn.Module:
        """The network, from normalized pixels (b, 3, s, s), float32, to features (b, d)."""
        return self.feature_extractor.network

    @property
    def note(self) -> str:
        """Notes for the user on weights, engine and size of the batches, a line each."""
        engines = [self._selected[1]] if self._selected else []
        engines += [self._pytorch_engine] if "_pytorch_engine" in vars(self) else []
        return "\n".join(filter(None, [self.weights_note, self.engine_note, *(engine.note for engine in engines)]))

    @property
    def main_layer(self) -> str:
        """The penultimate layer, or the first layer if the penultimate one was not requested."""
        return PENULTIMATE if PENULTIMATE in self.layers else self.layers[0]

    @property
    def dim(self) -> int:
        """Width d of the main layer."""
        return self.dims[self.main_layer]

    @property
    def batch_size(self) -> int:
        """Views in one forward pass: 256 on a GPU, halved until they fit into its memory; 32 on other devices."""
        return 256 if self.device.startswith("cuda") else 32

    @property
    def device_name(self) -> str:
        """ "cpu", "mps", or the name of the GPU, or of all of them."""
        return name_devices(self.devices)

    @property
    def allows_tf32(self) -> bool:
        """Whether a GPU may compute in TF32 what bf16 or fp16 leaves in float32. The precision "fp32" is IEEE's."""
        return allows_tf32(self.device, self.precision)

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features of the main layer.

        Parameters
        ----------
        pixels : ndarray of uint8, shape (b, s, s, 3)
            RGB.

        Returns
        -------
        features : ndarray of float32, shape (b, d)
            By default the input of the network's last linear layer.
        """
        return self.embed_layers(pixels)[self.main_layer]

    def embed_layers(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Features of every layer by its name, each (b, d), float32; see `embed`."""
        return dict(zip(self.layers, self.submit(pixels)(), strict=True))

    def embed_on_device(self, pixels: Inputs) -> Tensor:
        """Features (b, d) as `embed` returns them, on the device. A GPU computes them while the caller goes on."""
        import torch

        engine = self._engine_for(pixels.shape[1])
        if self.device.startswith("cuda") and isinstance(engine, PyTorchEngine):
            return engine.embed_on_device(cast("NDArray[np.uint8]", pixels))[self._computed.index(self.main_layer)]
        return torch.from_numpy(self.submit(pixels)()[self.layers.index(self.main_layer)]).to(self.device)

    def submit(self, pixels: Inputs) -> PendingFeatures:
        """Start on pixels (b, s, s, 3), uint8. Call the result to get the features, in the order of `layers`."""
        features = self._engine_for(pixels.shape[1]).submit(pixels)
        if self.layers == self._computed:
            return features
        numbers = [self._computed.index(layer) for layer in self.layers]

        def select() -> list[NDArray[np.float32]]:
            values = features()
            return [values[number] for number in numbers]

        return select

    def keep_layers(self, layers: str | Sequence[str]) -> None:
        """Return the features of these layers alone from now on. The network and its conversion stay the same.

        Parameters
        ----------
        layers : str or sequence of str
            Some of `layers`.
        """
        self.layers = split_names(layers)
        self.dims = {layer: self.dims[layer] for layer in self.layers}

    @property
    def max_in_flight(self) -> int:
        """Views to submit in addition to those whose features are awaited, so that the network is always busy."""
        return self._engine_for(self._selected[0] if self._selected else self.image_size).max_in_flight

    def select_engine(
        self, image_size: int, engine: EngineName = "auto", views: int = CONVERSION_PAYS, like: str = ""
    ) -> None:
        """Run the network on the fastest engine for views of one size. Features stay the same up to rounding.

        Parameters
        ----------
        image_size : int
            Side of the views in pixels. Views of other sizes go through PyTorch.
        engine : {"auto", "pytorch", "compiled", "openvino"}, default "auto"
            "auto" takes OpenVINO on a CPU if `views` are worth the conversion or it is cached. Without OpenVINO it
            takes compiled PyTorch if that pays.
        views : int
            Number of views to come.
        like : str, default ""
            Engine that made the features which the new ones go with. In bf16 two engines round so differently that a
            class can change, so "auto" takes the same one; `engine_note` reports if that is not possible.

        Raises
        ------
        BackboneError
            The requested engine is not available or cannot run the network.
        """
        self.engine, self._selected, self.engine_note = "pytorch", None, ""
        request = EngineRequest(
            network=self.name,
            engine=engine,
            image_size=image_size,
            views=views,
            like=like,
            device=self.device,
            precision=self.precision,
            conversion=self._conversion_path(image_size),
        )
        selected = select_engine(request, lambda: self._extractors)
        self.engine, self.engine_note = selected.name, selected.note
        self._selected = (image_size, selected.engine) if selected.engine else None

    def normalise(self, pixels: Inputs) -> Tensor:
        """The network's input (b, 3, s, s), float32, channels last, on the device, from uint8 pixels (b, s, s, 3)."""
        return self.feature_extractor.normalise(pixels)

    def trainable_module(self) -> nn.Module:
        """A copy of the network with gradients, for fine-tuning."""
        return copy.deepcopy(self.module).requires_grad_(True)

    def view_spec(self, **options: Unpack[ViewOptions]) -> ViewSpec:
        """A ViewSpec with this network's preprocessing. For another image size the resize ratio stays the same.

        Parameters
        ----------
        **options : ViewOptions
            An option that is None or left out has the network's own value, or the default of `ViewSpec`.

        Raises
        ------
        BackboneError
            The network does not take views of this size.
        """
        requested = {name: value for name, value in options.items() if value is not None}
        size = options.get("image_size") or self.image_size
        if size != self.image_size and not self._is_converted(size):
            check_image_size(self, size)
        resize = round(size * self.resize_size / self.image_size)
        fields: dict[str, Any] = {"image_size": size, "resize_size": resize, "interpolation": self.interpolation}
        return ViewSpec(**{**fields, **requested}, mean=self.mean, std=self.std)

    def extract_spec(
        self, *, views: int, dtype: StorageDtype, val_views: int = 0, **options: Unpack[ViewOptions]
    ) -> ExtractSpec:
        """The spec of features of this network; for the parameters see `ExtractSpec` and `ViewSpec`."""
        return ExtractSpec(
            backbone=self.name,
            weights_sha256=self.weights_sha256,
            view=self.view_spec(**options),
            views=views,
            layers=self.layers,
            precision=self.precision,
            dtype=dtype,
            val_views=val_views,
        )

    def _build(self) -> nn.Module:
        """The module, built on the first call."""
        if not hasattr(self._module, "state_dict"):
            self._module = self._module()
        module: Any = self._module
        return module

    def _expand_layers(self, layers: tuple[str, ...]) -> tuple[str, ...]:
        """Names of layers; a set of layers needs the network."""
        if not {LAST, STAGES, ALL} & set(layers):
            return layers
        from featcache.backbones.pooling import expand_layers

        return expand_layers(self._build().eval(), layers, self.image_size)

    def _conversion_path(self, image_size: int) -> Path | None:
        """File of the conversion to OpenVINO; None if it is not to be cached."""
        if not self._cache_conversion:
            return None
        return cache_path(".xml", self.name, self.weights_sha256, self._computed, self.mean, self.std, image_size)

    def _is_converted(self, image_size: int) -> bool:
        path = self._conversion_path(image_size)
        return path is not None and path.exists()

    def _engine_for(self, image_size: int) -> Engine:
        if self._selected and self._selected[0] == image_size:
            return self._selected[1]
        return self._pytorch_engine

    @cached_property
    def _pytorch_engine(self) -> Engine:
        return join_engines([PyTorchEngine(extractor) for extractor in self._extractors])

    @cached_property
    def _extractors(self) -> list[FeatureExtractor]:
        """The network on each device."""
        extractor = self.feature_extractor
        return extractor.on_devices(self.devices) if len(self.devices) > 1 else [extractor]
