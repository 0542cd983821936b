"""`forecast`: from the cache alone, whether fine-tuning will pay, by a plain rule whose record is told with it.

The rule was fixed before the table of its hits was measured (benchmarks/forecast.py); nothing in it was fitted on that.
By that table it is no better than always saying no, which `RECORD` tells whoever asks for a forecast.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from featcache._utils.notebook import NotebookResult
from featcache._utils.progress_bar import ProgressOption, as_callback
from featcache.analysis.curves import draw, label_curve
from featcache.analysis.forecast.transferability import chance_purity, h_score, log_me, purity
from featcache.cache.feature_cache import FeatureCache
from featcache.core.specs import PENULTIMATE
from featcache.errors import HeadError
from featcache.heads.fit import FitOptions, fit
from featcache.heads.fit_head import evaluate_head, read_splits
from featcache.heads.layer_scaling import standardize_layers
from featcache.metrics.significance import wilson_interval

ASSUMED_FIXABLE_SHARE = (
    1 / 3
)  # of the head's errors: what fine-tuning is taken to mend at best. An assumption, not a measurement
LEAST_MENDED = 6  # images: of five or fewer McNemar's exact test says noise (p >= 0.05), even if none is lost elsewhere
LEAST_GAIN = 0.01  # less than a point is not worth hours
LEAST_FIT = 1 / 2  # of the way from chance to pure neighbourhoods: below it most of what is near is of another class
UNDERFIT_SHARE = (
    1 / 2
)  # of the error on val: more labels bring val and train together, in the middle of the two or above
SCRATCH = 5000  # images a class that a network without weights needs (Goodfellow et al. 2016, "Deep learning", 1.2.2)

_SHARES, _REPEATS = (0.25, 0.5), 3
_MOST = 5000  # images that scores are worked out on: neighbours cost n^2


class Record(NamedTuple):
    """What the rule said of pairs of a set and a network, against what fine-tuning then did on images kept apart.

    said_paid : it said that fine-tuning will pay, and it did. said_not : it said so, and it did not. And so on.
    """

    said_paid: int
    said_not: int
    denied_paid: int
    denied_not: int

    @property
    def pairs(self) -> int:
        """All of them."""
        return sum(self)

    @property
    def right(self) -> int:
        """How often it was."""
        return self.said_paid + self.denied_not

    def __str__(self) -> str:
        paid = self.said_paid + self.denied_paid
        constant = max(paid, self.pairs - paid)
        answer = "will pay" if paid > self.pairs - paid else "will not"
        worth = "fewer than it" if self.right > constant else "so it is no better than that: weigh the figures yourself"
        return (
            f'right for {self.right} of {self.pairs} pairs of a set and a network: "will pay" was right '
            f'{self.said_paid} of {self.said_paid + self.said_not} times, "will not" {self.denied_not} of '
            f'{self.denied_paid + self.denied_not}. Always saying "{answer}" would have been right {constant} times, '
            f"{worth}"
        )


RECORD = Record(said_paid=4, said_not=5, denied_paid=2, denied_not=10)
"""Of benchmarks/results/forecast.json."""

TERMS = (
    "It was measured at 96 pixels with K = 2 views, on 240 training images for most pairs (60 to 900), against the "
    "better by val of two fine-tunings of 8 epochs each, with one seed; fine-tuning paid where it gained a point or "
    "more on test images with p < 0.05"
)
"""Of the record: they go wherever it is told."""


@dataclass(frozen=True, repr=False)
class Forecast(NotebookResult):
    """What the cache says of the linear head and its features.

    n, errors : val images, and how many of them the head gets wrong. majority : share of the most frequent class of
    val. train_accuracy : of the head on what it was trained on. cv_accuracy : cross-validated within train. images,
    fewest : training images in all, and of the class that has fewest. curve : pairs of training images and val
    accuracy. doubling : what twice the labels would bring, extrapolated. purity, chance, h_score, log_me : see
    `featcache.analysis.forecast.transferability`; of training images. pretrained : whether the network had learnt
    anything. seconds : that the forecast took.
    """

    n: int
    errors: int
    majority: float
    train_accuracy: float
    cv_accuracy: float
    images: int
    fewest: int
    curve: tuple[tuple[int, float], ...]
    doubling: float
    purity: float
    chance: float
    h_score: float
    log_me: float
    pretrained: bool
    seconds: float

    @property
    def accuracy(self) -> float:
        """Of the head on val."""
        return 1 - self.errors / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of it."""
        return wilson_interval(self.n - self.errors, self.n)

    @property
    def room(self) -> float:
        """The share of val that the head gets wrong: all that fine-tuning could gain."""
        return self.errors / self.n

    @property
    def gap(self) -> float:
        """How much better the head is on train than on val."""
        return self.train_accuracy - self.accuracy

    @property
    def fit(self) -> float:
        """How far neighbourhoods are from chance (0) to pure (1)."""
        return (self.purity - self.chance) / (1 - self.chance)

    @property
    def pays(self) -> bool:
        """The prediction."""
        return self._verdict()[0]

    @property
    def reason(self) -> str:
        """Why."""
        return self._verdict()[1]

    def _verdict(self) -> tuple[bool, str]:
        """The rule: the first case that applies."""
        mended = ASSUMED_FIXABLE_SHARE * self.errors
        if mended < LEAST_MENDED:
            return False, (
                f"there is too little room: the head gets {self.errors} of {self.n} val images wrong. Fine-tuning is "
                f"taken to mend a third of them at best, {mended:.1f}, and a gain of fewer than {LEAST_MENDED} images "
                "cannot be told from chance"
            )
        if ASSUMED_FIXABLE_SHARE * self.room < LEAST_GAIN:
            return False, (
                f"there is too little room: the head gets {self.room:.2%} of val wrong. Fine-tuning is taken to mend a "
                f"third of that at best, which is less than {100 * LEAST_GAIN:.0f} point of accuracy and not worth "
                "hours"
            )
        if not self.pretrained and self.fewest < SCRATCH:
            return False, (
                f"the network has random weights, so this would be training from scratch, which takes some {SCRATCH:,} "
                f"images a class; there are {self.fewest}. Take pretrained weights"
            )
        if self.interval[0] <= self.majority:
            return False, (
                f"the features do not carry the classes: the head's {self.accuracy:.1%} cannot be told from always "
                f"saying the most frequent class ({self.majority:.1%}), and fine-tuning starts from them. Are the "
                "labels right, and can they be seen in the pictures? Else take another network"
            )
        if self.fit < LEAST_FIT:
            return True, (
                f"there is room, and the features do not fit the task: neighbourhoods are {self.fit:.0%} of the way "
                f"from chance to pure, less than {LEAST_FIT:.0%}"
            )
        unlearnt = 1 - self.train_accuracy
        if unlearnt >= UNDERFIT_SHARE * self.room:
            return True, (
                f"there is room, and more labels would not fill it: the head gets {unlearnt:.1%} of its own training "
                f"images wrong, half of the {self.room:.1%} of val or more, so the features lack it"
            )
        return False, (
            f"the features fit, and the head is short of labels: it gets {unlearnt:.1%} of train and {self.room:.1%} "
            f"of val wrong. Label more first: twice as many bring about {100 * self.doubling:+.1f} points"
        )

    def __str__(self) -> str:
        low, high = self.interval
        steps = ", ".join(f"{accuracy:.4f} with {images}" for images, accuracy in self.curve)
        rows = [
            ("accuracy", f"{self.accuracy:.4f}", f"of the linear head on val ({low:.4f} to {high:.4f}, n = {self.n}); "
             f"{self.cv_accuracy:.4f} cross-validated within train"),
            ("room", f"{self.room:.4f}", f"{self.errors} errors: all that fine-tuning could gain"),
            ("gap", f"{self.gap:.4f}", f"{self.train_accuracy:.4f} on train: large where labels are short, small where "
             "the features lack something"),
            ("labels", f"{self.doubling:+.4f}", f"from twice the labels, extrapolated from {steps}"),
            ("purity", f"{self.purity:.4f}", f"of the nearest ten share an image's class; {self.chance:.4f} by chance"),
            ("H-score", f"{self.h_score:.4f}", "variance that the classes explain: ranks networks on this set alone"),
            ("LogME", f"{self.log_me:.4f}", "evidence of a linear model, nats an image: ranks networks likewise"),
        ]  # fmt: skip
        lines = [f"{name:9} {value:>8}  {told}" for name, value, told in rows]
        lines.append(f"By the rule fine-tuning will {'' if self.pays else 'not '}pay: {self.reason}.")
        return "\n".join(
            [*lines, f"This rule was {RECORD}. {TERMS} (benchmarks/results/forecast.md).", f"{self.seconds:.1f} s"]
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        low, high = self.interval
        return {
            "pays": self.pays,
            "reason": self.reason,
            "accuracy": self.accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "room": self.room,
            "gap": self.gap,
            "fit": self.fit,
            **asdict(self),
            "seconds": {"wall": self.seconds},
            "curve": [list(point) for point in self.curve],
            "record": {**RECORD._asdict(), "pairs": RECORD.pairs, "right": RECORD.right, "terms": TERMS},
        }


def forecast(
    cache: str | os.PathLike[str] | FeatureCache,
    *,
    layer: str = PENULTIMATE,
    seed: int = 0,
    progress: ProgressOption = None,
) -> Forecast:
    """Whether fine-tuning will pay, from the features of train and val and no pass of the network.

    Parameters
    ----------
    layer : one, or several, which are made equally wide, as for heads; see `featcache.core.layer_names`.
    seed : of the folds, and of the parts of the labels that are drawn.

    Raises
    ------
    CacheError; HeadError : several labels an image, one class, or too few images to tune a head by.
    """
    progress = as_callback(progress)
    started = time.perf_counter()
    if not isinstance(cache, FeatureCache):
        cache = FeatureCache.open(cache)
    if cache.samples.multilabel:
        raise HeadError(f"a forecast is of images with one label, and those of {cache.path} can have several")
    train, val = read_splits(cache, layer)
    say = progress or (lambda *_: None)
    fitted = fit("linear", FitOptions(seed=seed), train, val)
    if fitted.selection is None:
        raise AssertionError("a head without settings of its own is tuned")
    on_train, on_val = evaluate_head(fitted.estimator, train), evaluate_head(fitted.estimator, val)
    say("forecast", 1, 3)
    parts = label_curve(cache, shares=_SHARES, repeats=_REPEATS, layer=layer, seed=seed).points
    curve = (*((part.images, part.accuracy) for part in parts if part.images < len(train.y)),
             (len(train.y), on_val.accuracy))  # fmt: skip
    say("forecast", 2, 3)
    some = train.take(draw(train, min(1.0, _MOST / len(train.y)), seed))
    if some.joined is not None:
        some = some.scaled(standardize_layers(train, keep_still=False))
    x, y = np.asarray(some.lazy_view(0), np.float32), some.y
    found = Forecast(
        n=len(val.y),
        errors=round((1 - on_val.accuracy) * len(val.y)),
        majority=float(np.bincount(val.y).max() / len(val.y)),
        train_accuracy=on_train.accuracy,
        cv_accuracy=fitted.selection.chosen.accuracy.accuracy,
        images=len(train.y),
        fewest=int(np.unique(train.y, return_counts=True)[1].min()),
        curve=curve,
        doubling=gain_by_doubling(curve, len(val.y)),
        purity=purity(x, y, some.samples.split_keys),
        chance=chance_purity(y),
        h_score=h_score(x, y),
        log_me=log_me(x, y),
        pretrained=cache.provenance.get("weights") != "none",
        seconds=time.perf_counter() - started,
    )
    say("forecast", 3, 3)
    return found


def gain_by_doubling(curve: tuple[tuple[int, float], ...], n: int) -> float:
    """What twice the labels would add to the accuracy at the end of a curve, where its errors fall as a power of them.

    As Hestness et al. 2017 found them to, "Deep learning scaling is predictable, empirically" (arXiv 1712.00409). Never
    below 0; of a single point it is 0.

    Parameters
    ----------
    curve : pairs of training images, ascending, and accuracy. n : val images; an error of 0 is taken for half an image.
    """
    if len(curve) < 2:
        return 0.0
    images, accuracy = np.array(curve, float).T
    power = np.polyfit(np.log2(images), np.log2(np.maximum(1 - accuracy, 0.5 / n)), 1)[0]
    return float((1 - accuracy[-1]) * (1 - 2 ** min(float(power), 0.0)))
