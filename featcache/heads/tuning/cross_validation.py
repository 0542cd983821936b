"""Any scikit-learn classifier judged on images that it was not trained on, and made to give probabilities."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone

from featcache._utils.progress_bar import Progress
from featcache.cache.features import Features, TrainingMatrix, ViewUse
from featcache.core.progress import StepProgress
from featcache.core.splitting import NEVER, assign_folds
from featcache.errors import HeadError
from featcache.heads.registry import classify, fit_estimator


def cross_validate(
    estimator: BaseEstimator,
    features: Features,
    use: ViewUse,
    folds: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64] | None]:
    """Fit once for each fold, and predict the clean views of the images that it leaves out.

    Returns
    -------
    rows : the images that some fold leaves out, shape (m,).
    predicted, probabilities : see `featcache.heads.registry.classify`.

    Raises
    ------
    HeadError : the estimator cannot be fitted, or every class has one distinct image.
    """
    if folds < 2:
        raise HeadError(f"cross-validation takes two folds or more; got {folds}")
    fold = assign_folds(features.y, features.samples.split_keys, folds, seed)
    rows = np.flatnonzero(fold >= 0)
    if not len(rows):
        raise HeadError(f"no class has {features.samples.two_distinct}, so nothing can be left out")
    flat, clean, samples = features.flatten(use), features.lazy_view(0), features.samples
    predicted, shares = np.zeros_like(features.y, np.int64), np.zeros((len(fold), len(samples.classes)))
    given = True
    numbers = np.unique(fold[rows])
    with StepProgress(progress, "fit folds", len(numbers)) as steps:
        for number in numbers:
            copy, here = clone(estimator), np.flatnonzero(fold == number)
            fit_estimator(copy, _take(flat, np.flatnonzero(_spread(fold, flat) != number)))
            predicted[here], found = classify(copy, clean[here], len(samples.classes), multilabel=samples.multilabel)
            given = found is not None
            if found is not None:
                shares[here] = found
            steps.advance()
    return rows, predicted[rows], shares[rows] if given else None


def calibrate_platt(
    estimator: BaseEstimator, features: Features, use: ViewUse, folds: int = 5, seed: int = 0
) -> BaseEstimator:
    """An estimator that also gives probabilities: a sigmoid of its scores for images left out (Platt 1999).

    All views of an image, and its copies, are left out together.
    """
    from sklearn.calibration import CalibratedClassifierCV

    fold = assign_folds(features.y, features.samples.split_keys, folds, seed)
    if np.any(fold == NEVER):
        name = features.samples.classes[features.y[fold == NEVER][0]]
        raise HeadError(f"calibration takes {features.samples.two_distinct} of each class; {name} has one")
    flat = features.flatten(use)
    fold = _spread(fold, flat)
    parts = [(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in np.unique(fold)]
    found = CalibratedClassifierCV(estimator, cv=parts, ensemble=False)
    with warnings.catch_warnings():  # it passes no weights on to a pipeline; all that it is given are equal
        warnings.filterwarnings("ignore", message=r"Since \w+ does not appear to accept sample_weight")
        fit_estimator(found, flat)
    return found.set_params(cv=None)  # its file need not hold the folds


def _spread(fold: NDArray[np.int64], flat: TrainingMatrix) -> NDArray[np.int64]:
    return np.repeat(fold, len(flat.y) // len(fold))


def _take(flat: TrainingMatrix, rows: NDArray[np.int64]) -> TrainingMatrix:
    return TrainingMatrix(flat.x[rows], flat.y[rows], flat.groups[rows], flat.weights[rows])
