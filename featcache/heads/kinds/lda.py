"""lda: linear discriminant analysis with a shrunk covariance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featcache.heads.registry import HeadSpec, register

if TYPE_CHECKING:
    from featcache.heads.solvers.path import Stop
    from featcache.heads.tuning.tuning_data import TunedHead, TuningData


def tune(data: TuningData, stop: Stop = lambda: False) -> TunedHead:
    """Choose the shrinkage; it shares the factorizations of `ridge`."""
    from featcache.heads.solvers.closed_form import lda

    return data.tune_closed_form(lda, stop)


def estimate_s(data: TuningData) -> float:
    """See `HeadSpec`."""
    return data.estimate_closed_form_s()


register(
    HeadSpec(
        "lda",
        tune=tune,
        estimate_s=estimate_s,
        estimator="sklearn.discriminant_analysis.LinearDiscriminantAnalysis",
        defaults={"solver": "lsqr", "shrinkage": "auto"},
        cluster=True,
        linear=True,
        layer="auto",
        auto_rank=1,
    )
)
