"""`fit`: a fitted classifier from a head's name and options."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, is_classifier

from featcache._utils.formatting import brief
from featcache._utils.progress_bar import Progress
from featcache.backbones.devices import resolve_device
from featcache.cache.features import Features, ViewUse
from featcache.core.progress import StepProgress
from featcache.core.samples import Samples
from featcache.core.specs import ExtractSpec
from featcache.core.thresholds import LEAST, Thresholds, check_thresholds, choose_thresholds, format_thresholds
from featcache.errors import HeadError, first_line
from featcache.heads import registry
from featcache.heads.binary_relevance import BinaryRelevance
from featcache.heads.imagenet import describe_choice, imagenet_head
from featcache.heads.io import TREES, refuse_unsavable
from featcache.heads.layer_scaling import standardize_layers, unscaled
from featcache.heads.linear import LinearHead
from featcache.heads.ray.coordinator import TrainingCluster
from featcache.heads.tuning.auto import Candidate, Selection, select
from featcache.heads.tuning.cross_validation import calibrate_platt, cross_validate
from featcache.heads.tuning.families import TUNED_HEADS, TuningData, weights_by_index
from featcache.heads.tuning.multilabel import tune_labels
from featcache.metrics.multilabel import judge

UseViews = Literal["all", "mean", "clean", "cycle"]
OnEpoch = Callable[[Any], None]

ON_CLUSTER = ("auto", *(name for name in TUNED_HEADS if name != "knn"))

_BUDGET_S = 10.0
_SEVERAL = "images with several labels"


@dataclass(frozen=True)
class FitOptions:
    """How a head is fitted; see `fit_head`.

    thresholds : of several labels, see `fit_head`. places : of a map in its features, 0 where they are none.
    team : machines that share the rows.
    saved : whether the head will be saved; one that cannot be is refused before it is fitted.
    progress : called for the heads of auto, else for strengths, folds or epochs.
    """

    parameters: dict[str, Any] = field(default_factory=dict)
    use_views: UseViews | None = None
    cv: int | None = None
    budget_s: float | None = None
    scaling: Literal["standard", "l2"] | None = None
    calibrate: bool = False
    thresholds: Thresholds | None = None
    seed: int = 0
    device: str = "cpu"
    places: int = 0
    team: TrainingCluster | None = None
    saved: bool = False
    progress: Progress | None = None

    @property
    def rows(self) -> ViewUse:
        """The views that heads other than sgd and attention train on."""
        if self.use_views == "cycle":
            raise HeadError("cycle trains on one view an epoch, as sgd and attention do; use all, mean or clean")
        return self.use_views or "all"

    @property
    def tuning(self) -> dict[str, Any]:
        """Arguments of `TuningData` and `tune_labels`."""
        class_weight, device = self.parameters.get("class_weight"), resolve_device(self.device)
        return {"class_weight": class_weight, "folds": self.cv, "seed": self.seed, "device": device}

    def refuse_cluster(self, name: str) -> None:
        """Raise HeadError for a head that one machine alone fits."""
        if self.team:
            raise HeadError(
                f"{name} is fitted on one machine: leave out the cluster. On several work {', '.join(ON_CLUSTER)}, "
                "which choose their own settings, for images with one label."
            )

    def refuse(self, *names: str, only: str) -> None:
        """Raise HeadError for options that would silently be without effect."""
        given = [name for name in names if getattr(self, name) is not None and getattr(self, name) is not False]
        if given:
            raise HeadError(f"{given[0]} is for {only}")

    def refuse_device(self) -> None:
        """Raise HeadError for a device that a head would not work on."""
        if self.device not in ("cpu", "auto"):
            raise HeadError(f"only linear, head2toe and auto work on {self.device}; leave out the device")


@dataclass(frozen=True)
class Fitted:
    """A fitted classifier.

    name : of the head. history : epochs of sgd. selection : what cross-validation said. untempered : the head without
    the temperature that its logits were divided by, where they were. notes : what a user should know, a line each.
    thresholds : of each of several labels, where they are not all 0.5 by default.
    """

    estimator: BaseEstimator
    name: str
    history: list[Any] = field(default_factory=list)
    selection: Selection | None = None
    untempered: BaseEstimator | None = None
    notes: tuple[str, ...] = ()
    thresholds: NDArray[np.float64] | None = None


def fit(
    head: str | BaseEstimator, options: FitOptions, train: Features, val: Features, on_epoch: OnEpoch | None = None
) -> Fitted:
    """Fit a head to train; val chooses the epoch of "sgd" and nothing else. Raises HeadError."""
    if train.concatenated is None or _is_tree(head):
        fitted = _fit(head, options, train, val, on_epoch)
    else:
        scale = standardize_layers(train)
        fitted = _fit(head, options, train.scaled(scale), val.scaled(scale), on_epoch)
        hot = fitted.untempered and unscaled(fitted.untempered, scale)
        fitted = replace(fitted, estimator=unscaled(fitted.estimator, scale), untempered=hot)
    if fitted.thresholds is not None:
        registry.set_thresholds(fitted.estimator, fitted.thresholds)
    return fitted


def _is_tree(head: str | BaseEstimator) -> bool:
    """Whether it only asks which of two values of a feature is larger, whatever their scale, and is saved as it is."""
    path = registry.HEADS.get(head, (head,))[0] if isinstance(head, str) else type(head).__name__
    return path.rpartition(".")[2] in TREES


def _fit(
    head: str | BaseEstimator, options: FitOptions, train: Features, val: Features, on_epoch: OnEpoch | None
) -> Fitted:
    names = _families(head, options, train)
    if not train.samples.multilabel:
        options.refuse("thresholds", only=_SEVERAL)
    if names and not train.samples.multilabel:
        return _tune(str(head), names, options, train)
    options.refuse_cluster(head if isinstance(head, str) else type(head).__name__)
    if train.samples.multilabel:
        return _fit_labels(head, options, train)
    if head == "sgd":
        return _fit_sgd(options, train, val, on_epoch)
    if head == "attention":
        return _fit_attention(options, train)
    return _fit_any(head, options, train)


def _families(head: str | BaseEstimator, options: FitOptions, train: Features) -> list[str]:
    """Those that a head's name means, none where its settings are given."""
    if head == "auto":
        return [name for name in TUNED_HEADS if train.concatenated is not None or name != "head2toe"]
    fixed = head in registry.HEADS and set(options.parameters) - {"class_weight"}
    return [str(head)] if head in TUNED_HEADS and not fixed else []


