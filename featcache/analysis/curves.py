"""`curve`: accuracy and fitting time of a head against the number of labels, or of views, in one cache."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import hypot, sqrt
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache._utils.formatting import brief, plural, text_table
from featcache._utils.progress_bar import ProgressOption, as_callback
from featcache._utils.regular_files import is_number
from featcache._utils.results import NotebookResult, Result
from featcache.analysis.curve_head import choose_head
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.features import Features
from featcache.core.rng import content_order, content_words
from featcache.core.samples import strata
from featcache.errors import HeadError
from featcache.heads.fit import fit
from featcache.heads.predict import evaluate_head
from featcache.heads.registry import find_head
from featcache.heads.training_data import FitOptions, TrainingData
from featcache.metrics.significance import wilson_interval

FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
_MAX_COUNT = 1e15  # of images, views or seconds in a file
_MIN_IMAGES = 2  # per class: one to train on, one to select the regularization by
_TAIL = 4  # the gain from more labels is extrapolated from the points with at least a quarter of the images
_UNDERFIT = 1 / 2  # of the error on val: an error on train of more than this
_NOISE = 2  # standard errors
_TYPICAL_ERROR = "the typical error of this figure is 1.8 points"  # the median of 21 pairs, benchmarks/label_curve.py


class Point(NamedTuple):
    """A point of a curve: the median of its repeats.

    Attributes
    ----------
    share : float
        Fraction of the labels, as drawn.
    images : int
        Training images.
    views : int
        Augmented views of each of them (K).
    accuracies : tuple of float
        Val accuracy of each repeat.
    seconds : float
        Median time to tune and fit one head.
    interval : tuple of float
        95 % Wilson interval of the median accuracy.
    train_accuracies : tuple of float
        Accuracy of each repeat on the clean views of its own training images. Empty if the head is not linear: the
        neighbours that knn finds of a training image include this image.
    """

    share: float
    images: int
    views: int
    accuracies: tuple[float, ...]
    seconds: float
    interval: tuple[float, float]
    train_accuracies: tuple[float, ...] = ()

    @property
    def accuracy(self) -> float:
        """The median accuracy."""
        return float(np.median(self.accuracies))

    @property
    def train_accuracy(self) -> float | None:
        """The median accuracy on train, if it was measured."""
        return float(np.median(self.train_accuracies)) if self.train_accuracies else None


@dataclass(frozen=True, repr=False)
class Curve(Result, NotebookResult):
    """What `curve` returns. `str()` is a table.

    Attributes
    ----------
    over : "labels" or "views"
        What grows along the curve.
    head : str
        The name of the head.
    points : tuple of Point
    n : int
        Val images. With several labels per image an image counts as right if all its labels are right.
    layers : tuple of str
        The layers that it was fitted to. Empty in files of older versions.
    note : str
        How head and layers were chosen; "" if they were named.
    """

    over: Literal["labels", "views"]
    head: str
    points: tuple[Point, ...]
    n: int
    layers: tuple[str, ...] = ()
    note: str = ""

    @property
    def gain_from_doubling(self) -> float | None:
        """The val accuracy that twice the labels would add to the last point. None if the curve cannot tell.

        The errors of the points with at least a quarter of the images are extrapolated as a power of the number of
        images; power laws were found by Hestness et al. 2017, "Deep learning scaling is predictable, empirically"
        (arXiv 1712.00409). The gain is at least 0.
        """
        most = max((point.images for point in self.points), default=0)
        tail = sorted((point.images, point.accuracy) for point in self.points if _TAIL * point.images >= most)
        if self.over != "labels" or len({images for images, _ in tail}) < 2:
            return None
        return gain_from_doubling(tail, self.n)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a curve over labels tells about more labels, in sentences.

        The error on train is compared with half of that on val. Nothing is said if they differ by less than two
        standard errors.
        """
        if self.over != "labels" or not self.points:
            return ()
        remarks, gain, last = [], self.gain_from_doubling, max(self.points, key=lambda point: point.images)
        if gain is not None:
            assumed = "if errors continue to fall as a power of the number of samples"
            remarks.append(f"Twice the labels would add about {100 * gain:.1f} points, {assumed}; {_TYPICAL_ERROR}.")
        error, train_error = 1 - last.accuracy, 1 - (last.train_accuracy or 0.0)
        excess = train_error - _UNDERFIT * error
        noise = hypot(_standard_error(train_error, last.images), _UNDERFIT * _standard_error(error, self.n))
        if last.train_accuracy is not None and abs(excess) > _NOISE * noise:
            wrong = f"the head predicts {train_error:.1%} of train and {error:.1%} of val wrongly"
            reading = (
                "it underfits: other layers or another network may help more than labels"
                if excess > 0
                else "it fits train much better than val, as with too few labels"
            )
            remarks.append(f"With {plural(last.images, 'sample')}, {wrong}: {reading}.")
        return tuple(remarks)

    def __str__(self) -> str:
        lines = [["labels", "samples", "views", "accuracy", "lowest", "highest", "95 % interval", "train", "seconds"]]
        for point in self.points:
            low, high = point.interval
            accuracies = (point.accuracy, min(point.accuracies), max(point.accuracies))
            counts = [f"{point.share:.0%}", f"{point.images}", f"{point.views}"]
            interval = f"{low:.4f} to {high:.4f}"
            on_train = "-" if point.train_accuracy is None else f"{point.train_accuracy:.4f}"
            figures = [f"{value:.4f}" for value in accuracies]
            lines.append([*counts, *figures, interval, on_train, f"{point.seconds:.2f}"])
        on_layers = f" on {brief(self.layers)}" if self.layers else ""
        title = f"{self.head}{on_layers}: val accuracy (n = {self.n}) against {self.over}"
        note = [self.note] if self.note else []
        return "\n".join([title, *note, *(f"  {line}" for line in text_table(lines, ">")), *self.remarks])

    def _json_fields(self) -> dict[str, Any]:
        points = [
            {**point._asdict(), "accuracy": point.accuracy, "train_accuracy": point.train_accuracy}
            for point in self.points
        ]
        return {
            "over": self.over,
            "head": self.head,
            "layers": self.layers,
            "note": self.note,
            "n": self.n,
            "points": points,
            "gain_from_doubling": self.gain_from_doubling,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Curve:
        """The reverse of `to_dict`. Raises KeyError for missing fields, TypeError for invalid values."""
        points = []
        for fields in values["points"]:
            fields = {"train_accuracies": (), **fields}  # files of older versions have none
            lists = {name: tuple(fields[name]) for name in ("accuracies", "interval", "train_accuracies")}
            points.append(Point(**{name: lists.get(name, fields[name]) for name in Point._fields}))
        layers, note = tuple(values.get("layers", ())), values.get("note", "")  # files of older versions have none
        curve = cls(values["over"], values["head"], tuple(points), values["n"], layers, note)
        texts = curve.over in ("labels", "views") and all(isinstance(text, str) for text in (curve.head, note, *layers))
        if not (texts and is_number(curve.n) and all(map(_is_valid, points))):
            raise TypeError("the values are not those of a curve")
        return curve


def _is_valid(point: Point) -> bool:
    """Whether the values of a file are a point: fractions from 0 to 1, and counts that can be drawn."""
    fractions = [point.share, *point.accuracies, *point.interval, *point.train_accuracies]
    counts = [point.images, point.views, point.seconds]
    return (
        bool(point.accuracies)
        and len(point.interval) == 2
        and all(is_number(fraction) and 0 <= fraction <= 1 for fraction in fractions)
        and all(is_number(count) and 0 <= count < _MAX_COUNT for count in counts)
        and point.images > 0
    )


def curve(
    cache: str | os.PathLike[str] | FeatureCache,
    *,
    over: Literal["labels", "views"] = "labels",
    head: str = "auto",
    fractions: Sequence[float] = FRACTIONS,
    repeats: int = 5,
    layer: str | None = None,
    seed: int = 0,
    progress: ProgressOption = None,
) -> Curve:
    """Fit a head to parts of a cache, and measure accuracy and time against the number of labels or of views.

    By default the head and its layers are those of `fit_head`: they are chosen once, on all training images, and all
    points are of them. Each point chooses its own settings, and how much each layer counts.

    Parameters
    ----------
    cache : path or FeatureCache
        A cache with train and val images.
    over : "labels" or "views", default "labels"
        What is varied. "labels": fractions of the training images, drawn `repeats` times. "views": 0, 1, 2, 4, 8, ...
        augmented views of each training image, up to all that the cache has.
    head : str, default "auto"
        A head that chooses its settings, such as "linear", "ridge", "lda", "centroid" or "knn". "auto" chooses one.
    fractions : sequence of float, default (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
        Fractions of the labels, above 0 and up to 1, in any order. Of each class at least two images are drawn;
        fractions that give the same number of images are one point. Only for a curve over labels.
    repeats : int, default 5
        Draws of each fraction. Only for a curve over labels.
    layer : str, optional
        One layer, or several; see `featcache.core.layer_names`. None: those that the head chooses in `fit_head`.
    seed : int, default 0
        Seed of the draws and of the folds.
    progress : callable, bool or None
        Called as progress(over, done, total) after each point, and before as by `fit_head` if the head or the layers
        are chosen. True shows a bar.

    Returns
    -------
    Curve
        A `Point` for each number of labels or views, ascending.

    Raises
    ------
    CacheError
        The cache cannot be read, or lacks train or val images.
    HeadError
        `over`, `head`, a fraction or `repeats` is invalid, or the head cannot be fitted.

    Examples
    --------
    >>> import numpy as np
    >>> import featcache
    >>> y = np.arange(60) % 2
    >>> x = np.random.default_rng(0).normal(size=(60, 4)) + 3 * y[:, None]
    >>> cache = featcache.FeatureCache.from_arrays(x, y)
    >>> [point.images for point in featcache.curve(cache, fractions=(0.5, 1.0)).points]
    [24, 48]
    """
    if over == "labels":
        return label_curve(
            cache, head=head, shares=fractions, repeats=repeats, layer=layer, seed=seed, progress=progress
        )
    if over == "views":
        return view_curve(cache, head=head, layer=layer, seed=seed, progress=progress)
    raise HeadError(f"a curve is over 'labels' or 'views'; got {over!r}")


def label_curve(
    cache: str | os.PathLike[str] | FeatureCache,
    *,
    head: str = "auto",
    shares: Sequence[float] = FRACTIONS,
    repeats: int = 5,
    layer: str | None = None,
    seed: int = 0,
    progress: ProgressOption = None,
) -> Curve:
    """`curve` over labels; shares : its fractions.

    The draws are stratified by class; with several labels per image, by the rarest label of an image.
    """
    progress = as_callback(progress)
    if repeats < 1:
        raise HeadError(f"repeats must be 1 or more; got {repeats}")
    head, data, note = choose_head(FeatureCache.open(cache), head, layer, seed, progress)
    train, shares = data.train, sorted(set(shares))
    points: list[Point] = []
    for done, fraction in enumerate(shares, start=1):
        if points and len(draw(train, fraction, seed)) == points[-1].images:
            continue
        draws = (draw(train, fraction, seed + repeat) for repeat in range(repeats if fraction < 1 else 1))
        points.append(_point(head, (train.take(rows) for rows in draws), data, seed))
        if progress:
            progress("labels", done, len(shares))
    return Curve("labels", head, tuple(points), len(data.val.samples), data.layers, note)


def view_curve(
    cache: str | os.PathLike[str] | FeatureCache,
    *,
    head: str = "auto",
    layer: str | None = None,
    seed: int = 0,
    progress: ProgressOption = None,
) -> Curve:
    """`curve` over views."""
    progress, cache = as_callback(progress), FeatureCache.open(cache)
    if not cache.spec.views:
        raise HeadError(
            f"{cache.path} has no augmented views, so there is no curve over them. Add some: "
            f"featcache update {cache.path} DATA --views 4"
        )
    head, data, note = choose_head(cache, head, layer, seed, progress)
    train = data.train
    counts = sorted({0, train.views, *(2**power for power in range(16) if 2**power < train.views)})
    points = []
    for done, views in enumerate(counts, start=1):
        points.append(_point(head, iter([train.with_views(views)]), data, seed))
        if progress:
            progress("views", done, len(counts))
    return Curve("views", head, tuple(points), len(data.val.samples), data.layers, note)


def draw(train: Features, fraction: float, seed: int) -> NDArray[np.int64]:
    """Rows of a fraction of each class, ascending: the first ones in an order that hashes and seed determine."""
    if not 0 < fraction <= 1:
        raise HeadError(f"a fraction of the labels must be above 0 and at most 1; got {fraction:g}")
    order = content_order(train.samples.sha256, seed, "labels")
    rows = []
    stratum = strata(train.y)
    for label in np.unique(stratum):
        members = order[stratum[order] == label]
        words = content_words(train.samples.sha256[members])
        _, first, content = np.unique(words, return_index=True, return_inverse=True)
        rank = np.empty(len(first), np.int64)  # of each distinct image in that order
        rank[np.argsort(first)] = np.arange(len(first))
        rows.append(members[rank[content] < max(_MIN_IMAGES, round(fraction * len(first)))])
    return np.sort(np.concatenate(rows))


def _point(head: str, draws: Iterator[Features], data: TrainingData, seed: int) -> Point:
    """Fit the head to each draw from the training images."""
    accuracies, train_accuracies, seconds, images, views = [], [], [], 0, 0
    for train in draws:
        started = time.perf_counter()
        estimator = fit(head, replace(data, train=train), FitOptions(seed=seed)).estimator
        seconds.append(time.perf_counter() - started)
        accuracies.append(evaluate_head(estimator, data.val).accuracy)
        if find_head(head).linear:
            train_accuracies.append(evaluate_head(estimator, train).accuracy)
        images, views = len(train.samples), train.views
    n, median = len(data.val.samples), float(np.median(accuracies))
    interval = wilson_interval(round(median * n), n)
    share, median_s = images / len(data.train.y), float(np.median(seconds))
    return Point(share, images, views, tuple(accuracies), median_s, interval, tuple(train_accuracies))


def gain_from_doubling(points: Sequence[tuple[int, float]], n: int) -> float:
    """The gain of `Curve.gain_from_doubling`.

    points : two or more pairs of images and accuracy, ascending. n : val images; an error of 0 counts as half an image.
    """
    images, accuracy = np.array(points, float).T
    power = np.polyfit(np.log2(images), np.log2(np.maximum(1 - accuracy, 0.5 / n)), 1)[0]
    return float((1 - accuracy[-1]) * (1 - 2 ** min(float(power), 0.0)))


def _standard_error(share: float, n: int) -> float:
    """Of a share of n images."""
    return sqrt(share * (1 - share) / n)
