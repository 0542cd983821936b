"""`JoinedNetwork`: several networks that see the same samples, each its own views, as one network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.backbones.engines.base import PendingFeatures
from featcache.backbones.frozen_network import FrozenNetwork
from featcache.core.model_card import NetworkCard
from featcache.data.sample_loader import Inputs, join_inputs
from featcache.models.inputs.base import MakeViews, Prepare, Prepared
from featcache.models.inputs.registry import inputs_of


@dataclass(frozen=True)
class JoinedInputs:
    """The inputs of several networks for the same views of samples."""

    parts: tuple[Inputs, ...]

    def __len__(self) -> int:
        return len(self.parts[0])

    def join(self, other: Any, /) -> JoinedInputs:
        """These inputs and then the other ones."""
        return JoinedInputs(tuple(join_inputs(*pair) for pair in zip(self.parts, other.parts, strict=True)))


@dataclass(frozen=True)
class JoinedNetwork:
    """Networks with their cards, in the order of the features of a head."""

    networks: tuple[FrozenNetwork, ...]
    cards: tuple[NetworkCard, ...]

    @property
    def note(self) -> str:
        """Notes on the networks, a line each."""
        noted = zip(self.cards, self.networks, strict=True)
        return "\n".join(f"{card.name}: {line}" for card, network in noted for line in network.note.splitlines())

    @property
    def batch_size(self) -> int:
        """That suits all."""
        return min(network.batch_size for network in self.networks)

    @property
    def max_in_flight(self) -> int:
        """Views to submit ahead, so that all are busy."""
        return max(network.max_in_flight for network in self.networks)

    def select_engines(self, views: int) -> None:
        """Run each network on the engine that suits this number of views, see `FrozenNetwork.select_engine`."""
        for network, card in zip(self.networks, self.cards, strict=True):
            network.select_engine(card.spec.view.input_size, views=views, like=card.engine)

    def submit(self, inputs: JoinedInputs) -> PendingFeatures:
        """Start on inputs. Call the result to get the features of each layer, network by network."""
        pairs = zip(self.networks, inputs.parts, strict=True)
        pending = [network.submit(part) for network, part in pairs]

        def features() -> list[NDArray[np.float32]]:
            return [layer for result in pending for layer in result()]

        return features

    def prepare(self) -> Prepare:
        """A function that prepares samples for all networks."""
        prepares = [
            inputs_of(card.spec).prepare_for(network) for card, network in zip(self.cards, self.networks, strict=True)
        ]

        def prepare(sample: Any, name: str = "") -> MakeViews:
            made = [each(sample, name) for each in prepares]

            def make_views(numbers: Sequence[int]) -> Prepared:
                parts = [make(numbers) for make in made]
                views: Any = JoinedInputs(tuple(part.views for part in parts))
                remark = next((part.remark for part in parts if part.remark), "")
                return parts[0]._replace(views=views, remark=remark)

            return make_views

        return prepare
