"""layer-attention: learnt queries weight the layers of a network; a linear layer classifies the weighted means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from featcache.heads.registry import HeadSpec, register

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featcache.heads.layer_attention import LayerAttentionHead
    from featcache.heads.training_data import FitOptions, Fitted, TrainingData


def fit(name: str, data: TrainingData, options: FitOptions) -> Fitted:
    """Train with a `LayerAttentionConfig` of the parameters."""
    from dataclasses import fields

    from featcache.errors import HeadError, first_line
    from featcache.heads.layer_attention import LayerAttentionConfig, fit_layer_attention
    from featcache.heads.training_data import Fitted

    try:
        config = LayerAttentionConfig(**options.parameters)
    except (TypeError, ValueError) as error:
        names = ", ".join(field.name for field in fields(LayerAttentionConfig))
        raise HeadError(f"layer-attention: {error}. It takes {names}.") from error
    train = data.train.with_views(0) if options.use_views == "clean" else data.train
    try:
        return Fitted(fit_layer_attention(train, config, options.seed, options.progress), name)
    except (MemoryError, RuntimeError) as error:  # too many queries
        raise HeadError(f"layer-attention could not be fitted: {first_line(error)}") from error


def load(arrays: Mapping[str, NDArray[Any]]) -> LayerAttentionHead:
    """The head of the arrays of `LayerAttentionHead.to_arrays`. Raises ValueError if they contradict each other."""
    from featcache.heads.layer_attention import LayerAttentionHead

    return LayerAttentionHead.from_arrays(arrays)


register(HeadSpec("layer-attention", fit=fit, load=load, multilabel=False, epochs=True, layer="all"))
