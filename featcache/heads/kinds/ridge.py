"""ridge: least squares with an L2 penalty to targets of 1 for the class of an image and -1 for the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featcache.heads.registry import HeadSpec, register

if TYPE_CHECKING:
    from featcache.heads.solvers.path import Stop
    from featcache.heads.tuning.tuning_data import TunedHead, TuningData


def tune(data: TuningData, stop: Stop = lambda: False) -> TunedHead:
    """Choose the penalty; one factorization of each problem gives ridge and LDA at a strength."""
    from featcache.heads.solvers.closed_form import ridge

    return data.tune_closed_form(ridge, stop)


def estimate_s(data: TuningData) -> float:
    """See `HeadSpec`."""
    return data.estimate_closed_form_s()


register(
    HeadSpec(
        "ridge",
        tune=tune,
        estimate_s=estimate_s,
        estimator="sklearn.linear_model.RidgeClassifier",
        cluster=True,
        linear=True,
        layer="auto",
        auto_rank=3,
    )
)