def zero_shot_head(
    head: str, options: FitOptions, train: Features, spec: ExtractSpec, weights: str, layer: str
) -> Fitted:
    """A head that is not fitted at all: the pretrained network's own rows, see `imagenet_head`. Raises HeadError."""
    samples = train.samples
    if samples.multilabel:
        raise HeadError(f"{head} gives one label an image, and images of this cache have several; use linear")
    if options.parameters or options.use_views:
        raise HeadError(f"{head} does not train: it takes neither parameters nor use_views")
    options.refuse("cv", "budget_s", "scaling", "calibrate", only="heads that train")
    options.refuse("thresholds", only=_SEVERAL)
    options.refuse_device()
    options.refuse_cluster(head)
    estimator = imagenet_head(
        head,
        samples.classes,
        backbone=spec.backbone,
        weights=weights,
        weights_sha256=spec.weights_sha256,
        layer=layer,
        features=train.clean(),
        image_size=spec.view.image_size,
    )
    return Fitted(estimator, head, notes=tuple(describe_choice(head, samples.classes)))


def _fit_sgd(options: FitOptions, train: Features, val: Features, on_epoch: OnEpoch | None) -> Fitted:
    from featcache.heads.sgd import fit_sgd  # torch is imported for this head alone
    from featcache.training.loop import EpochMetrics, TrainConfig

    options.refuse("cv", "budget_s", "scaling", "calibrate", only="heads that are not sgd")
    options.refuse_device()
    if options.use_views not in (None, "cycle", "clean"):
        raise HeadError(
            f"sgd trains on one view an epoch (cycle) or on the clean one; {options.use_views} is for other heads"
        )
    try:
        recipe = TrainConfig(**{"lr": 1e-3, **options.parameters})
    except (TypeError, ValueError) as error:
        raise HeadError(f"sgd: {error}") from error
    features = train.with_views(0) if options.use_views == "clean" else train
    try:
        with StepProgress(options.progress, "fit epochs", recipe.epochs) as steps:

            def tell(epoch: EpochMetrics) -> None:
                steps.advance()
                if on_epoch:
                    on_epoch(epoch)

            estimator, history = fit_sgd(features, val, recipe, seed=options.seed, on_epoch=tell)
    except ValueError as error:  # weights of other classes
        raise HeadError(f"sgd: {error}") from error
    except RuntimeError as error:  # numbers that float32 does not have
        raise HeadError(
            f"sgd could not be trained: {first_line(error)}. Give a lower lr than {recipe.lr:g}."
        ) from error
    if history[-1].diverged or not np.isfinite(estimator.coef_).all():
        raise HeadError(
            f"sgd diverged in epoch {len(history)}: its weights or its loss on val are no finite numbers. Give a lower "
            f"lr than {recipe.lr:g}."
        )
    return Fitted(estimator, "sgd", history)


