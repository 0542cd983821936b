"""What more labels, or more views, would bring: accuracy and seconds of heads on parts of one cache."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache._utils.notebook import NotebookResult
from featcache._utils.progress_bar import ProgressOption, as_callback
from featcache._utils.regular_files import is_number
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.features import Features
from featcache.core.rng import content_order, content_words
from featcache.core.samples import strata
from featcache.core.specs import PENULTIMATE
from featcache.errors import HeadError
from featcache.heads.fit import FitOptions, fit
from featcache.heads.fit_head import evaluate_head, read_splits
from featcache.heads.tuning.families import TUNED_HEADS
from featcache.metrics.significance import wilson_interval

SHARES = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
_MOST = 1e15  # of images, views or seconds
_LEAST = 2  # images of a class: one to train on, one to choose the strength by


class Point(NamedTuple):
    """One place on a curve: the median of its repeats.

    share : of the labels, as drawn. images : trained on. views : K. accuracies : on val, one a repeat. seconds : to
    tune and fit one head, median. interval : 95 % Wilson interval of the median accuracy.
    """

    share: float
    images: int
    views: int
    accuracies: tuple[float, ...]
    seconds: float
    interval: tuple[float, float]

    @property
    def accuracy(self) -> float:
        """The median."""
        return float(np.median(self.accuracies))


@dataclass(frozen=True, repr=False)
class Curve(NotebookResult):
    """Val accuracy of one head against "labels" or "views"; of several labels an image, that all of them are right.

    n : val images.
    """

    over: Literal["labels", "views"]
    head: str
    points: tuple[Point, ...]
    n: int

    def __str__(self) -> str:
        lines = [
            f"{self.head}, val accuracy (n = {self.n}) against {self.over}",
            "  labels  images  views  accuracy  lowest  highest  95 % interval     seconds",
        ]
        for point in self.points:
            low, high = point.interval
            lines.append(
                f"  {point.share:5.0%}  {point.images:7}  {point.views:5}  {point.accuracy:8.4f}  "
                f"{min(point.accuracies):.4f}  {max(point.accuracies):.4f}   {low:.4f} to {high:.4f}  "
                f"{point.seconds:.2f}"
            )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        points = [{**point._asdict(), "accuracy": point.accuracy} for point in self.points]
        return {"over": self.over, "head": self.head, "n": self.n, "points": points}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Curve:
        """The reverse of `to_dict`. Raises KeyError, TypeError for other fields, and for other values."""
        points = []
        for fields in found["points"]:
            lists = {name: tuple(fields[name]) for name in ("accuracies", "interval")}
            points.append(Point(**{name: lists.get(name, fields[name]) for name in Point._fields}))
        curve = cls(found["over"], found["head"], tuple(points), found["n"])
        texts = curve.over in ("labels", "views") and isinstance(curve.head, str)
        if not (texts and is_number(curve.n) and all(map(_is_sound, points))):
            raise TypeError("its points are none")
        return curve


def _is_sound(point: Point) -> bool:
    """Whether what was read is a point: shares are from 0 to 1, all else is a number that can be drawn."""
    shares = [point.share, *point.accuracies, *point.interval]
    counts = [point.images, point.views, point.seconds]
    return (
        bool(point.accuracies)
        and len(point.interval) == 2
        and all(is_number(share) and 0 <= share <= 1 for share in shares)
        and all(is_number(count) and 0 <= count < _MOST for count in counts)
        and point.images > 0
    )


def label_curve(
    cache: str | os.PathLike[str] | FeatureCache,
    *,
    head: str = "linear",
    shares: Sequence[float] = SHARES,
    repeats: int = 5,
    layer: str = PENULTIMATE,
    seed: int = 0,
    progress: ProgressOption = None,
) -> Curve:
    """Fit the head to shares of the training labels, `repeats` times each with others drawn, and judge it on val.

    Of each class (with several labels, of images of which it is the rarest) at least two images are drawn, where it has
    them; shares that come to the same number of images are one point.

    Parameters
    ----------
    head : one of `featcache.heads.tuning.families.TUNED_HEADS`.

    Raises
    ------
    CacheError, HeadError
    """
    progress = as_callback(progress)
    if repeats < 1:
        raise HeadError(f"a curve takes one repeat or more; got {repeats}")
    train, val = read_splits(cache, layer)
    points: list[Point] = []
    for place, share in enumerate(shares):
        if points and len(draw(train, share, seed)) == points[-1].images:
            continue
        drawn = (draw(train, share, seed + repeat) for repeat in range(repeats if share < 1 else 1))
        points.append(_point(head, (train.take(rows) for rows in drawn), val, len(train.y), seed))
        if progress:
            progress("labels", place + 1, len(shares))
    return Curve("labels", head, tuple(points), len(val.samples))


def view_curve(
    cache: str | os.PathLike[str] | FeatureCache,
    *,
    head: str = "linear",
    layer: str = PENULTIMATE,
    seed: int = 0,
    progress: ProgressOption = None,
) -> Curve:
    """Fit the head with 0, 1, 2, 4, 8, ... augmented views of each training image, up to all, and judge it on val.

    Raises
    ------
    CacheError, HeadError
    """
    progress = as_callback(progress)
    train, val = read_splits(cache, layer)
    counts = sorted({0, train.views, *(2**power for power in range(16) if 2**power < train.views)})
    points = []
    for place, views in enumerate(counts):
        points.append(_point(head, iter([train.first(views)]), val, len(train.y), seed))
        if progress:
            progress("views", place + 1, len(counts))
    return Curve("views", head, tuple(points), len(val.samples))


def draw(train: Features, share: float, seed: int) -> NDArray[np.int64]:
    """Rows of a share of each class, ascending: those that come first in an order drawn by content."""
    if not 0 < share <= 1:
        raise HeadError(f"a share of the labels lies above 0 and up to 1; got {share:g}")
    order = content_order(train.samples.sha256, seed, "labels")
    rows = []
    stratum = strata(train.y)
    for label in np.unique(stratum):
        members = order[stratum[order] == label]
        words = content_words(train.samples.sha256[members])
        _, first, content = np.unique(words, return_index=True, return_inverse=True)
        place = np.empty(len(first), np.int64)  # of each distinct image in that order
        place[np.argsort(first)] = np.arange(len(first))
        rows.append(members[place[content] < max(_LEAST, round(share * len(first)))])
    return np.sort(np.concatenate(rows))


def _point(head: str, draws: Iterator[Features], val: Features, labels: int, seed: int) -> Point:
    """labels : training images in all."""
    if head not in TUNED_HEADS:
        raise HeadError(f"a curve is of one of {', '.join(TUNED_HEADS)}; got {head}")
    accuracies, seconds, images, views = [], [], 0, 0
    for train in draws:
        started = time.perf_counter()
        estimator = fit(head, FitOptions(seed=seed), train, val).estimator
        seconds.append(time.perf_counter() - started)
        accuracies.append(evaluate_head(estimator, val).accuracy)
        images, views = len(train.samples), train.views
    n, median = len(val.samples), float(np.median(accuracies))
    interval = wilson_interval(round(median * n), n)
    return Point(images / labels, images, views, tuple(accuracies), float(np.median(seconds)), interval)
