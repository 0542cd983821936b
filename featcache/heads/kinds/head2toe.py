"""head2toe: softmax regression on the features that it uses most (Evci et al. 2022, arXiv 2201.03529)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from featcache.heads.registry import HeadSpec, register

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from featcache.heads.solvers.path import Layer, Stop
    from featcache.heads.tuning.path_selection import CVSelection
    from featcache.heads.tuning.tuning_data import TunedHead, TuningData


def tune(data: TuningData, stop: Stop = lambda: False) -> TunedHead:
    """Choose the fraction of the features, and C for each fraction."""
    from featcache.core.progress import StepProgress
    from featcache.heads.tuning.feature_selection import FRACTIONS, select_features
    from featcache.heads.tuning.path_selection import select_on_path

    data = data.with_all_features()

    def fit(feature_mask: NDArray[np.bool_] | None, Cs: Sequence[float] | None) -> CVSelection:
        selection = select_on_path(data.logistic_path(stop, Cs, feature_mask), data.held_out, stop)
        steps.advance()
        return selection

    def refit(selection: CVSelection, feature_mask: NDArray[np.bool_] | None) -> Layer:
        return data.refit(selection, feature_mask)

    with StepProgress(data.progress, "fit shares of the features", len(FRACTIONS)) as steps:
        selected = select_features(data.rows.squares, fit, refit, data.c_path, stop)
    d = len(data.rows.squares)
    return data.tuned_head(
        selected.selection, selected.layer, f"{round(selected.fraction * d)} of {d} features, C={{}}"
    )


register(HeadSpec("head2toe", tune=tune, multilabel=False, cluster=True, device=True, linear=True, layer="all"))
