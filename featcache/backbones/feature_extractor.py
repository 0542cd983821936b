"""`FeatureExtractor`: a frozen network in PyTorch, from pixels to features."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from featcache._utils.memory_errors import is_out_of_memory
from featcache.backbones.float32 import ieee_float32
from featcache.backbones.pooling import check_layer, pool
from featcache.backbones.transfer import to_device
from featcache.core.layer_names import parse_layer
from featcache.core.specs import PENULTIMATE, Precision
from featcache.errors import BackboneError, first_line

if TYPE_CHECKING:
    from featcache.data.sample_loader import Inputs

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class FeatureExtractor(nn.Module):
    """A network without its classifier, in `eval()` mode, without gradients, on its device.

    Parameters
    ----------
    network : from normalized pixels (b, 3, s, s), float32, to features (b, d).
    mean, std : per channel of pixels scaled to 0..1.
    layers : that `forward` returns, see `featcache.core.layer_names`.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        mean: Sequence[float],
        std: Sequence[float],
        layers: Sequence[str],
        device: str,
        precision: Precision,
    ) -> None:
        super().__init__()
        with _explain_memory(name, device):
            on_device = network.eval().requires_grad_(False).to(device)
        self.network = on_device.to(memory_format=torch.channels_last)
        self.device, self.precision = torch.device(device), precision
        self._name, self.layers, self._statistics = name, tuple(layers), (tuple(mean), tuple(std))
        self._mean: Tensor
        self._std: Tensor
        for buffer, values in (("_mean", mean), ("_std", std)):  # created once: a copy to a GPU blocks
            levels = torch.tensor(values, device=self.device).view(1, 3, 1, 1) * 255
            self.register_buffer(buffer, levels, persistent=False)
        self._activations: dict[str, Tensor] = {}
        self._hooks: list[RemovableHandle] = []
        self._register_hooks()

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Features (b, d) of each layer from pixels (b, s, s, 3), uint8, on the device. Raises BackboneError."""
        self._activations.clear()
        features = self.network(self._scale(pixels))
        if not isinstance(features, Tensor):
            raise BackboneError(
                f"{self._name} returns a {type(features).__name__}, expected a tensor of features (b, d)"
            )
        self._activations[PENULTIMATE] = features
        for layer in self.layers:
            if layer not in self._activations:
                raise BackboneError(
                    f"layer {layer} of {self._name} is not used in the forward pass. Choose another layer."
                )
        return tuple(self._activations[layer] for layer in self.layers)

    def on_devices(self, devices: Sequence[str]) -> list[FeatureExtractor]:
        """This one, for the first device, and a copy on each of the others."""
        return [self, *map(self._copy_to, devices[1:])]

    def fold_batch_norm(self, pixels: NDArray[np.uint8]) -> FeatureExtractor:
        """A copy whose convolutions include their BatchNorm, with the same features up to rounding.

        The extractor itself if there is no such layer, if the features of the copy are farther from these than rounding
        explains, or if there is no memory for it.

        pixels : on which the features are compared.
        """
        from featcache.backbones.batch_norm import fold_batch_norm, has_batch_norm
        from featcache.backbones.engines.openvino_network import compare_features

        if not has_batch_norm(self.network):
            return self
        keep = frozenset(parse_layer(layer)[0] for layer in self.layers if layer != PENULTIMATE)

        def fold(network: nn.Module) -> None:
            with torch.no_grad(), self.exact("fp32"):
                fold_batch_norm(network, lambda: network(self.normalise(pixels)), keep)

        try:
            folded = self._copy_to(str(self.device), fold)
            compare_features(folded.embed(pixels), self.embed(pixels), self.embed(pixels, "fp32"), self.precision)
        except (RuntimeError, BackboneError):
            return self
        return folded

    def embed(self, pixels: Inputs, precision: Precision | None = None) -> list[NDArray[np.float32]]:
        """Features (b, d) of each layer from pixels (b, s, s, 3). precision : None is that of the network."""
        with torch.inference_mode(), self.autocast(precision):
            return [values.float().cpu().numpy() for values in self(to_device(pixels, self.device))]

    def normalise(self, pixels: Inputs) -> Tensor:
        """The network's input (b, 3, s, s), float32, channels last, on the device, from pixels (b, s, s, 3)."""
        return self._scale(to_device(pixels, self.device))

    @contextmanager
    def autocast(self, precision: Precision | None = None) -> Iterator[None]:
        """A context for forward passes in this precision; None is that of the network."""
        precision = precision or self.precision
        enabled = precision != "fp32"
        with self.exact(precision), torch.autocast(self.device.type, _DTYPES[precision], enabled=enabled):
            yield

    def exact(self, precision: Precision | None = None) -> AbstractContextManager[None]:
        """A context in which fp32 is IEEE float32, not TF32, forward and backward; without effect otherwise."""
        return ieee_float32() if (precision or self.precision) == "fp32" else nullcontext()

    def _scale(self, batch: Tensor) -> Tensor:
        return batch.permute(0, 3, 1, 2).float().sub_(self._mean).div_(self._std)  # in place: in half of the time

    def _copy_to(self, device: str, change: Callable[[nn.Module], None] | None = None) -> FeatureExtractor:
        """A copy on a device, of a network that is changed before."""
        while self._hooks:  # a copy of a hook would store the activations here
            self._hooks.pop().remove()
        try:
            with _explain_memory(self._name, str(self.device)):
                network = copy.deepcopy(self.network)
        finally:
            self._register_hooks()
        if change:
            change(network)
        mean, std = self._statistics
        return FeatureExtractor(
            network, name=self._name, mean=mean, std=std, layers=self.layers, device=device, precision=self.precision
        )

    def _register_hooks(self) -> None:
        """Record the inner layers, so that one forward pass returns all layers."""
        for layer in self.layers:
            if layer != PENULTIMATE:
                check_layer(self.network, self._name, layer)
                module, pool_name = parse_layer(layer)
                hook = self._make_hook(layer, pool_name)
                self._hooks.append(self.network.get_submodule(module).register_forward_hook(hook))

    def _make_hook(self, layer: str, pool_name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            try:
                self._activations[layer] = pool(output, pool_name)
            except ValueError as error:
                raise BackboneError(f"layer {layer} of {self._name}: {error}") from error

        return hook


@contextmanager
def _explain_memory(name: str, device: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise BackboneError(
            f"the weights of {name} do not fit into the free memory of {device} ({first_line(error)}). Stop other "
            "programs that use this memory, or give --device cpu or another network."
        ) from error
