"""`Encoder`: the interface of a frozen network of any modality, which extraction uses. `Backbone` is that of images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from featcache.backbones.engines.base import EngineName, PendingFeatures

if TYPE_CHECKING:
    from featcache.data.sample_loader import Inputs


class Encoder(Protocol):
    """A frozen network that turns batches of inputs into features.

    Attributes
    ----------
    name : str. Stored in caches and heads.
    weights : str. Where its weights come from.
    weights_sha256 : str. Hash of the weights.
    layers : tuple of str. Names of the layers whose features it returns, in their order.
    devices : tuple of str. Where it computes, each batch on one of them.
    device_name, precision, engine : str. Where and how it computes.
    allows_tf32 : bool. Whether it may compute what is left in float32 in TF32.
    note : str. Notes for the user, a line each.
    batch_size : int. Inputs in one forward pass that suit the device.
    max_in_flight : int. Inputs to submit in addition to those whose features are awaited.
    """

    name: str
    weights: str
    weights_sha256: str
    layers: tuple[str, ...]
    devices: tuple[str, ...]
    engine: EngineName

    @property
    def dims(self) -> Mapping[str, int]:
        """Width d of each layer."""

    @property
    def device_name(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def allows_tf32(self) -> bool: ...
    @property
    def note(self) -> str: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def max_in_flight(self) -> int: ...

    def select_engine(self, size: int, /, engine: EngineName, views: int, like: str) -> None:
        """Run the network on the fastest engine for inputs of this size, see `Backbone.select_engine`."""

    def submit(self, batch: Inputs, /) -> PendingFeatures:
        """Start on a batch of inputs. Call the result to get the features (b, d) of each layer."""
