"""`fit_head`: from cached features to an evaluated, saved head."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, is_classifier

from featcache import heads
from featcache.auto import Entrant, Selection, select
from featcache.cache import FeatureCache
from featcache.card import REPORT, ModelCard, prepare_folder, write_json
from featcache.errors import CacheIncompleteError, HeadError
from featcache.families import FAMILIES, Tuning
from featcache.features import Features, ViewUse
from featcache.headfile import dump_head
from featcache.linear import LinearHead
from featcache.metrics import Accuracy, describe, evaluate
from featcache.predictions import write_predictions
from featcache.report import Report, Stopwatch
from featcache.spec import PENULTIMATE
from featcache.validation import calibrated, cross_validate

BUDGET_S = 10.0


@dataclass(frozen=True)
class HeadFit:
    """What `fit_head` returns.

    estimator : the fitted classifier. name : of the head. history : epochs of `sgd`, else empty.
    path : where it was saved, if it was. selection : what cross-validation said, if it was asked.
    before : val accuracy before the temperature was set, where one was.
    """

    estimator: BaseEstimator
    name: str
    report: Report
    history: list[Any]
    path: Path | None
    selection: Selection | None = None
    before: Accuracy | None = None

    @property
    def accuracy(self) -> Accuracy:
        """On val."""
        if self.report.accuracy is None:
            raise AssertionError("fit_head always evaluates")
        return self.report.accuracy

    def __str__(self) -> str:
        """What was reached, for people."""
        seconds = ", ".join(f"{phase} {value:.2f} s" for phase, value in self.report.seconds.items())
        lines = [str(self.selection)] if self.selection else []
        lines += [f"head {self.name}, val:", describe(self.accuracy)]
        if self.before and self.selection:
            lines.append(
                f"before its temperature of {self.selection.temperature:.3g}: log-loss {self.before.log_loss:.4f}, "
                f"calibration error {self.before.calibration_error:.4f}"
            )
        if self.report.test:
            lines += ["test:", describe(self.report.test)]
        return "\n".join([*lines, seconds, *([f"saved in {self.path}"] if self.path else [])])

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        before = self.before and {
            "log_loss": self.before.log_loss,
            "calibration_error": self.before.calibration_error,
        }
        return {
            **self.report.to_dict(),
            "head": self.name,
            "path": str(self.path) if self.path else None,
            "history": [vars(epoch) for epoch in self.history],
            "selection": self.selection.to_dict() if self.selection else None,
            "before_temperature": before,
        }


def fit_head(
    cache: str | os.PathLike[str] | FeatureCache,
    out: str | os.PathLike[str] | None = None,
    *,
    head: str | BaseEstimator = "linear",
    parameters: Mapping[str, Any] | None = None,
    layer: str = PENULTIMATE,
    use_views: Literal["all", "mean", "clean", "cycle"] | None = None,
    cv: int | None = None,
    budget_s: float | None = None,
    scaling: Literal["standard", "l2"] | None = None,
    calibrate: bool = False,
    tta: int = 0,
    seed: int = 0,
    on_epoch: Callable[[Any], None] | None = None,
) -> HeadFit:
    """Train a head on the cached training views and evaluate it on val.

    Parameters
    ----------
    out : folder to save the head in; None does not save it.
    head : "linear" and the other FAMILIES choose their own settings by cross-validation within train, on images left
        out with all their views and copies; "auto" keeps the best of them. "sgd" trains as the tutorials do. Else
        another short name of `featcache.heads.HEADS`, the dotted path of a scikit-learn classifier, or a classifier
        object.
    parameters : of the head's constructor; of the `Recipe` for "sgd". They fix the settings of a tuned head, but for
        "class_weight".
    use_views : train on "all" views, on their "mean", on the "clean" one; sgd on one an epoch ("cycle"). None takes
        what is usual: "cycle" for sgd, else "all".
    cv : folds of the cross-validation. None takes what suits the data for tuned heads, and none for others.
    budget_s : seconds for "auto"; None takes 10.
    scaling : a first step of heads that are not tuned: "standard" or "l2".
    calibrate : give a head that has no probabilities some, see `featcache.validation.calibrated`.
    tta : augmented views of a val or test image that are averaged with the clean one.
    seed : of the folds, and of the order and the first weights of "sgd".
    on_epoch : called with each Epoch of "sgd".

    Raises
    ------
    CacheError, HeadError
    """
    watch = Stopwatch()
    if out is not None:
        prepare_folder(Path(out), "head")
    if not isinstance(cache, FeatureCache):
        cache = FeatureCache.open(cache)
    with watch.phase("read"):
        train, val, test = (cache.features(split, layer) for split in ("train", "val", "test"))
    for split, features in (("train", train), ("val", val)):
        if not len(features.samples):
            raise CacheIncompleteError(f"{cache.path} has no readable {split} images")
    if tta > val.views:
        raise CacheIncompleteError(
            f"tta averages {tta} augmented views of an image, but the cache has {val.views} of its val images. "
            f"Extract with --val-views {tta}."
        )
    with watch.phase("fit"):
        if head == "sgd":
            _refuse(cv=cv, budget_s=budget_s, scaling=scaling, calibrate=calibrate, only="heads that are not sgd")
            fitted = _fit_sgd(dict(parameters or {}), train, val, use_views, seed, on_epoch)
        elif use_views == "cycle":
            raise HeadError("cycle trains on one view an epoch, as sgd alone does; use all, mean or clean")
        elif _is_tuned(head, parameters or {}):
            _refuse(scaling=scaling, only="heads that are not tuned: fix their settings with -p, or name another")
            _refuse(calibrate=calibrate, only="heads that have no probabilities of their own")
            fitted = _tune(str(head), parameters or {}, train, use_views or "all", cv, budget_s, seed)
        else:
            _refuse(budget_s=budget_s, only="auto")
            estimator = _make(head, parameters or {}, scaling)
            fitted = _fit_any(estimator, head, train, use_views or "all", cv, calibrate, seed)
    with watch.phase("evaluate"):
        predicted, probabilities = _predict(fitted.estimator, val, tta)
        accuracy = evaluate(val.y, predicted, val.samples.classes, probabilities)
        before = _before(fitted, val, tta)
        on_test = evaluate_head(fitted.estimator, test, tta) if len(test.samples) else None
    folder = Path(out) if out is not None else None
    if folder is not None:
        _save(fitted.estimator, fitted.name, cache, layer, accuracy, folder)
        write_predictions(folder, val.samples, predicted, probabilities)
    report = Report(
        method=f"head {fitted.name}",
        seconds=watch.seconds(),
        images=len(train.samples),
        accuracy=accuracy,
        test=on_test,
        spec_digest=cache.spec.digest(),
        seed=seed,
    )
    fit = HeadFit(fitted.estimator, fitted.name, report, fitted.history, folder, fitted.selection, before)
    if folder is not None:
        write_json(folder / REPORT, fit.to_dict())
    return fit


def evaluate_head(estimator: BaseEstimator, features: Features, tta: int = 0) -> Accuracy:
    """Figures of a head on the clean view, averaged with `tta` augmented ones. Raises HeadError, CacheError."""
    predicted, probabilities = _predict(estimator, features, tta)
    return evaluate(features.y, predicted, features.samples.classes, probabilities)


def _predict(
    estimator: BaseEstimator, features: Features, tta: int
) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
    x, classes = features.first(tta).flatten().x if tta else features.clean(), len(features.samples.classes)
    return heads.average_views(
        heads.predict(estimator, x), heads.probabilities(estimator, x, classes), 1 + tta, classes
    )


@dataclass(frozen=True)
class _Fitted:
    estimator: BaseEstimator
    name: str
    history: list[Any] = field(default_factory=list)
    selection: Selection | None = None


def _before(fitted: _Fitted, val: Features, tta: int) -> Accuracy | None:
    """Figures without the temperature that the head's logits were divided by, where they were."""
    head, temperature = fitted.estimator, fitted.selection.temperature if fitted.selection else None
    if temperature is None or not isinstance(head, LinearHead):
        return None
    hot = LinearHead.from_weights(head.coef_ * temperature, head.intercept_ * temperature, head.classes_)
    return evaluate_head(hot, val, tta)


