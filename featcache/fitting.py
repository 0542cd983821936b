"""`fit_head`: from cached features to an evaluated, saved head."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sklearn.base import BaseEstimator

from featcache import heads
from featcache.cache import FeatureCache
from featcache.card import REPORT, ModelCard, prepare_folder, write_json
from featcache.errors import CacheIncompleteError, HeadError
from featcache.features import Features
from featcache.headfile import dump_head
from featcache.metrics import Accuracy, describe, evaluate
from featcache.report import Report, Stopwatch
from featcache.spec import PENULTIMATE


@dataclass(frozen=True)
class HeadFit:
    """What `fit_head` returns.

    estimator : the fitted classifier. name : of the head. history : epochs of `sgd`, else empty.
    path : where it was saved, if it was.
    """

    estimator: BaseEstimator
    name: str
    report: Report
    history: list[Any]
    path: Path | None

    @property
    def accuracy(self) -> Accuracy:
        """On val."""
        if self.report.accuracy is None:
            raise AssertionError("fit_head always evaluates")
        return self.report.accuracy

    def __str__(self) -> str:
        """What was reached, for people."""
        seconds = ", ".join(f"{phase} {value:.2f} s" for phase, value in self.report.seconds.items())
        lines = [f"head {self.name}, val:", describe(self.accuracy)]
        if self.report.test:
            lines += ["test:", describe(self.report.test)]
        return "\n".join([*lines, seconds, *([f"saved in {self.path}"] if self.path else [])])

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            **self.report.to_dict(),
            "head": self.name,
            "path": str(self.path) if self.path else None,
            "history": [vars(epoch) for epoch in self.history],
        }


def fit_head(
    cache: str | os.PathLike[str] | FeatureCache,
    out: str | os.PathLike[str] | None = None,
    *,
    head: str | BaseEstimator = "linear",
    parameters: Mapping[str, Any] | None = None,
    layer: str = PENULTIMATE,
    seed: int = 0,
    on_epoch: Callable[[Any], None] | None = None,
) -> HeadFit:
    """Train a head on the cached training views and evaluate it on the clean view of val.

    Parameters
    ----------
    out : folder to save the head in; None does not save it.
    head : "linear", "sgd", another short name of `featcache.heads.HEADS`, the dotted path of a scikit-learn
        classifier, or a classifier object.
    parameters : of the head's constructor; of the `Recipe` for "sgd".
    seed : of the order and the first weights of "sgd".
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
    name = head if isinstance(head, str) else type(head).__name__
    with watch.phase("fit"):
        estimator, history = _fit(head, dict(parameters or {}), train, val, seed, on_epoch)
    with watch.phase("evaluate"):
        accuracy = evaluate_head(estimator, val)
        on_test = evaluate_head(estimator, test) if len(test.samples) else None
    if out is not None:
        _save(estimator, name, cache, layer, accuracy, Path(out))
    report = Report(
        method=f"head {name}",
        seconds=watch.seconds(),
        images=len(train.samples),
        accuracy=accuracy,
        test=on_test,
        spec_digest=cache.spec.digest(),
        seed=seed,
    )
    fit = HeadFit(estimator, name, report, history, Path(out) if out is not None else None)
    if fit.path:
        write_json(fit.path / REPORT, fit.to_dict())
    return fit


def evaluate_head(estimator: BaseEstimator, features: Features) -> Accuracy:
    """Accuracy of a head on the clean view. Raises HeadError where it cannot predict."""
    predicted = heads.predict(estimator, features.clean())
    return evaluate(features.y, predicted, features.samples.classes)


def _fit(
    head: str | BaseEstimator,
    parameters: dict[str, Any],
    train: Features,
    val: Features,
    seed: int,
    on_epoch: Callable[[Any], None] | None,
) -> tuple[BaseEstimator, list[Any]]:
    if head == "sgd":
        from featcache.sgd import fit_sgd  # torch is imported for this head alone
        from featcache.training import Recipe

        try:
            recipe = Recipe(**{"lr": 1e-3, **parameters})
        except (TypeError, ValueError) as error:
            raise HeadError(f"sgd: {error}") from error
        return fit_sgd(train, val, recipe, seed=seed, on_epoch=on_epoch)
    if not isinstance(head, str) and parameters:
        raise HeadError("parameters are for a head given by name; set them on the classifier object itself")
    estimator = heads.make_head(head, parameters) if isinstance(head, str) else head
    heads.fit_estimator(estimator, train.flatten())
    return estimator, []


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
