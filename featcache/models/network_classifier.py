"""`network_classifier`: predicts with a fine-tuned network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featcache.core.model_card import ModelCard
from featcache.core.specs import PENULTIMATE
from featcache.core.thresholds import decide
from featcache.data.modality import TEXTS

if TYPE_CHECKING:
    from featcache.backbones.backbone import Backbone
    from featcache.backbones.text_encoder import TextEncoder
    from featcache.data.sample_loader import Inputs
    from featcache.training.network import BackboneWithHead

_Logits: TypeAlias = Callable[[], NDArray[Any]]
_Answer: TypeAlias = Callable[[], tuple[NDArray[np.int64], NDArray[np.float64]]]


def network_classifier(backbone: Any, network: BackboneWithHead, card: ModelCard) -> Callable[[Inputs], _Answer]:
    """A function that starts on inputs, and returns what waits for their labels and probabilities.

    Parameters
    ----------
    backbone : Backbone or TextEncoder
        Whose module the network has.
    network : BackboneWithHead
    card : ModelCard
    """
    import torch

    submit = (_submit_texts if card.spec.modality == TEXTS.name else _submit_images)(backbone, network)

    def classify(views: Inputs) -> _Answer:
        logits = submit(views)

        def answer() -> tuple[NDArray[np.int64], NDArray[np.float64]]:
            values = torch.from_numpy(logits()).double()
            probabilities = (values.sigmoid() if card.multilabel else values.softmax(1)).numpy()
            labels = decide(probabilities, card.thresholds) if card.multilabel else probabilities.argmax(1)
            return labels, probabilities

        return answer

    return classify


def _submit_images(backbone: Backbone, network: BackboneWithHead) -> Callable[[Inputs], _Logits]:
    """The whole network computes logits."""
    from featcache.backbones.engines.data_parallel import join_engines
    from featcache.backbones.engines.pytorch import PyTorchEngine
    from featcache.backbones.feature_extractor import FeatureExtractor

    extractor = FeatureExtractor(
        network,
        name=backbone.name,
        mean=backbone.mean,
        std=backbone.std,
        layers=(PENULTIMATE,),  # what the network returns: logits
        device=backbone.device,
        precision=backbone.precision,
    )
    engine = join_engines([PyTorchEngine(each) for each in extractor.on_devices(backbone.devices)])

    def submit(views: Inputs) -> _Logits:
        features = engine.submit(views)
        return lambda: features()[0]

    return submit


def _submit_texts(backbone: TextEncoder, network: BackboneWithHead) -> Callable[[Inputs], _Logits]:
    """The encoder, which has the trained weights, computes features, in passes of similar length; the head follows."""
    weight, bias = (value.detach().cpu().numpy().astype(np.float64) for value in network.head.parameters())

    def submit(tokens: Inputs) -> _Logits:
        features = backbone.submit(tokens)
        return lambda: features()[0] @ weight.T + bias

    return submit