def _refuse(only: str, **options: Any) -> None:
    """Options that would be silently without effect."""
    given = [name for name, value in options.items() if value]
    if given:
        raise HeadError(f"{given[0]} is for {only}")


def _is_tuned(head: str | BaseEstimator, parameters: Mapping[str, Any]) -> bool:
    return isinstance(head, str) and (head == "auto" or (head in FAMILIES and set(parameters) <= {"class_weight"}))


def _fit_sgd(
    parameters: dict[str, Any],
    train: Features,
    val: Features,
    use_views: str | None,
    seed: int,
    on_epoch: Callable[[Any], None] | None,
) -> _Fitted:
    from featcache.sgd import fit_sgd  # torch is imported for this head alone
    from featcache.training import Recipe

    if use_views not in (None, "cycle", "clean"):
        raise HeadError(f"sgd trains on one view an epoch (cycle) or on the clean one; {use_views} is for other heads")
    try:
        recipe = Recipe(**{"lr": 1e-3, **parameters})
    except (TypeError, ValueError) as error:
        raise HeadError(f"sgd: {error}") from error
    features = train.first(0) if use_views == "clean" else train
    estimator, history = fit_sgd(features, val, recipe, seed=seed, on_epoch=on_epoch)
    return _Fitted(estimator, "sgd", history)


