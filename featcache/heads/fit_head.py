"""`fit_head`: from cached features to an evaluated, saved head."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from featcache._utils.progress_bar import ProgressOption, as_callback
from featcache._utils.results import NotebookResult
from featcache._utils.timing import PhaseTimer
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.features import Features
from featcache.core.data_summary import DataSummary
from featcache.core.layer_names import grid_side, join_layers, parse_layer
from featcache.core.model_card import REPORT, ModelCard, as_json, prepare_folder
from featcache.core.ray_cluster import Cluster
from featcache.core.specs import PENULTIMATE
from featcache.core.thresholds import Thresholds
from featcache.errors import CacheIncompleteError
from featcache.heads import registry
from featcache.heads.fit import FitOptions, UseViews, fit, zero_shot_head
from featcache.heads.imagenet import is_imagenet
from featcache.heads.io import save_head
from featcache.heads.ray.coordinator import TrainingCluster
from featcache.heads.tuning.auto import Selection
from featcache.metrics.classification import Accuracy
from featcache.metrics.multilabel import LabelAccuracy, evaluate_labels, judge
from featcache.metrics.predictions import FILE, TEST, predictions_csv
from featcache.metrics.run_report import Report


@dataclass(frozen=True, repr=False)
class HeadFit(NotebookResult):
    """What `fit_head` returns.

    estimator : the fitted classifier. name : of the head. history : epochs of `sgd`, else empty.
    path : where it was saved, if it was. selection : what cross-validation said, if it was asked.
    before : val figures before the temperature was set, where one was. notes : what a user should know, a line each.
    data : what it was fitted on. thresholds : of each of several labels, where any were asked for; the estimator, the
    saved head and the figures decide by them. at_half : val figures at 0.5, where there are thresholds.
    """

    estimator: BaseEstimator
    name: str
    report: Report
    history: list[Any]
    path: Path | None
    selection: Selection | None = None
    before: Accuracy | LabelAccuracy | None = None
    notes: tuple[str, ...] = ()
    data: DataSummary | None = None
    thresholds: tuple[float, ...] | None = None
    at_half: LabelAccuracy | None = None

    @property
    def accuracy(self) -> Accuracy | LabelAccuracy:
        """On val."""
        if self.report.accuracy is None:
            raise AssertionError("fit_head always evaluates")
        return self.report.accuracy

    def __str__(self) -> str:
        """What was reached, for people."""
        seconds = ", ".join(f"{phase} {value:.2f} s" for phase, value in self.report.seconds.items())
        lines = [str(self.selection)] if self.selection else []
        lines += [*self.notes, f"head {self.name}, val:", self.accuracy.describe()]
        if self.at_half:
            half = self.at_half
            lines.append(
                f"at thresholds of 0.5: macro F1 {half.macro_f1:.4f}, micro F1 {half.micro_f1:.4f}, all labels right "
                f"{half.accuracy:.4f}"
            )
        if self.before and self.selection:
            lines.append(
                f"before {_temperature(self.selection.temperature)}: log-loss "
                f"{self.before.log_loss:.4f}, calibration error {self.before.calibration_error:.4f}{self._made_worse()}"
            )
        if self.report.test:
            lines += ["test:", self.report.test.describe()]
        return "\n".join([*lines, seconds, *([f"saved in {self.path}"] if self.path else [])])

    def _made_worse(self) -> str:
        """A clause that says which figures of val the temperature made worse, where it did."""
        names = {"log_loss": "log-loss", "calibration_error": "calibration error"}
        worse = [
            name
            for field, name in names.items()
            if (getattr(self.accuracy, field) or 0.0) > (getattr(self.before, field) or 0.0)
        ]
        return f"; the temperature, chosen on train, made {' and '.join(worse)} worse on val" if worse else ""

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
            "notes": list(self.notes),
            "data": self.data.to_dict() if self.data else None,
            "thresholds": list(self.thresholds) if self.thresholds else None,
            "at_half": self.at_half.to_dict() if self.at_half else None,
        }


def fit_head(
    cache: str | os.PathLike[str] | FeatureCache,
    out: str | os.PathLike[str] | None = None,
    *,
    head: str | BaseEstimator = "linear",
    parameters: Mapping[str, Any] | None = None,
    layer: str = PENULTIMATE,
    use_views: UseViews | None = None,
    cv: int | None = None,
    budget_s: float | None = None,
    scaling: Literal["standard", "l2"] | None = None,
    calibrate: bool = False,
    thresholds: Thresholds | None = None,
    tta: int = 0,
    seed: int = 0,
    device: str = "cpu",
    cluster: Cluster | None = None,
    progress: ProgressOption = None,
    on_epoch: Callable[[Any], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> HeadFit:
    """Train a head on the cached training views and evaluate it on val.

    Parameters
    ----------
    out : folder to save the head in; None does not save it.
    layer : which features of the cache: one layer, several joined by commas, or "all", see
        `featcache.core.layer_names`. Several are made alike, see `featcache.heads.layer_scaling`, and heads see them
    side by side. head : "linear" and the other FAMILIES choose their own settings by cross-validation within train, on
        images left out with all their views and copies; "auto" keeps the best of them (head2toe only with several
        layers). "sgd" trains as the tutorials do, "attention" looks at the places of a grid's layer, see
        `featcache.heads.attention`. "imagenet:ant,bee" does not train: it takes the rows of the network's own
        classifier for classes that ImageNet knows, see `featcache.heads.imagenet.choose_classes`. Else another short
        name of `featcache.heads.registry.HEADS`, the dotted path of a scikit-learn classifier, or a classifier object;
        one that cross-validates inside (GridSearchCV) is given rows, not images: with several views of an image take
        use_views="mean" or "clean", or they lie in several of its folds.
    parameters : of the head's constructor; of the `TrainConfig` for "sgd", of `AttentionRecipe` for "attention". They
        fix the settings of a tuned head, but for "class_weight".
    use_views : train on "all" views, on their "mean", on the "clean" one; sgd and attention on one an epoch ("cycle").
        None takes what is usual: "cycle" for those two, else "all".
    cv : folds of the cross-validation. None takes what suits the data for tuned heads, and none for others.
    budget_s : seconds for "auto"; None takes 10.
    scaling : a first step of heads that are not tuned: "standard" or "l2".
    calibrate : give a head that has no probabilities some, see
    `featcache.heads.tuning.cross_validation.calibrate_platt`. thresholds : of several labels, from which probability on
        each is predicted: a number for all, or numbers by label; "f1" chooses for each what has the highest F1 on the
        images that cross-validation leaves out, see `featcache.core.thresholds`. None is 0.5 for each: most single
        decisions are right, but rare labels are seldom found.
    tta : augmented views of a val or test image that are averaged with the clean one; the saved head predicts so, too.
    seed : of the folds, and of the order and the first weights of "sgd".
    device : where the passes of linear and head2toe over the features are made: "cpu", which needs no PyTorch, "auto",
        "cuda", "cuda:1", "mps".
    cluster : machines that share the training rows, of heads that choose their own settings but for knn; all must see
        the cache, see `featcache.heads.ray.coordinator`. Images that are left out, val and test are judged on this
    machine. progress : True draws a bar; else called as progress(what, done, total). what is "fit heads" of "auto",
        "fit strengths" of heads that choose theirs, "fit folds" of a cross-validation, "fit epochs" of sgd and
        attention. Other heads are fitted in one step, of which nothing is known.
    on_epoch : called with each Epoch of "sgd". on_note : called with what the cache was made of, and
        where a cluster's workers are waited for.

    Raises
    ------
    CacheError, HeadError, BackboneError, ClusterError, MissingExtraError
    """
    watch, given = PhaseTimer(), cache.path if isinstance(cache, FeatureCache) else cache
    if out is not None:
        prepare_folder(Path(out), "head")
    cache = FeatureCache.open(cache)
    data = replace(cache.summary(), name=str(given))
    if on_note:
        on_note(str(data))
    with watch.phase("read"):
        names = cache.layers(layer)
        train, val = read_splits(cache, layer, check_train=cluster is None)  # a cluster's machines look for themselves
        test = cache.features("test", layer)
    places = grid_side(parse_layer(names[0])[1]) ** 2 if len(names) == 1 else 0
    if tta > val.views:
        raise CacheIncompleteError(
            f"tta averages {tta} augmented views of an image, but the cache has {val.views} of its val images. "
            f"Extract with --val-views {tta}."
        )
    team = TrainingCluster(cluster, given, layer, on_note) if cluster else None
    options = FitOptions(
        dict(parameters or {}),
        use_views,
        cv,
        budget_s,
        scaling,
        calibrate,
        thresholds,
        seed,
        device,
        places,
        team,
        saved=out is not None,
        progress=as_callback(progress),
    )
    with watch.phase("fit"), closing(team) if team else nullcontext():
        if is_imagenet(head):
            weights = cache.provenance.get("weights", "pretrained")
            fitted = zero_shot_head(str(head), options, train, cache.spec, weights, join_layers(names))
        else:
            fitted = fit(head, options, train, val, on_epoch)
    with watch.phase("evaluate"):
        predicted, probabilities = _predict(fitted.estimator, val, tta)
        accuracy = judge(val.y, predicted, probabilities, val.samples.classes)
        at_half = None
        if fitted.thresholds is not None and probabilities is not None:
            at_half = evaluate_labels(val.y, probabilities, val.samples.classes)
        before = evaluate_head(fitted.untempered, val, tta) if fitted.untempered else None
        guessed = _predict(fitted.estimator, test, tta) if len(test.samples) else None
        on_test = judge(test.y, *guessed, test.samples.classes) if guessed else None
    folder = Path(out) if out is not None else None
    report = Report(
        method=f"head {fitted.name}",
        seconds=watch.seconds(),
        images=len(train.samples),
        accuracy=accuracy,
        test=on_test,
        spec_digest=cache.spec.digest(),
        seed=seed,
    )
    found = HeadFit(
        fitted.estimator,
        fitted.name,
        report,
        fitted.history,
        folder,
        fitted.selection,
        before,
        fitted.notes,
        data,
        None if fitted.thresholds is None else tuple(fitted.thresholds.tolist()),
        at_half,
    )
    if folder is not None:
        files: dict[str, bytes | None] = {
            FILE: predictions_csv(val.samples, predicted, probabilities),
            TEST: predictions_csv(test.samples, *guessed) if guessed else None,
            REPORT: as_json(found.to_dict()),
        }
        _save(found, cache, join_layers(names), folder, files, tta)
    return found


def read_splits(
    cache: str | os.PathLike[str] | FeatureCache, layer: str, check_train: bool = True
) -> tuple[Features, Features]:
    """The features of train and of val. Raises CacheError, where a split has no readable images, too."""
    cache = FeatureCache.open(cache)
    train, val = cache.features("train", layer, check=check_train), cache.features("val", layer)
    for split, features in (("train", train), ("val", val)):
        if not len(features.samples):
            raise CacheIncompleteError(f"{cache.path} has no readable {split} images")
    return train, val


def evaluate_head(estimator: BaseEstimator, features: Features, tta: int = 0) -> Accuracy | LabelAccuracy:
    """Figures of a head on the clean view, averaged with `tta` augmented ones. Raises HeadError, CacheError."""
    return judge(features.y, *_predict(estimator, features, tta), features.samples.classes)


def _predict(
    estimator: BaseEstimator, features: Features, tta: int
) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
    x, samples = features.with_views(tta).flatten().x if tta else features.lazy_view(0), features.samples
    return registry.classify(estimator, x, len(samples.classes), views=1 + tta, multilabel=samples.multilabel)


def _temperature(found: float | tuple[float, ...] | None) -> str:
    if isinstance(found, tuple):
        return f"its temperatures of {min(found):.3g} to {max(found):.3g} by label"
    return f"its temperature of {found:.3g}"


def _save(
    fit: HeadFit, cache: FeatureCache, layer: str, folder: Path, files: Mapping[str, bytes | None], tta: int
) -> None:
    file, weights = save_head(fit.estimator)
    card = ModelCard(
        kind="head",
        file=file,
        head=fit.name,
        classes=cache.samples.classes,
        spec=cache.spec,
        weights=cache.provenance.get("weights", "pretrained"),
        layer=layer,
        metrics=fit.accuracy.to_dict(),
        multilabel=cache.samples.multilabel,
        thresholds=fit.thresholds,
        tta=tta,
        engine=str(cache.provenance.get("engine", "")),
    )
    card.write(folder, weights, files)
