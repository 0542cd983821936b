"""linear: softmax regression with an L2 penalty; logistic regression for each of several labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featcache.heads.registry import HeadSpec, register

if TYPE_CHECKING:
    from featcache.heads.solvers.path import Stop
    from featcache.heads.tuning.tuning_data import TunedHead, TuningData


def tune(data: TuningData, stop: Stop = lambda: False) -> TunedHead:
    """Choose C along a path, from strong to weak penalties, then fit to all images."""
    from featcache.heads.linear import LinearHead

    selection = data.select(data.logistic_path(stop), stop)
    tuned = data.tuned_head(selection, data.refit(selection), "C={}")
    if isinstance(tuned.estimator, LinearHead):
        tuned.estimator.set_params(C=float(selection.values[0]), class_weight=data.class_weight)
    return tuned


def estimate_s(data: TuningData) -> float:
    """See `HeadSpec`."""
    return data.estimate_logistic_path_s()


register(
    HeadSpec(
        "linear",
        tune=tune,
        estimate_s=estimate_s,
        estimator="featcache.heads.linear.LinearHead",
        multilabel_estimator="featcache.heads.one_vs_rest.OneVsRestHead",
        cluster=True,
        device=True,
        linear=True,
        layer="auto",
        auto_rank=4,
    )
)
