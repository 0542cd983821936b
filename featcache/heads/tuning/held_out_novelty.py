"""`measure_novelty`: the novelty score of training samples, and what it gives to those that are held out."""

from __future__ import annotations

import numpy as np

from featcache.heads.held_out import HeldOutNovelty
from featcache.heads.novelty import STRENGTH, NoveltyScore, leave_classes_out, relative_distances
from featcache.heads.solvers.path import PathWeights
from featcache.heads.tuning.tuning_data import TuningData


def measure_novelty(tuning: TuningData) -> HeldOutNovelty | None:
    """Fit the score to all samples, and without each fold.

    It is not chosen among several. On seven sets, leaving out a class of the training samples chose no better score,
    on average, for a class that was left out of these before; see `benchmarks/coverage.py`.

    Returns
    -------
    HeldOutNovelty or None
        None if it would take seconds: for more than `closed_form.MAX_WIDTH` features.
    """
    if tuning.estimate_closed_form_s() > 0:
        return None
    try:
        *folds, whole = tuning.covariances().class_directions(STRENGTH)
    except np.linalg.LinAlgError:  # features that are almost constant
        return None
    held_out = tuning.held_out
    fold, labels = held_out.fold[held_out.rows], held_out.labels[held_out.rows]
    coef, intercept = (np.stack(arrays) for arrays in zip(*(one.layer for one in folds), strict=True))
    logits, scores = held_out.logits(PathWeights(STRENGTH, coef, intercept)), np.empty(len(fold))
    for number, one in enumerate(folds):
        scores[fold == number] = relative_distances(logits[fold == number], one.products, one.priors)
    layer = tuning.expand(whole.layer)
    score = NoveltyScore(layer.coef.astype(np.float32), layer.intercept, whole.products, whole.priors)
    figures = leave_classes_out(logits, labels, fold, [(one.products, one.priors) for one in folds])
    return HeldOutNovelty(score, np.sort(scores), figures)
