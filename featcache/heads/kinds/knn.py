"""knn: a vote of the k nearest training images by cosine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featcache.heads.registry import HeadSpec, register

if TYPE_CHECKING:
    from featcache.heads.solvers.path import Stop
    from featcache.heads.tuning.tuning_data import TunedHead, TuningData

_DEFAULTS = {"metric": "cosine", "algorithm": "brute"}


def tune(data: TuningData, stop: Stop = lambda: False) -> TunedHead | None:
    """Choose k by the accuracy on held-out images, whose neighbors are clean views of the other folds."""
    import numpy as np
    from sklearn.metrics import log_loss
    from sklearn.neighbors import KNeighborsClassifier  # a tenth of a second

    from featcache.heads.solvers.knn import knn_probabilities
    from featcache.heads.tuning.path_selection import CVScore
    from featcache.heads.tuning.tuning_data import TunedHead

    held_out, indices = data.held_out, range(len(data.classes))
    x, labels, rows = data.clean, held_out.labels, held_out.rows
    by_k = knn_probabilities(x, labels, held_out.fold, rows, len(indices), stop)
    if not by_k:  # no time, or no other image
        return None
    y, weight = labels[rows], held_out.weight[rows]
    trials, scores = [], {}
    for k, probabilities in by_k.items():
        right = probabilities.argmax(axis=1) == y
        loss = log_loss(y, probabilities, sample_weight=weight, labels=indices)
        trials.append(CVScore(k, loss, float(right.mean())))
        scores[k] = float(np.average(right, weights=weight)), -loss
    best = max(scores, key=lambda k: scores[k])
    estimator = KNeighborsClassifier(best, **_DEFAULTS).fit(x, data.classes[labels])
    return TunedHead(estimator, f"k={best}", tuple(trials), by_k[best])


register(
    HeadSpec(
        "knn",
        tune=tune,
        estimator="sklearn.neighbors.KNeighborsClassifier",
        defaults=_DEFAULTS,
        clean_views=True,
    )
)
