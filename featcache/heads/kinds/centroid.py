"""centroid: the class whose mean direction is nearest by cosine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featcache.heads.registry import HeadSpec, register

if TYPE_CHECKING:
    from featcache.heads.solvers.path import Stop
    from featcache.heads.tuning.tuning_data import TunedHead, TuningData


def tune(data: TuningData, stop: Stop = lambda: False) -> TunedHead:
    """There is no setting to choose but the temperature of the probabilities."""
    from featcache.heads.solvers.closed_form import nearest_centroid

    path = nearest_centroid(data.statistics(stop), data.problem.x.mean)
    return data.tuned_head(data.select(path, stop), "")


register(
    HeadSpec(
        "centroid",
        tune=tune,
        estimator="sklearn.neighbors.NearestCentroid",
        cluster=True,
        linear=True,
        auto_rank=1,
    )
)
