"""head2toe: softmax regression on the features that ridge uses most (Evci et al. 2022, arXiv 2201.03529)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featcache.heads.registry import HeadSpec, register

if TYPE_CHECKING:
    from featcache.heads.solvers.path import Stop
    from featcache.heads.tuning.tuning_data import TunedHead, TuningData


def tune(data: TuningData, stop: Stop = lambda: False) -> TunedHead:
    """Choose the features by ridge, then C."""
    from featcache.heads.tuning.feature_selection import select_features
    from featcache.heads.tuning.selected_features import fit_selected

    selected = select_features(data, stop)
    selection, layer = fit_selected(data, selected.mask, stop)
    d = layer.coef.shape[1]
    return data.tuned_head(selection, layer, f"{round(selected.fraction * d)} of {d} features, C={{}}")


register(HeadSpec("head2toe", tune=tune, multilabel=False, cluster=True, device=True, linear=True, layer="all"))
