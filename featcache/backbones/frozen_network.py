"""`FrozenNetwork`: what `Backbone` and `TextEncoder` share: the device, the layers, and the engine that computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.environment import cache_folder
from featcache._utils.formatting import split_names
from featcache.backbones.devices import allows_tf32, expand_device, name_devices
from featcache.backbones.engines.base import Engine, EngineName, PendingFeatures
from featcache.backbones.engines.gpu_trial import GpuTrial
from featcache.backbones.engines.select import EngineRequest, EngineStarters, select_engine
from featcache.core.specs import PENULTIMATE, ExtractSpec, Precision, StorageDtype
from featcache.core.view_specs.base import SampleView
from featcache.errors import BackboneError

if TYPE_CHECKING:
    from torch import nn

    from featcache.data.sample_loader import Inputs


class FrozenNetwork(ABC):
    """A pretrained network in `eval()` mode, without gradients; see `Encoder`.

    A subclass sets `layers`, `dims` and `weights_sha256`. It builds the network on first use: with cached metadata and
    a cached OpenVINO model it needs neither the network nor PyTorch.

    Parameters
    ----------
    module : nn.Module or callable
        The network, or what returns it when it is needed.
    name : str
        Stored in caches and heads.
    weights : str
        Where the weights come from: "pretrained", "none" or a path. Stored only.
    device : str
        Device of the network, such as "cpu" or "cuda:1"; "cuda:all" is all GPUs, each with a copy of the network.
    precision : {"fp32", "bf16", "fp16"}
        Precision of the network's computations.

    Attributes
    ----------
    layers : tuple of str
        Names of the layers that `embed_layers` returns.
    dims : dict of str to int
        Width d of each layer.
    devices : tuple of str
        Where it computes features; `device` is the first of them.
    weights_sha256 : str
        Hash of the weights; "" as long as they are unknown.
    engine : {"pytorch", "compiled", "openvino"}
        What runs the network, see `select_engine`.
    engine_note : str
        Why a faster engine could not be used; "" otherwise.
    weights_note : str
        How a weights file was changed to fit the network; "" if it was not.
    """

    layers: tuple[str, ...]
    dims: dict[str, int]
    conversion_pays: int
    """Number of views from which a conversion to OpenVINO pays."""

    def __init__(
        self, module: nn.Module | Callable[[], nn.Module], *, name: str, weights: str, device: str, precision: Precision
    ) -> None:
        self.name, self.weights = name, weights
        self.devices, self.precision = expand_device(device), precision
        self.device = self.devices[0]
        self.engine: EngineName = "pytorch"
        self.engine_note = self.weights_note = self.weights_sha256 = ""
        self._module = module
        self._computed: tuple[str, ...] = ()  # layers, by the engines; `keep_layers` returns some of them
        self._selected: tuple[int, Engine] | None = None  # and the size of the inputs that it is for

    def __getstate__(self) -> dict[str, Any]:
        """Without the engine of PyTorch, whose streams belong to this process. A copy starts its own."""
        return {name: value for name, value in vars(self).items() if name != "_pytorch_engine"}

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
    @abstractmethod
    def batch_size(self) -> int:
        """Inputs to submit at once."""

    @property
    def max_in_flight(self) -> int:
        """Inputs to submit in addition to those whose features are awaited, so that the network is always busy."""
        return (self._selected[1] if self._selected else self._pytorch_engine).max_in_flight

    @property
    def device_name(self) -> str:
        """ "cpu", "mps", or the name of the GPU, or of all of them."""
        return name_devices(self.devices)

    @property
    def allows_tf32(self) -> bool:
        """Whether a GPU may compute in TF32 what bf16 or fp16 leaves in float32. The precision "fp32" is IEEE's."""
        return allows_tf32(self.device, self.precision)

    def submit(self, inputs: Inputs, /) -> PendingFeatures:
        """Start on inputs of the network. Call the result to get the features (b, d), in the order of `layers`."""
        features = self._engine_for(inputs).submit(inputs)
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

    def select_engine(
        self, size: int, /, engine: EngineName = "auto", views: int | None = None, like: str = ""
    ) -> None:
        """Run the network on the fastest engine for inputs of one size. Features stay the same up to rounding.

        Parameters
        ----------
        size : int
            Side of the views in pixels; images of other sizes go through PyTorch. For texts, most tokens of a text.
        engine : {"auto", "pytorch", "compiled", "openvino"}, default "auto"
            "auto" takes OpenVINO on a CPU if `views` are worth the conversion or it is cached. Without OpenVINO it
            takes compiled PyTorch if that pays; on a GPU, too, by measured rates. Encoders of texts are not compiled.
        views : int, optional
            Number of views to come. None: as many as a conversion pays for.
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
            views=self.conversion_pays if views is None else views,
            conversion_pays=self.conversion_pays,
            like=like,
            device=self.device,
            precision=self.precision,
            conversion=self._conversion_path(size),
            trial=self._gpu_trial(size),
        )
        selected = select_engine(request, self._engine_starters(size))
        self.engine, self.engine_note = selected.name, selected.note
        self._selected = (size, selected.engine) if selected.engine else None

    @abstractmethod
    def _start_pytorch(self) -> Engine:
        """Plain PyTorch, on all devices."""

    @abstractmethod
    def _engine_starters(self, size: int) -> EngineStarters:
        """The other engines for inputs of this size."""

    def _gpu_trial(self, size: int) -> GpuTrial | None:
        """What measures engines for inputs of this size on a GPU; None: they are not compared."""
        return None

    @abstractmethod
    def _conversion_path(self, size: int) -> Path | None:
        """File of the conversion to OpenVINO for inputs of this size; None if it is not to be cached."""

    @cached_property
    def _pytorch_engine(self) -> Engine:
        return self._start_pytorch()

    def _engine_for(self, inputs: Inputs) -> Engine:
        return self._selected[1] if self._selected else self._pytorch_engine

    def _build(self) -> nn.Module:
        """The module, built on the first call."""
        if not hasattr(self._module, "state_dict"):
            self._module = self._module()
        module: Any = self._module
        return module

    def _check_weights(self, sha256: str) -> None:
        """Set the hash of the weights. Raises BackboneError if it is not that of the cached metadata."""
        if self.weights_sha256 not in ("", sha256):
            raise BackboneError(
                f"{self.name} has weights {sha256[:12]}..., an earlier run saw {self.weights_sha256[:12]}... under the "
                f"same name. Remove {cache_folder() / 'networks'} and run the same command again."
            )
        self.weights_sha256 = sha256

    def _spec(self, view: SampleView, *, views: int, dtype: StorageDtype, val_views: int) -> ExtractSpec:
        return ExtractSpec(
            backbone=self.name,
            weights_sha256=self.weights_sha256,
            view=view,
            views=views,
            layers=self.layers,
            precision=self.precision,
            dtype=dtype,
            val_views=val_views,
        )
