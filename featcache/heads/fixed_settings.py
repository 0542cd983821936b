"""`fit_fixed`: a scikit-learn classifier with settings that the user gives, cross-validated on request."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, is_classifier

from featcache.cache.features import Features
from featcache.core.samples import Samples
from featcache.errors import HeadError
from featcache.heads.binary_relevance import BinaryRelevance
from featcache.heads.class_weights import weights_by_index
from featcache.heads.estimators import fit_estimator, is_multilabel, make_estimator, with_scaling
from featcache.heads.held_out import HeldOutScores
from featcache.heads.io import reject_unsavable
from featcache.heads.registry import HeadSpec
from featcache.heads.training_data import FitOptions, Fitted, TrainingData
from featcache.heads.tuning.cross_validation import calibrate_platt, cross_validate
from featcache.heads.tuning.held_out_novelty import measure_novelty
from featcache.heads.tuning.selection import Candidate, Selection
from featcache.heads.tuning.tuning_data import TuningData
from featcache.metrics.multilabel import judge


def fit_fixed(spec: HeadSpec, data: TrainingData, options: FitOptions) -> Fitted:
    """Fit the estimator of a kind of head to train. Raises HeadError."""
    samples, train = data.train.samples, data.train
    estimator = _classifier(spec, options, samples)
    has_probabilities = hasattr(estimator, "predict_proba")
    if samples.multilabel and not has_probabilities:
        raise HeadError(f"{spec.name} has no probabilities, which labels are judged by; use linear, or one that has")
    if options.calibrate and has_probabilities:
        raise HeadError(f"calibrate is for heads that have no probabilities of their own; {spec.name} has some")
    if samples.multilabel and not is_multilabel(estimator):
        estimator = BinaryRelevance(estimator)
    if options.scaling:
        estimator = with_scaling(estimator, options.scaling)
    if options.will_be_saved:
        reject_unsavable(estimator)
    thresholds = options.label_thresholds(samples.classes)
    if isinstance(thresholds, str) and not options.cv:
        raise HeadError(
            "thresholds with the highest F1 are chosen on held-out samples, and this head holds out none: give cv "
            "(--cv 5), or numbers of your own"
        )
    selection, rows, probabilities = _cross_validate(estimator, spec.name, options, train) if options.cv else _NOTHING
    if options.calibrate:
        estimator = calibrate_platt(estimator, train, options.view_use, options.cv or 5, options.seed)
    else:
        fit_estimator(estimator, train.flatten(options.view_use))
    scores = None
    if rows is not None and probabilities is not None and not samples.multilabel:
        tuning = TuningData(train, options.view_use, folds=options.cv, seed=options.seed)
        scores = HeldOutScores.from_probabilities(probabilities, train.y[rows], measure_novelty(tuning))
    fitted = Fitted(estimator, spec.name, selection=selection, held_out=scores)
    return fitted.with_thresholds(thresholds, samples.classes, None if rows is None else train.y[rows], probabilities)


_NOTHING = (None, None, None)


def _classifier(spec: HeadSpec, options: FitOptions, samples: Samples) -> BaseEstimator:
    """The unfitted classifier of a kind of head."""
    if not isinstance(spec.estimator, str):
        if options.parameters:
            raise HeadError("parameters are for a head given by name; set them on the classifier object itself")
        if not isinstance(spec.estimator, BaseEstimator) or not is_classifier(spec.estimator):
            raise HeadError(f"{spec.name} is not a scikit-learn classifier; give an object of one")
        return spec.estimator
    parameters = dict(options.parameters)
    if spec.device:
        parameters = {"device": options.compute_device, **parameters}
    if spec.multilabel_estimator or not samples.multilabel:
        try:
            if "class_weight" in parameters:
                parameters["class_weight"] = weights_by_index(parameters["class_weight"], samples.classes)
        except ValueError as error:
            raise HeadError(f"the head could not be fitted: {error}") from error
    return make_estimator(spec, parameters, spec.multilabel_estimator if samples.multilabel else "")


def _cross_validate(
    estimator: BaseEstimator, name: str, options: FitOptions, train: Features
) -> tuple[Selection, NDArray[np.int64], NDArray[np.float64] | None]:
    """The result of cross-validation, the images that it held out, and their probabilities, if there are any."""
    folds = options.cv or 0
    started = time.perf_counter()
    rows, predicted, probabilities = cross_validate(
        estimator, train, options.view_use, folds, options.seed, options.progress
    )
    accuracy = judge(train.y[rows], predicted, probabilities, train.samples.classes)
    candidate = Candidate(name, "", accuracy, time.perf_counter() - started, 1.0)
    return Selection((candidate,), len(rows), folds), rows, probabilities
