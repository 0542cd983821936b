"""`forecast`: predict from the cache alone whether fine-tuning is worth it, by a simple rule with a known record.

The rule was fixed before it was tested (benchmarks/forecast.py); nothing in it was fitted to the results. It is not
better than always answering "no", and `RECORD` states this in every forecast.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from featcache._utils.deprecation import renamed_fields
from featcache._utils.formatting import plural, text_table
from featcache._utils.progress_bar import ProgressOption, as_callback
from featcache._utils.results import NotebookResult, Result
from featcache.analysis.curves import draw, label_curve
from featcache.analysis.forecast.transferability import chance_purity, h_score, log_me, purity
from featcache.cache.feature_cache import FeatureCache
from featcache.core.specs import PENULTIMATE
from featcache.errors import HeadError
from featcache.heads.fit import fit
from featcache.heads.layer_scaling import standardize_layers
from featcache.heads.predict import evaluate_head
from featcache.heads.training_data import FitOptions, TrainingData
from featcache.metrics.significance import wilson_interval

ASSUMED_FIXABLE_SHARE = 1 / 3
"""Fraction of the head's errors that fine-tuning fixes at best. An assumption, not a measurement."""

MIN_FIXED = 6
"""Images: McNemar's exact test calls a gain of five or fewer noise (p >= 0.05), even without new errors."""

MIN_GAIN = 0.01
"""Accuracy: a gain of less than a point is not worth hours."""

MIN_FIT = 1 / 2
"""Of the way from chance to pure neighbourhoods; below it most neighbours have another class."""

UNDERFIT_SHARE = 1 / 2
"""Of the error on val: more labels bring the errors on val and train together, in the middle of the two or above."""

SCRATCH_IMAGES = 5000
"""Images per class that an untrained network needs (Goodfellow et al. 2016, "Deep learning", 1.2.2)."""

_FRACTIONS, _REPEATS = (0.25, 0.5), 3
_MAX_IMAGES = 5000  # for the scores: neighbours cost n^2


class Record(NamedTuple):
    """The predictions of the rule for pairs of a data set and a network, against what fine-tuning did on test images.

    said_paid : predicted to pay, and paid. said_not : predicted to pay, and did not. denied_paid, denied_not : the same
    for predicted not to pay.
    """

    said_paid: int
    said_not: int
    denied_paid: int
    denied_not: int

    @property
    def pairs(self) -> int:
        """Number of predictions."""
        return sum(self)

    @property
    def right(self) -> int:
        """Number of right predictions."""
        return self.said_paid + self.denied_not

    def __str__(self) -> str:
        paid = self.said_paid + self.denied_paid
        constant = max(paid, self.pairs - paid)
        answer = "yes" if paid > self.pairs - paid else "no"
        compared = (
            f'better than always answering "{answer}", which is right for {constant}'
            if self.right > constant
            else f'not better than always answering "{answer}", which is right for {constant}; `benchmark` decides'
        )
        return (
            f"The rule was right for {self.right} of {self.pairs} pairs of a data set and a network: its yes was right "
            f"{self.said_paid} of {self.said_paid + self.said_not} times, its no {self.denied_not} of "
            f"{self.denied_paid + self.denied_not} times. It is {compared}."
        )


RECORD = Record(said_paid=4, said_not=5, denied_paid=2, denied_not=10)
"""From benchmarks/results/forecast.json."""

TERMS = (
    "The record was measured at 96 pixels with 2 augmented views, with 240 training images for most pairs (60 to 900), "
    "against the better of two fine-tunings of 8 epochs on val, with one seed. Fine-tuning paid if it gained at least "
    "one point on test images with p < 0.05"
)
"""The conditions of the record."""


