"""`TrainableNetwork`: what training needs of a network of any modality, such as `Backbone` and `TextEncoder`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn

    from featcache.core.specs import ExtractSpec
    from featcache.data.sample_loader import Inputs

SubmitLogits: TypeAlias = "Callable[[Inputs], Callable[[], NDArray[np.floating[Any]]]]"
"""Starts on a batch of b inputs. Call the result to get the logits (b, c)."""


class TrainableNetwork(Protocol):
    """A network that is trained end to end, or stays frozen below a head.

    Attributes
    ----------
    name, weights, weights_sha256, weights_note : str. See `FrozenNetwork`.
    device : str. Where it is trained.
    device_name, precision : str. Where and how it computes.
    allows_tf32 : bool. Whether it may compute what is left in float32 in TF32.
    dim : int. Width d of the penultimate features.
    batch_size : int. Inputs in one forward pass without gradients that suit the device.
    """

    name: str
    weights: str
    weights_sha256: str
    weights_note: str
    device: str

    @property
    def device_name(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def allows_tf32(self) -> bool: ...
    @property
    def dim(self) -> int: ...
    @property
    def batch_size(self) -> int: ...

    def trainable_module(self) -> nn.Module:
        """A copy of the network with gradients, from `network_input` to the penultimate features (b, d)."""

    def frozen_module(self) -> nn.Module:
        """The same module with the weights that features are computed with, without a copy and without gradients."""

    def random_module(self, spec: ExtractSpec, /) -> nn.Module:
        """The same module with the random weights of the spec's seed."""

    def stages(self, spec: ExtractSpec, /) -> list[str]:
        """The modules of `trainable_module` that end its stages, in order of depth; none if it has no stages."""

    def network_input(self, inputs: Inputs, /) -> Tensor:
        """The input of `trainable_module`, on the device."""

    def embed_on_device(self, inputs: Inputs, /) -> Tensor:
        """Penultimate features (b, d) of the frozen network, on the device."""

    def trained_logits(self, network: nn.Module, head: nn.Module, /) -> SubmitLogits:
        """A function that starts a trained network on inputs.

        Parameters
        ----------
        network : nn.Module
            `frozen_module` with its trained weights, and a linear layer behind it.
        head : nn.Linear
            This layer.
        """

    def autocast(self) -> AbstractContextManager[None]:
        """A context for forward passes in the precision of the network."""

    def exact(self) -> AbstractContextManager[None]:
        """A context in which fp32 is IEEE float32, not TF32, forward and backward; without effect otherwise."""
