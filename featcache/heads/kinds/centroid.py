"""centroid: the class whose mean direction is nearest by cosine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featcache.heads.registry import HeadSpec, register

if TYPE_CHECKING:
    from featcache.heads.solvers.path import Stop
    from featcache.heads.tuning.tuning_data import TunedHead, TuningData


def tune(data: TuningData, stop: Stop = lambda: False) -> TunedHead:
    """There is no setting to choose but the temperature of the probabilities."""
    import numpy as np

    from featcache.heads.solvers.closed_form import nearest_centroid
    from featcache.heads.solvers.path import PathWeights

    *folds, layer = (nearest_centroid(sums, data.problem.x.mean) for sums in data.statistics(stop))
    weights = PathWeights(0.0, np.stack([fold.coef for fold in folds]), np.stack([fold.intercept for fold in folds]))
    return data.tuned_head(data.select([weights]), data.expand(layer), "")


def estimate_s(data: TuningData) -> float:
    """See `HeadSpec`."""
    return data.estimate_closed_form_s()


register(
    HeadSpec(
        "centroid",
        tune=tune,
        estimate_s=estimate_s,
        estimator="sklearn.neighbors.NearestCentroid",
        cluster=True,
        linear=True,
        layer="auto",
        auto_rank=2,
    )
)
