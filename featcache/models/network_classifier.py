"""`network_classifier`: predicts with a fine-tuned network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featcache.core.model_card import ModelCard
from featcache.core.thresholds import decide

if TYPE_CHECKING:
    from featcache.backbones.trainable import TrainableNetwork
    from featcache.data.sample_loader import Inputs
    from featcache.training.network import BackboneWithHead

_Answer: TypeAlias = Callable[[], tuple[NDArray[np.int64], NDArray[np.float64], None]]


def network_classifier(
    backbone: TrainableNetwork, network: BackboneWithHead, card: ModelCard
) -> Callable[[Inputs], _Answer]:
    """A function that starts on inputs, and returns what waits for their labels and probabilities (no features).

    Parameters
    ----------
    backbone : TrainableNetwork
        Whose module the network has.
    network : BackboneWithHead
    card : ModelCard
    """
    import torch

    submit = backbone.trained_logits(network, network.head)

    def classify(views: Inputs) -> _Answer:
        logits = submit(views)

        def answer() -> tuple[NDArray[np.int64], NDArray[np.float64], None]:
            values = torch.from_numpy(logits()).double()
            probabilities = (values.sigmoid() if card.multilabel else values.softmax(1)).numpy()
            labels = decide(probabilities, card.thresholds) if card.multilabel else probabilities.argmax(1)
            return labels, probabilities, None

        return answer

    return classify
