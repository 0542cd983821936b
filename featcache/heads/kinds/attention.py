"""attention: learnt queries weight the positions of a feature map; a linear layer classifies the weighted means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from featcache.heads.registry import HeadSpec, register

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featcache.heads.attention import AttentionHead
    from featcache.heads.training_data import FitOptions, Fitted, TrainingData


def fit(name: str, data: TrainingData, options: FitOptions) -> Fitted:
    """Train with an `AttentionConfig` of the parameters."""
    from dataclasses import fields

    from featcache.errors import HeadError, first_line
    from featcache.heads.attention import AttentionConfig, fit_attention
    from featcache.heads.training_data import Fitted

    try:
        config = AttentionConfig(**options.parameters)
    except (TypeError, ValueError) as error:
        names = ", ".join(field.name for field in fields(AttentionConfig))
        raise HeadError(f"attention: {error}. It takes {names}.") from error
    train = data.train.with_views(0) if options.use_views == "clean" else data.train
    try:
        return Fitted(fit_attention(train, data.positions, config, options.seed, options.progress), name)
    except (MemoryError, RuntimeError) as error:  # too many queries
        raise HeadError(f"attention could not be fitted: {first_line(error)}") from error


def load(arrays: Mapping[str, NDArray[Any]]) -> AttentionHead:
    """The head of the arrays of `AttentionHead.to_arrays`. Raises ValueError for arrays that contradict each other."""
    from featcache.heads.attention import AttentionHead

    return AttentionHead.from_arrays(arrays)


register(HeadSpec("attention", fit=fit, load=load, multilabel=False, epochs=True, feature_maps=True))
