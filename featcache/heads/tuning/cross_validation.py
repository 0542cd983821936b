"""`cross_validate` and `calibrate_platt`, for any classifier of scikit-learn."""

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
from featcache.heads.estimators import fit_estimator
from featcache.heads.predict import classify


def cross_validate(
    estimator: BaseEstimator,
    features: Features,
    use: ViewUse,
    folds: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64] | None]:
    """Fit once for each fold, and predict the clean views of the images that it holds out.

    Returns
    -------
    rows : ndarray, shape (m,)
        The images that some fold holds out.
    predicted, probabilities : ndarray
        Of these images, see `featcache.heads.predict.classify`.

    Raises
    ------
    HeadError
        The estimator cannot be fitted, or every class has one distinct image only.
    """
    if folds < 2:
        raise HeadError(f"cross-validation takes two folds or more; got {folds}")
    fold = assign_folds(features.y, features.samples.split_keys, folds, seed)
    rows = np.flatnonzero(fold >= 0)
    if not len(rows):
        raise HeadError(f"no class has {features.samples.two_distinct}, so nothing can be held out")
    flat, clean, samples = features.flatten(use), features.lazy_view(0), features.samples
    predicted, probabilities = np.zeros_like(features.y, np.int64), np.zeros((len(fold), len(samples.classes)))
    has_probabilities = True
    numbers = np.unique(fold[rows])
    with StepProgress(progress, "fit folds", len(numbers)) as steps:
        for number in numbers:
            copy, held_out = clone(estimator), np.flatnonzero(fold == number)
            fit_estimator(copy, _select_rows(flat, np.flatnonzero(_repeat(fold, flat) != number)))
            predictions = classify(copy, clean[held_out], len(samples.classes), multilabel=samples.multilabel)
            predicted[held_out] = predictions.predicted
            has_probabilities = predictions.probabilities is not None
            if predictions.probabilities is not None:
                probabilities[held_out] = predictions.probabilities
            steps.advance()
    return rows, predicted[rows], probabilities[rows] if has_probabilities else None


def calibrate_platt(
    estimator: BaseEstimator, features: Features, use: ViewUse, folds: int = 5, seed: int = 0
) -> BaseEstimator:
    """Fit an estimator, and a sigmoid of its scores on held-out images that gives probabilities (Platt 1999).

    All views of an image, and its copies, are held out together. Raises HeadError.
    """
    from sklearn.calibration import CalibratedClassifierCV

    fold = assign_folds(features.y, features.samples.split_keys, folds, seed)
    if np.any(fold == NEVER):
        name = features.samples.classes[features.y[fold == NEVER][0]]
        raise HeadError(f"calibration takes {features.samples.two_distinct} of each class; {name} has one")
    flat = features.flatten(use)
    fold = _repeat(fold, flat)
    splits = [(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in np.unique(fold)]
    calibrated = CalibratedClassifierCV(estimator, cv=splits, ensemble=False)
    with warnings.catch_warnings():  # it passes no weights on to a pipeline; all weights are equal here
        warnings.filterwarnings("ignore", message=r"Since \w+ does not appear to accept sample_weight")
        fit_estimator(calibrated, flat)
    return calibrated.set_params(cv=None)  # the folds are not saved


def _repeat(fold: NDArray[np.int64], flat: TrainingMatrix) -> NDArray[np.int64]:
    return np.repeat(fold, len(flat.y) // len(fold))


def _select_rows(flat: TrainingMatrix, rows: NDArray[np.int64]) -> TrainingMatrix:
    return TrainingMatrix(flat.x[rows], flat.y[rows], flat.groups[rows], flat.weights[rows])