@renamed_fields(doubling="gain_from_doubling", room="headroom")
@dataclass(frozen=True, repr=False)
class Forecast(Result, NotebookResult):
    """What `forecast` returns. `str()` is a table with the prediction.

    Attributes
    ----------
    n, errors : int
        Val images, and how many of them the linear head predicts wrongly.
    majority : float
        Fraction of the most frequent class of val.
    train_accuracy : float
        Of the head on its training images.
    cv_accuracy : float
        Cross-validated within train.
    images, fewest : int
        Training images in all, and of the class that has fewest.
    curve : tuple of (int, float)
        Training images and val accuracy.
    gain_from_doubling : float
        Accuracy that twice the labels would add, extrapolated from the curve.
    purity, chance, h_score, log_me : float
        Scores of the training features; see `featcache.analysis.forecast.transferability`.
    pretrained : bool
        Whether the network has trained weights.
    seconds : float
        Time of the forecast.
    """

    n: int
    errors: int
    majority: float
    train_accuracy: float
    cv_accuracy: float
    images: int
    fewest: int
    curve: tuple[tuple[int, float], ...]
    gain_from_doubling: float
    purity: float
    chance: float
    h_score: float
    log_me: float
    pretrained: bool
    seconds: float

    @property
    def accuracy(self) -> float:
        """Accuracy of the head on val."""
        return 1 - self.errors / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the accuracy."""
        return wilson_interval(self.n - self.errors, self.n)

    @property
    def headroom(self) -> float:
        """Error rate of the head on val: the most that fine-tuning can gain."""
        return self.errors / self.n

    @property
    def gap(self) -> float:
        """Accuracy on train minus accuracy on val."""
        return self.train_accuracy - self.accuracy

    @property
    def fit(self) -> float:
        """How far the neighbourhoods are from chance (0) to pure (1)."""
        return (self.purity - self.chance) / (1 - self.chance)

    @property
    def pays(self) -> bool:
        """The prediction."""
        return self._predict()[0]

    @property
    def reason(self) -> str:
        """The reason for the prediction."""
        return self._predict()[1]

    def _predict(self) -> tuple[bool, str]:
        """The first case of the rule that applies."""
        fixed = ASSUMED_FIXABLE_SHARE * self.errors
        if fixed < MIN_FIXED:
            return False, (
                f"the headroom is too small: the head predicts {self.errors} of {plural(self.n, 'val image')} wrongly. "
                f"Fine-tuning is assumed to fix a third of them at best ({fixed:.1f}), and a gain of fewer than "
                f"{MIN_FIXED} images is not distinguishable from chance"
            )
        if ASSUMED_FIXABLE_SHARE * self.headroom < MIN_GAIN:
            return False, (
                f"the headroom is too small: the head predicts {self.headroom:.2%} of val wrongly. Fine-tuning is "
                f"assumed to fix a third of that at best, which is less than {100 * MIN_GAIN:.0f} point of accuracy "
                "and not worth hours"
            )
        if not self.pretrained and self.fewest < SCRATCH_IMAGES:
            return False, (
                "the network has random weights, so this would be training from scratch, which needs about "
                f"{SCRATCH_IMAGES:,} images per class; there are {self.fewest}. Use pretrained weights"
            )
        if self.interval[0] <= self.majority:
            return False, (
                f"the features do not separate the classes: the head's accuracy of {self.accuracy:.1%} is not "
                f"distinguishable from always predicting the most frequent class ({self.majority:.1%}), and "
                "fine-tuning starts from these features. Check that the labels are right and visible in the images, "
                "or use another network"
            )
        if self.fit < MIN_FIT:
            return True, (
                f"there is headroom, and the features do not fit the task: the neighbourhoods are {self.fit:.0%} of "
                f"the way from chance to pure, less than {MIN_FIT:.0%}"
            )
        train_error = 1 - self.train_accuracy
        if train_error >= UNDERFIT_SHARE * self.headroom:
            return True, (
                f"there is headroom that more labels would not use: the head predicts {train_error:.1%} of its own "
                f"training images wrongly, at least half of the {self.headroom:.1%} on val, so the features lack "
                "information"
            )
        return False, (
            f"the features fit, and the head lacks labels: it predicts {train_error:.1%} of train and "
            f"{self.headroom:.1%} of val wrongly. Label more images first: twice as many add about "
            f"{100 * self.gain_from_doubling:+.1f} points"
        )

    def __str__(self) -> str:
        low, high = self.interval
        points = ", ".join(f"{accuracy:.4f} with {images}" for images, accuracy in self.curve)
        rows = [
            ["accuracy", f"{self.accuracy:.4f}", f"of the linear head on val (95 % interval {low:.4f} to {high:.4f}, "
             f"n = {self.n}); {self.cv_accuracy:.4f} cross-validated within train"],
            ["headroom", f"{self.headroom:.4f}", f"{plural(self.errors, 'error')}: the most that fine-tuning can gain"],
            ["gap", f"{self.gap:.4f}", f"{self.train_accuracy:.4f} on train: large if labels are few, small if the "
             "features lack information"],
            ["labels", f"{self.gain_from_doubling:+.4f}", f"from twice the labels, extrapolated from {points}"],
            ["purity", f"{self.purity:.4f}", f"of the ten nearest neighbours have the image's class; "
             f"{self.chance:.4f} by chance"],
            ["H-score", f"{self.h_score:.4f}", "variance that the classes explain; compares networks on the same data"],
            ["LogME", f"{self.log_me:.4f}", "evidence of a linear model in nats per image; compares networks likewise"],
        ]  # fmt: skip
        answer = f"The rule predicts that fine-tuning {'pays' if self.pays else 'does not pay'}: {self.reason}."
        record = f"{RECORD} {TERMS} (benchmarks/results/forecast.md)."
        return "\n".join([*text_table(rows, "<><"), answer, record, f"{self.seconds:.1f} s"])

    def _json_fields(self) -> dict[str, Any]:
        low, high = self.interval
        fields = super()._json_fields()
        return {
            "pays": self.pays,
            "reason": self.reason,
            "accuracy": self.accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "room": self.headroom,
            "gap": self.gap,
            "fit": self.fit,
            "doubling": fields.pop("gain_from_doubling"),
            **fields,
            "seconds": {"wall": self.seconds},
            "record": {**RECORD._asdict(), "pairs": RECORD.pairs, "right": RECORD.right, "terms": TERMS},
        }


def forecast(
    cache: str | os.PathLike[str] | FeatureCache,
    *,
    layer: str = PENULTIMATE,
    seed: int = 0,
    progress: ProgressOption = None,
) -> Forecast:
    """Predict whether fine-tuning is worth it from the features of train and val, without running the network.

    Parameters
    ----------
    cache : path or FeatureCache
        A cache with train and val images that have one label each.
    layer : str, default "penultimate"
        One layer, or several, which are scaled to equal influence; see `featcache.core.layer_names`.
    seed : int, default 0
        Seed of the folds, and of the draws of labels.
    progress : callable, bool or None
        Called as progress("forecast", done, 3) after each step. True shows a bar.

    Returns
    -------
    Forecast
        The measurements, and the prediction `pays` with its `reason`.

    Raises
    ------
    CacheError
        The cache cannot be read, or lacks train or val images.
    HeadError
        Images have several labels, all images have one class, or there are too few images to tune a head.

    Examples
    --------
    >>> import numpy as np
    >>> import featcache
    >>> y = np.arange(200) % 2
    >>> x = np.random.default_rng(0).normal(size=(200, 8)) + 3 * y[:, None]
    >>> forecast = featcache.forecast(featcache.FeatureCache.from_arrays(x, y))
    >>> forecast.errors, forecast.pays
    (0, False)
    """
    report = as_callback(progress) or (lambda *_: None)
    started = time.perf_counter()
    cache = FeatureCache.open(cache)
    if cache.samples.multilabel:
        raise HeadError(f"a forecast needs images with one label; those of {cache.path} can have several")
    fit_data = TrainingData.read(cache, layer)
    train, val = fit_data.train, fit_data.val
    fitted = fit("linear", fit_data, FitOptions(seed=seed))
    if fitted.selection is None:
        raise AssertionError("a head without settings is tuned")
    on_train, on_val = evaluate_head(fitted.estimator, train), evaluate_head(fitted.estimator, val)
    report("forecast", 1, 3)
    points = label_curve(cache, shares=_FRACTIONS, repeats=_REPEATS, layer=layer, seed=seed).points
    curve = (*((point.images, point.accuracy) for point in points if point.images < len(train.y)),
             (len(train.y), on_val.accuracy))  # fmt: skip
    report("forecast", 2, 3)
    scored = train.take(draw(train, min(1.0, _MAX_IMAGES / len(train.y)), seed))
    if scored.concatenated is not None:
        scored = scored.scaled(standardize_layers(train))
    x, y = np.asarray(scored.lazy_view(0), np.float32), scored.y
    result = Forecast(
        n=len(val.y),
        errors=round((1 - on_val.accuracy) * len(val.y)),
        majority=float(np.bincount(val.y).max() / len(val.y)),
        train_accuracy=on_train.accuracy,
        cv_accuracy=fitted.selection.chosen.accuracy.accuracy,
        images=len(train.y),
        fewest=int(np.unique(train.y, return_counts=True)[1].min()),
        curve=curve,
        gain_from_doubling=gain_by_doubling(curve, len(val.y)),
        purity=purity(x, y, scored.samples.split_keys),
        chance=chance_purity(y),
        h_score=h_score(x, y),
        log_me=log_me(x, y),
        pretrained=cache.provenance.get("weights") != "none",
        seconds=time.perf_counter() - started,
    )
    report("forecast", 3, 3)
    return result


def gain_by_doubling(curve: tuple[tuple[int, float], ...], n: int) -> float:
    """The accuracy that twice the labels would add at the end of a curve, if its errors follow a power law.

    Hestness et al. 2017, "Deep learning scaling is predictable, empirically" (arXiv 1712.00409), found power laws. The
    gain is at least 0, and 0 for a single point.

    curve : training images, ascending, and accuracy. n : val images; an error of 0 counts as half an image.
    """
    if len(curve) < 2:
        return 0.0
    images, accuracy = np.array(curve, float).T
    power = np.polyfit(np.log2(images), np.log2(np.maximum(1 - accuracy, 0.5 / n)), 1)[0]
    return float((1 - accuracy[-1]) * (1 - 2 ** min(float(power), 0.0)))