def _fit_attention(options: FitOptions, train: Features) -> Fitted:
    from featcache.heads.attention import AttentionRecipe, fit_attention

    options.refuse("cv", "budget_s", "scaling", "calibrate", only="other heads")
    options.refuse_device()
    if options.use_views not in (None, "cycle", "clean"):
        raise HeadError(
            f"attention trains on one view an epoch (cycle) or on the clean one; not on {options.use_views}"
        )
    if not options.places:
        raise HeadError(
            "attention looks at the places of a map, and these features have none. Extract such a layer (`--layers "
            "blocks.6:grid7` of maps of 7 x 7; `--dry-run` says how many bytes), and name it with --layer."
        )
    try:
        recipe = AttentionRecipe(**options.parameters)
    except (TypeError, ValueError) as error:
        known = ", ".join(one.name for one in fields(AttentionRecipe))
        raise HeadError(f"attention: {error}. It takes {known}.") from error
    features = train.with_views(0) if options.use_views == "clean" else train
    try:
        estimator = fit_attention(features, options.places, recipe, options.seed, options.progress)
        return Fitted(estimator, "attention")
    except (MemoryError, RuntimeError) as error:  # of so many queries
        raise HeadError(f"attention could not be fitted: {first_line(error)}") from error


def _tune(head: str, names: list[str], options: FitOptions, train: Features) -> Fitted:
    """The best of the families that are named, within the budget where there are several."""
    if head != "auto":
        options.refuse("budget_s", only="auto")
    if head == "knn":
        options.refuse_cluster(head)
    if options.team and options.device not in ("cpu", "auto"):
        raise HeadError("--gpus-per-worker says where a cluster fits a head; leave out the device")
    options.refuse("scaling", only="heads that are not tuned: fix their settings with -p, or name another")
    options.refuse("calibrate", only="heads that have no probabilities of their own")
    if set(options.parameters) - {"class_weight"}:
        raise HeadError(f"{head} chooses its settings itself; it takes class_weight alone")
    if not {"linear", "head2toe"} & set(names):
        options.refuse_device()
    if names == ["knn"] and options.rows == "mean":
        raise HeadError("neighbours vote with their clean views; leave out use_views")
    started = time.perf_counter()
    several = len(names) > 1
    progress = None if several else options.progress
    tuning = TuningData(train, options.rows, team=options.team, progress=progress, **options.tuning)
    spent = time.perf_counter() - started
    budget_s = (options.budget_s or _BUDGET_S) - spent if several else None
    progress = options.progress if several else None
    estimator, selection = select(tuning, names, train.samples.classes, budget_s, progress)
    hot, temperature = None, selection.temperature
    if temperature is not None and isinstance(estimator, LinearHead):
        hot = LinearHead.from_weights(
            estimator.coef_ * temperature, estimator.intercept_ * temperature, estimator.classes_
        )
    return Fitted(estimator, selection.chosen.head, selection=selection, untempered=hot)


def _fit_any(head: str | BaseEstimator, options: FitOptions, train: Features) -> Fitted:
    """Any scikit-learn classifier, by name or as an object."""
    options.refuse("budget_s", only="auto")
    estimator, name = _made(head, options, train.samples)
    if options.calibrate and hasattr(estimator, "predict_proba"):
        raise HeadError(f"calibrate is for heads that have no probabilities of their own; {name} has some")
    if options.scaling:
        estimator = registry.with_scaling(estimator, options.scaling)
    if options.saved:
        refuse_unsavable(estimator)
    selection = _validate(estimator, name, options, train)[0] if options.cv else None
    if options.calibrate:
        estimator = calibrate_platt(estimator, train, options.rows, options.cv or 5, options.seed)
    else:
        registry.fit_estimator(estimator, train.flatten(options.rows))
    return Fitted(estimator, name, selection=selection)


