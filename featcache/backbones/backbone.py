"""`Backbone`: a frozen network that turns pixels into features.

It imports PyTorch and builds the network on first use: with cached metadata and a cached OpenVINO model it needs
neither.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

import numpy as np
from numpy.typing import NDArray

from featcache._utils.formatting import split_names
from featcache.backbones.engines.base import Engine
from featcache.backbones.engines.data_parallel import join_engines
from featcache.backbones.engines.gpu_trial import GpuTrial
from featcache.backbones.engines.pytorch import CompiledEngine, PyTorchEngine
from featcache.backbones.engines.select import CONVERSION_PAYS, EngineStarters
from featcache.backbones.frozen_network import FrozenNetwork
from featcache.backbones.metadata_cache import BackboneMetadata, cache_path
from featcache.backbones.probe import check_image_size, measure_dims
from featcache.backbones.sources.registry import build, find_source
from featcache.backbones.trainable import SubmitLogits
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

if TYPE_CHECKING:
    from torch import Tensor, nn

    from featcache.backbones.feature_extractor import FeatureExtractor
    from featcache.data.sample_loader import Inputs


class Backbone(FrozenNetwork):
    """A pretrained network without its classifier, in `eval()` mode, without gradients; see `FrozenNetwork`.

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

    conversion_pays = CONVERSION_PAYS

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
        super().__init__(module, name=name, weights=weights, device=device, precision=precision)
        self.image_size, self.resize_size = image_size, resize_size
        self.interpolation: Interpolation = interpolation
        self.mean = (float(mean[0]), float(mean[1]), float(mean[2]))
        self.std = (float(std[0]), float(std[1]), float(std[2]))
        self.weights_note, self._cache_conversion = weights_note, cache_conversion
        self.weights_sha256 = metadata.weights_sha256 if metadata else ""
        self.layers = self._computed = tuple(metadata.dims) if metadata else self._expand_layers(split_names(layers))
        self.dims = metadata.dims if metadata else measure_dims(self)

    @cached_property
    def feature_extractor(self) -> FeatureExtractor:
        """The network in PyTorch. Raises BackboneError if its weights are not those of the cached metadata."""
        from featcache.backbones.feature_extractor import FeatureExtractor
        from featcache.backbones.weights.load import sha256_of

        module = self._build()
        self._check_weights(sha256_of(module.state_dict()))
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
    def batch_size(self) -> int:
        """Views in one forward pass: 256 on a GPU, halved until they fit into its memory; 32 on other devices."""
        return 256 if self.device.startswith("cuda") else 32

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
        """Features of every layer by its name, each (b, d), float32; see `embed`.

        Parameters
        ----------
        pixels : ndarray of shape (b, s, s, 3), uint8
            Prepared views.
        """
        return dict(zip(self.layers, self.submit(pixels)(), strict=True))

    def embed_on_device(self, pixels: Inputs) -> Tensor:
        """Features (b, d) as `embed` returns them, on the device. A GPU computes them while the caller goes on.

        Parameters
        ----------
        pixels : ndarray or Tensor of shape (b, s, s, 3), uint8
            Prepared views.
        """
        import torch

        engine = self._engine_for(pixels)
        if self.device.startswith("cuda") and isinstance(engine, PyTorchEngine):
            return engine.embed_on_device(cast("NDArray[np.uint8]", pixels))[self._computed.index(self.main_layer)]
        return torch.from_numpy(self.submit(pixels)()[self.layers.index(self.main_layer)]).to(self.device)

    def normalise(self, pixels: Inputs) -> Tensor:
        """The network's input (b, 3, s, s), float32, channels last, on the device, from uint8 pixels (b, s, s, 3).

        Parameters
        ----------
        pixels : ndarray or Tensor of shape (b, s, s, 3), uint8
            Prepared views.
        """
        return self.feature_extractor.normalise(pixels)

    def trainable_module(self) -> nn.Module:
        """A copy of the network with gradients, for fine-tuning."""
        return copy.deepcopy(self.module).requires_grad_(True)

    def frozen_module(self) -> nn.Module:
        """`module`; see `TrainableNetwork`."""
        return self.module

    def random_module(self, spec: ExtractSpec) -> nn.Module:
        """The network with random weights; see `TrainableNetwork`. Raises BackboneError if it is not built by name."""
        view = spec.image_view
        return build(self.name, "none", view.seed, view.image_size).module

    def stages(self, spec: ExtractSpec) -> list[str]:
        """Names of the modules that end the stages; see `TrainableNetwork`."""
        from featcache.backbones.stages import find_stages

        return find_stages(self.module, spec.image_view.image_size)

    def network_input(self, pixels: Inputs) -> Tensor:
        """Normalized pixels; see `TrainableNetwork`."""
        return self.normalise(pixels)

    def trained_logits(self, network: nn.Module, head: nn.Module) -> SubmitLogits:
        """The whole network computes logits; see `TrainableNetwork`."""
        from featcache.backbones.feature_extractor import FeatureExtractor

        extractor = FeatureExtractor(
            network,
            name=self.name,
            mean=self.mean,
            std=self.std,
            layers=(PENULTIMATE,),  # what the network returns: logits
            device=self.device,
            precision=self.precision,
        )
        engine = join_engines([PyTorchEngine(each) for each in extractor.on_devices(self.devices)])

        def submit(pixels: Inputs) -> Callable[[], NDArray[Any]]:
            features = engine.submit(pixels)
            return lambda: features()[0]

        return submit

    def autocast(self) -> AbstractContextManager[None]:
        """A context for forward passes in the precision of the network."""
        return self.feature_extractor.autocast()

    def exact(self) -> AbstractContextManager[None]:
        """A context in which fp32 is IEEE float32, not TF32, forward and backward; without effect otherwise."""
        return self.feature_extractor.exact()

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
        """The spec of features of this network.

        Parameters
        ----------
        views : int
            Augmented views of each training image.
        dtype : {"float16", "float32"}
            Type in which features are stored.
        val_views : int
            Augmented views of each other image. Default: 0.
        **options
            Fields of `ViewSpec`, such as augment and seed.
        """
        return self._spec(self.view_spec(**options), views=views, dtype=dtype, val_views=val_views)

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
        identity = (self.name, self.weights_sha256, self._computed, self.mean, self.std, image_size)
        return cache_path(".xml", find_source(self.name), *identity)

    def _is_converted(self, image_size: int) -> bool:
        path = self._conversion_path(image_size)
        return path is not None and path.exists()

    def _engine_for(self, pixels: Inputs) -> Engine:
        fits = self._selected is not None and self._selected[0] == pixels.shape[1]
        return super()._engine_for(pixels) if fits else self._pytorch_engine

    def _gpu_trial(self, size: int) -> GpuTrial | None:
        if not self.device.startswith("cuda"):
            return None
        return GpuTrial(lambda: self._pytorch_engine, size, self.batch_size, len(self.devices))

    def _start_pytorch(self) -> Engine:
        return join_engines([PyTorchEngine(extractor) for extractor in self._extractors])

    def _engine_starters(self, image_size: int) -> EngineStarters:
        def start_openvino() -> Engine:
            from featcache.backbones.engines.openvino import OpenVinoEngine

            path = self._conversion_path(image_size)
            return OpenVinoEngine(lambda: self.feature_extractor, image_size, self.precision, path)

        def start_compiled() -> Engine:
            return join_engines([CompiledEngine(extractor, image_size) for extractor in self._extractors])

        return {"openvino": start_openvino, "compiled": start_compiled}

    @cached_property
    def _extractors(self) -> list[FeatureExtractor]:
        """The network on each device. On GPUs convolutions include their BatchNorm; OpenVINO does the same on a CPU."""
        extractors = self.feature_extractor.on_devices(self.devices)
        if not self.device.startswith("cuda"):
            return extractors
        from featcache.backbones.engines.openvino import noise_pictures

        pixels = noise_pictures(self.image_size)
        return [extractor.fold_batch_norm(pixels) for extractor in extractors]
