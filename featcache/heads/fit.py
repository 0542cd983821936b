"""`fit`: a head of any kind from training data and options."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sklearn.base import BaseEstimator

from featcache._utils.formatting import brief
from featcache._utils.threads import blas_threads, idle_cores
from featcache.backbones.devices import ALL_GPUS
from featcache.core.layer_names import ALL, join_layers
from featcache.core.specs import PENULTIMATE
from featcache.errors import HeadError
from featcache.heads.estimators import set_thresholds
from featcache.heads.file_checks import TREES
from featcache.heads.fixed_settings import fit_fixed
from featcache.heads.layer_scaling import weigh_layers, without_scaling
from featcache.heads.registry import HeadSpec, find_head, heads_with
from featcache.heads.training_data import FitOptions, Fitted, TrainingData
from featcache.heads.tuning.layer_selection import LayerSelection, select_layers
from featcache.heads.tuning.selection import BUDGET_S, check_tuned_options, fit_tuned

_SMALL = 2**23  # values of train, for whose products one thread suffices
_FIT_OPTIONS = ("cv", "budget_s", "scaling", "calibrate")


def fit(head: str | BaseEstimator, data: TrainingData, options: FitOptions) -> Fitted:
    """Fit a head to train.

    Parameters
    ----------
    head : str or estimator
        See `featcache.heads.fit_head.fit_head`.
    data : TrainingData
        Features. Of val only the epoch of sgd is chosen.
    options : FitOptions
        How it is fitted.

    Raises
    ------
    HeadError, BackboneError, ClusterError
    """
    spec = find_head(head)
    _check(spec, data, options)
    started = time.perf_counter()
    with blas_threads(1 if math.prod(data.train.x.shape) <= _SMALL else idle_cores()):
        data, weights, selection = _select_layers(spec, data, options)
        if spec.tries_heads:
            left = (BUDGET_S if options.budget_s is None else options.budget_s) - (time.perf_counter() - started)
            options = replace(options, budget_s=left)
        if weights is None:
            fitted = _fit_and_self_train(spec, data, options)
        else:
            scale = weigh_layers(data.train, weights)
            fitted = _fit_and_self_train(spec, data.scaled(scale), options)
            uncalibrated = None if fitted.uncalibrated is None else without_scaling(fitted.uncalibrated, scale)
            held_out = fitted.held_out and fitted.held_out.scaled(scale)
            estimator = without_scaling(fitted.estimator, scale)
            fitted = replace(fitted, estimator=estimator, uncalibrated=uncalibrated, held_out=held_out)
    if weights is not None and selection is None:
        note = f"layers: {brief(data.layers)}, with equal weight"
        fitted = replace(fitted, notes=(*fitted.notes, note))
    fitted = replace(fitted, layers=data.layers, layer_selection=selection)
    if fitted.thresholds is not None:
        set_thresholds(fitted.estimator, fitted.thresholds)
    if spec.device and options.compute_device != "cpu":
        fitted = replace(fitted, notes=(*fitted.notes, f"computed on {options.compute_device}"))
    return fitted


def _select_layers(
    spec: HeadSpec, data: TrainingData, options: FitOptions
) -> tuple[TrainingData, tuple[float, ...] | None, LayerSelection | None]:
    """The layers to use, their weights (None: the features are used as they are), and how they were chosen."""
    concatenated = data.train.concatenated
    if concatenated is None or _is_tree(spec):
        return data, None, None
    if not cross_validates(spec, data, options) or options.cluster:
        return data, (1.0,) * len(concatenated.widths), None
    chosen, selection = select_layers(
        data.train,
        data.layers,
        keep_all=data.keep_layers,
        choices=data.choices,
        rows_of_image=1 + data.train.views if options.use_views in (None, "all") else 1,
        class_weight=options.parameters.get("class_weight"),
        folds=options.cv,
        seed=options.seed,
        budget_s=(BUDGET_S if options.budget_s is None else options.budget_s) / 2 if spec.tries_heads else None,
        progress=options.progress,
    )
    data = data.take_layers(chosen.layers)
    return data, chosen.weights if len(chosen.layers) > 1 else None, selection


def default_layer(
    head: str | BaseEstimator, parameters: Mapping[str, Any] | None, layers: Sequence[str], cluster: object = None
) -> str:
    """The layers of a cache that a head is given if the user names none; see `HeadSpec.layer`."""
    spec = find_head(head)
    if cluster or _is_fixed(spec, parameters or {}) or spec.layer == PENULTIMATE:
        return PENULTIMATE
    return ALL if PENULTIMATE in layers else join_layers(layers)


def _fit_and_self_train(spec: HeadSpec, data: TrainingData, options: FitOptions) -> Fitted:
    fitted = _fit(spec, data, options)
    if data.unlabeled is None:
        return fitted
    from featcache.heads.self_training import self_train

    return self_train(fitted, data, options, partial(_fit, spec))


def _fit(spec: HeadSpec, data: TrainingData, options: FitOptions) -> Fitted:
    if spec.fit:
        return spec.fit(spec.name, data, options)
    if _is_tuned(spec, data, options):
        return fit_tuned(spec.name, [spec], data, options)
    return fit_fixed(spec, data, options)


def cross_validates(spec: HeadSpec, data: TrainingData, options: FitOptions) -> bool:
    """Whether the head, or its settings, are chosen by cross-validation."""
    return spec.tries_heads or _is_tuned(spec, data, options)


def _is_tuned(spec: HeadSpec, data: TrainingData, options: FitOptions) -> bool:
    """Whether cross-validation chooses the settings; without an estimator, the user cannot give them."""
    handles_labels = bool(spec.multilabel_estimator) or not data.train.samples.multilabel
    return spec.tune is not None and handles_labels and not _is_fixed(spec, options.parameters)


def _is_fixed(spec: HeadSpec, parameters: Mapping[str, Any]) -> bool:
    """Whether the user gives the settings of an estimator; class weights are no setting."""
    return spec.estimator is not None and bool(set(parameters) - {"class_weight"})


def _check(spec: HeadSpec, data: TrainingData, options: FitOptions) -> None:
    """Raise HeadError for options that would have no effect, and for data that the head cannot be fitted to."""
    multilabel = data.train.samples.multilabel
    if multilabel:
        options.reject("budget_s", "calibrate", message="is for samples with one label")
        if not spec.multilabel:
            raise HeadError(
                f"{spec.name} is for samples with one label; use linear, or another head with probabilities"
            )
    else:
        options.reject("thresholds", message="is for samples with several labels")
    if spec.fit:
        unused = [name for name in _FIT_OPTIONS if name not in spec.options]
        options.reject(*unused, message=f"has no effect on {spec.name}: leave it out")
    else:
        options.reject("budget_s", message="is for auto")
    if spec.epochs and options.use_views not in (None, "cycle", "clean"):
        raise HeadError(
            f"{spec.name} trains on one view an epoch (cycle) or on the clean one; {options.use_views} is for other "
            "heads"
        )
    if spec.feature_maps and not data.positions:
        raise HeadError(
            f"{spec.name} needs features of a grid, and the layer {data.layer} has none. Extract such a layer "
            "(`--layers blocks.6:grid7` for maps of 7 x 7; `--dry-run` says how many bytes), and name it with --layer."
        )
    if cross_validates(spec, data, options):
        check_tuned_options(spec, options)
    if options.cluster:
        _check_cluster(spec, data, options)
    if data.unlabeled is not None:
        _check_self_training(spec, data, options)
    if options.device == ALL_GPUS:
        raise HeadError(f"a head is fitted on one GPU, not on {ALL_GPUS}: give cuda or cuda:1 as the device")
    if not spec.device and options.device not in ("cpu", "auto"):
        raise HeadError(f"only {_list(heads_with('device'))} work on {options.device}; leave out the device")


def _check_cluster(spec: HeadSpec, data: TrainingData, options: FitOptions) -> None:
    if not spec.cluster or data.train.samples.multilabel or not (spec.fit or _is_tuned(spec, data, options)):
        raise HeadError(
            f"{spec.name} is fitted on one machine: leave out the cluster. On several work "
            f"{', '.join(heads_with('cluster'))}, which choose their own settings, for samples with one label."
        )
    if options.device not in ("cpu", "auto"):
        raise HeadError("--gpus-per-worker says where a cluster fits a head; leave out the device")


def _check_self_training(spec: HeadSpec, data: TrainingData, options: FitOptions) -> None:
    if data.train.samples.multilabel:
        raise HeadError("unlabeled is for samples with one label: leave it out")
    if not spec.tries_heads:
        raise HeadError(f"unlabeled is for auto, which compares heads, not for {spec.name}: leave out one of the two")
    if options.parameters:
        raise HeadError(f"unlabeled takes no {', '.join(options.parameters)}: leave out one of the two")
    if options.cluster:
        raise HeadError("unlabeled is for few labels, and a cluster for many: leave out one of the two")


def _list(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _is_tree(spec: HeadSpec) -> bool:
    """Whether it only compares values of a feature, so that their scale does not matter; it is saved unchanged."""
    path = spec.estimator if isinstance(spec.estimator, str) else type(spec.estimator).__name__
    return path.rpartition(".")[2] in TREES