def _tune(
    head: str,
    parameters: Mapping[str, Any],
    train: Features,
    use: ViewUse,
    cv: int | None,
    budget_s: float | None,
    seed: int,
) -> _Fitted:
    if set(parameters) - {"class_weight"}:
        raise HeadError(f"{head} chooses its settings itself; it takes class_weight alone")
    auto = head == "auto"
    if not auto:
        _refuse(budget_s=budget_s, only="auto")
    tuning = Tuning(train, use, class_weight=parameters.get("class_weight"), folds=cv, seed=seed)
    budget = (BUDGET_S if budget_s is None else budget_s) if auto else None
    estimator, selection = select(tuning, list(FAMILIES) if auto else [head], train.samples.classes, budget)
    return _Fitted(estimator, selection.chosen.head, selection=selection)


def _make(head: str | BaseEstimator, parameters: Mapping[str, Any], scaling: str | None) -> BaseEstimator:
    if not isinstance(head, str) and parameters:
        raise HeadError("parameters are for a head given by name; set them on the classifier object itself")
    estimator = heads.make_head(head, parameters) if isinstance(head, str) else head
    if not isinstance(estimator, BaseEstimator) or not is_classifier(estimator):
        raise HeadError(f"{type(head).__name__} is not a scikit-learn classifier; give an object of one")
    return heads.with_scaling(estimator, scaling) if scaling else estimator


def _fit_any(
    estimator: BaseEstimator,
    head: str | BaseEstimator,
    train: Features,
    use: ViewUse,
    cv: int | None,
    calibrate: bool,
    seed: int,
) -> _Fitted:
    name = head if isinstance(head, str) else type(head).__name__
    selection = None
    if cv:
        started = time.perf_counter()
        rows, predicted, probabilities = cross_validate(estimator, train, use, cv, seed)
        found = evaluate(train.y[rows], predicted, train.samples.classes, probabilities)
        selection = Selection((Entrant(name, "", found, time.perf_counter() - started, 1.0),), len(rows), cv)
    if calibrate and hasattr(estimator, "predict_proba"):
        raise HeadError(f"calibrate is for heads that have no probabilities of their own; {name} has some")
    if calibrate:
        estimator = calibrated(estimator, train, use, cv or 5, seed)
    else:
        heads.fit_estimator(estimator, train.flatten(use))
    return _Fitted(estimator, name, selection=selection)


def _save(
    estimator: BaseEstimator,
    name: str,
    cache: FeatureCache,
    layer: str,
    accuracy: Accuracy,
    folder: Path,
) -> None:
    file, weights = dump_head(estimator)
    card = ModelCard(
        kind="head",
        file=file,
        head=name,
        classes=cache.samples.classes,
        spec=cache.spec,
        weights=cache.provenance.get("weights", "pretrained"),
        layer=layer,
        metrics=accuracy.to_dict(),
    )
    card.write(folder, weights)