def _made(head: str | BaseEstimator, options: FitOptions, samples: Samples) -> tuple[BaseEstimator, str]:
    """An unfitted classifier and its name."""
    if not isinstance(head, str) and options.parameters:
        raise HeadError("parameters are for a head given by name; set them on the classifier object itself")
    if head == "linear":
        parameters = {"device": resolve_device(options.device), **options.parameters}
        try:
            parameters["class_weight"] = weights_by_index(parameters.get("class_weight"), samples.classes)
        except ValueError as error:
            raise HeadError(f"the head could not be fitted: {error}") from error
        return registry.make_head(
            "featcache.heads.one_vs_rest.OneVsRestHead" if samples.multilabel else head, parameters
        ), head
    options.refuse_device()
    estimator = registry.make_head(head, options.parameters) if isinstance(head, str) else head
    if not isinstance(estimator, BaseEstimator) or not is_classifier(estimator):
        raise HeadError(f"{type(head).__name__} is not a scikit-learn classifier; give an object of one")
    return estimator, head if isinstance(head, str) else type(head).__name__


def _fit_labels(head: str | BaseEstimator, options: FitOptions, train: Features) -> Fitted:
    """One classifier a label: our own solved together, any other of scikit-learn's one after the other."""
    options.refuse("budget_s", "calibrate", only="images with one label")
    if head in ("auto", "sgd", "head2toe", "attention"):
        raise HeadError(f"{head} is for images with one label; use linear, or another head with probabilities")
    if head == "linear" and set(options.parameters) <= {"class_weight"}:
        options.refuse("scaling", only="heads that are not tuned: fix their settings with -p, or name another")
        wanted = check_thresholds(options.thresholds, train.samples.classes)
        try:
            found = tune_labels(train, options.rows, progress=options.progress, **options.tuning)
        except (MemoryError, RuntimeError) as error:  # a GPU's memory
            raise HeadError(f"linear could not be fitted: {error}") from error
        fitted = Fitted(found.head, "linear", selection=found.selection, untempered=found.untempered)
        return _with_thresholds(fitted, wanted, train.samples.classes, found.labels, found.probabilities)
    estimator, name = _made(head, options, train.samples)
    if not hasattr(estimator, "predict_proba"):
        raise HeadError(f"{name} has no probabilities, which labels are judged by; use linear, or one that has")
    if not registry.is_multilabel(estimator):
        estimator = BinaryRelevance(estimator)
    if options.scaling:
        estimator = registry.with_scaling(estimator, options.scaling)
    if options.saved:
        refuse_unsavable(estimator)
    wanted = check_thresholds(options.thresholds, train.samples.classes)
    if isinstance(wanted, str) and not options.cv:
        raise HeadError(
            "thresholds with the highest F1 are chosen on images that are left out, and this head leaves out none: "
            "give cv (--cv 5), or numbers of your own"
        )
    selection, rows, shares = _validate(estimator, name, options, train) if options.cv else (None, None, None)
    registry.fit_estimator(estimator, train.flatten(options.rows))
    y = None if rows is None else train.y[rows]
    return _with_thresholds(Fitted(estimator, name, selection=selection), wanted, train.samples.classes, y, shares)


def _with_thresholds(
    fitted: Fitted,
    wanted: NDArray[np.float64] | str | None,
    classes: tuple[str, ...],
    y: NDArray[Any] | None,
    probabilities: NDArray[np.float64] | None,
) -> Fitted:
    """The thresholds that are wanted, where they are "f1" chosen by the left-out images, and what is said of them."""
    if wanted is None:
        return fitted
    if not isinstance(wanted, str):
        return replace(fitted, thresholds=wanted, notes=(f"thresholds as given: {format_thresholds(wanted)}",))
    if y is None or probabilities is None:
        raise AssertionError("some images are left out")
    thresholds, unknown = choose_thresholds(y, probabilities)
    said = "thresholds with the highest F1 on left-out images (the figures of which are at 0.5): "
    notes = [said + format_thresholds(thresholds)]
    if unknown.any():
        names, kept = brief([classes[label] for label in np.flatnonzero(unknown)]), int(unknown.sum())
        few = f"fewer than {LEAST} left-out images have them, or all"
        notes.append(f"{kept} of {len(classes)} labels keep 0.5, since {few}: {names}")
    return replace(fitted, thresholds=thresholds, notes=tuple(notes))


def _validate(
    estimator: BaseEstimator, name: str, options: FitOptions, train: Features
) -> tuple[Selection, NDArray[np.int64], NDArray[np.float64] | None]:
    """What cross-validation says, the images that it left out, and their probabilities, if there are any."""
    folds = options.cv or 0
    started = time.perf_counter()
    rows, predicted, probabilities = cross_validate(
        estimator, train, options.rows, folds, options.seed, options.progress
    )
    found = judge(train.y[rows], predicted, probabilities, train.samples.classes)
    entrant = Candidate(name, "", found, time.perf_counter() - started, 1.0)
    return Selection((entrant,), len(rows), folds), rows, probabilities
