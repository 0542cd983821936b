"""auto: the best of the heads that have an `auto_rank`, by cross-validation on the same images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featcache.heads.registry import HeadSpec, auto_heads, register

if TYPE_CHECKING:
    from featcache.heads.training_data import FitOptions, Fitted, TrainingData


def fit(name: str, data: TrainingData, options: FitOptions) -> Fitted:
    """Tune each of them until the budget is spent; with several labels those that take them."""
    from featcache.heads.tuning.selection import fit_tuned

    several = data.train.samples.multilabel
    return fit_tuned(name, [spec for spec in auto_heads() if spec.multilabel_estimator or not several], data, options)


register(
    HeadSpec(
        "auto",
        fit=fit,
        options=("cv", "budget_s", "scaling", "calibrate"),
        cluster=True,
        device=True,
        layer="auto",
    )
)
