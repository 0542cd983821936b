"""Checks of the features alone: constant dimensions, nearly equal rows, views that are identical or unrelated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache._utils.blockwise import RunningMoments, iter_blocks
from featcache._utils.formatting import plural
from featcache.analysis.doctor.findings import Check, Issue, IssueExample
from featcache.analysis.doctor.words import IMAGE_WORDS, Words
from featcache.cache.lazy_arrays import BLOCK_BYTES, LazyRows

_MAX_CONSTANT = 0.5  # of the dimensions; good networks have 0 to 6 % that are never above zero
_MIN_SPREAD = 0.05  # of the features' length; good networks have 0.8 to 1.4, one with random weights 0.13
_MIN_RANK, _MIN_RANK_DIMS, _MIN_RANK_IMAGES = 3.0, 16, 50  # good networks have 27 or more, random weights 11
_SAME = {"fp32": 2e-3, "fp16": 1e-2, "bf16": 2e-2}  # relative rounding of storing and computing a feature
_MIN_VIEW_IMAGES = 20


class Spread(NamedTuple):
    """The variation of n rows with d dimensions.

    dead : dimensions that are always 0. constant : other constant dimensions. spread : root mean square distance from
    the mean row, divided by the length of the mean row; with several layers the root mean square over the layers.
    """

    n: int
    d: int
    dead: int
    constant: int
    spread: float


def find_non_finite(parts: Iterable[NDArray[Any] | LazyRows]) -> NDArray[np.int64]:
    """Indices of the rows with NaN or infinity in any view; parts : arrays (n_i, v, d), one below the other."""
    rows, offset = [np.empty(0, np.int64)], 0
    for part in parts:
        step = max(1, BLOCK_BYTES // (8 * part.shape[1] * part.shape[2]))
        for start in range(0, len(part), step):
            finite = np.isfinite(part[start : start + step]).all(axis=(1, 2))
            rows.append(offset + start + np.flatnonzero(~finite))
        offset += len(part)
    return np.concatenate(rows)


def measure_spread(parts: Iterable[NDArray[Any] | LazyRows], widths: Sequence[int] = ()) -> Spread:
    """The spread of finite matrices (n_i, d), one below the other, with at least one row, read in blocks.

    A dimension is constant if its range is at most two roundings of the stored dtype.

    widths : of the layers that lie side by side, if there are several.
    """
    moments, low, high, rounding = None, None, None, 0.0
    for part in parts:
        rounding = float(np.finfo(part.dtype).eps)
        for rows in iter_blocks(len(part), 8 * part.shape[1], BLOCK_BYTES):
            block = np.asarray(part[rows], np.float64)
            if moments is None or low is None or high is None:
                moments, low, high = RunningMoments(block.shape[1]), block.min(axis=0), block.max(axis=0)
            low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
            moments.update(block)
    if moments is None or low is None or high is None:
        raise AssertionError("there are no rows")
    dead = (low == 0) & (high == 0)
    constant = (high - low <= 2 * rounding * np.maximum(np.abs(low), np.abs(high))) & ~dead
    starts = np.cumsum([0, *widths[:-1]])
    lengths = np.maximum(np.add.reduceat(moments.mean**2, starts), np.finfo(float).tiny)
    relative = np.add.reduceat(moments.squares / moments.n, starts) / lengths
    return Spread(moments.n, len(low), int(dead.sum()), int(constant.sum()), float(np.sqrt(relative.mean())))


def effective_rank(x: NDArray[np.floating[Any]], groups: NDArray[np.int64]) -> float:
    """Participation ratio of the directions of the rows of x (n, d) from the median of their group.

    It is (sum of the covariance's eigenvalues)^2 / (sum of their squares), about the number of dimensions that the
    rows fill. Directions are used because a single row may be far away.
    """
    x = np.array(x, np.float64)
    for group in np.unique(groups):
        x[groups == group] -= np.median(x[groups == group], axis=0)
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    x /= np.where(lengths > 0, lengths, 1)
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
    total = float((gram**2).sum())
    return float(np.trace(gram)) ** 2 / total if total > 0 else 0.0


def non_finite_check(images: tuple[IssueExample, ...], words: Words = IMAGE_WORDS) -> Check:
    """The check of a cache with features that are NaN or infinite; no other check can run."""
    have = "has" if len(images) == 1 else "have"
    what = f"{plural(len(images), words.sample)} {have} NaN or infinite features in at least one view"
    remedy = f"Extract with --precision fp32 --dtype float32, and check these {words.samples}."
    return Check("values", what, (Issue("not finite", "error", what, remedy, images),))


def check_values(spread: Spread, rank: float, words: Words = IMAGE_WORDS) -> Check:
    """Whether the features are informative: not constant, and not nearly equal."""
    issues = []
    constant, d = (spread.dead + spread.constant) / max(1, spread.d), spread.d
    counts = f"{spread.dead} of {d} dimensions are always 0, {spread.constant} have another constant value"
    if spread.n > 1 and constant > _MAX_CONSTANT:
        remedy = f"The network hardly responds to the {words.samples}: check {words.settings}."
        issues.append(Issue("dead dimensions", "error", counts, remedy))
    elif spread.n > 1 and constant:
        remedy = f"Harmless if there are few: {words.samples} of another kind may use these dimensions."
        issues.append(Issue("dead dimensions", "note", counts, remedy))
    if spread.n > 1 and spread.spread < _MIN_SPREAD:
        what = f"all features are nearly equal: they differ by {spread.spread:.2%} of their length"
        remedy = f"All {words.samples} look the same to the network: check {words.settings}."
        issues.append(Issue("collapse", "error", what, remedy))
    elif d >= _MIN_RANK_DIMS and spread.n >= _MIN_RANK_IMAGES and rank < _MIN_RANK:
        what = f"the features of a class only vary along about {rank:.1f} of {d} directions"
        remedy = (
            f"The network distinguishes the {words.samples} of a class by one property alone: check {words.settings}."
        )
        issues.append(Issue("collapse", "error", what, remedy))
    varies = f"features differ by {spread.spread:.0%} of their length, within a class along {rank:.0f} directions"
    return Check("values", f"{counts}; {varies}", tuple(issues))


class ViewStatistics(NamedTuple):
    """How augmented views compare with the clean views.

    same : fraction of the views that equal the clean view. nearer_to_own : mean fraction of the other images that a
    view is farther from than from its own image; 0.5 if views are unrelated to their image.
    """

    same: float
    nearer_to_own: float


def compare_views(x: NDArray[Any], precision: str = "fp32") -> ViewStatistics:
    """Statistics of images with their views, x (n, v, d), v and n at least 2."""
    x = np.asarray(x, np.float32)
    clean, views = x[:, 0], x[:, 1:]
    lengths = np.maximum(np.linalg.norm(clean, axis=1), np.finfo(np.float32).tiny)
    same = np.linalg.norm(views - clean[:, None], axis=2) <= _SAME.get(precision, 2e-3) * lengths[:, None]
    mean = clean.mean(axis=0)
    directions = _directions(clean - mean)
    fractions = []
    for view in range(views.shape[1]):
        cosine = _directions(views[:, view] - mean) @ directions.T
        nearer = (cosine < np.diag(cosine)[:, None]).sum(axis=1) / (len(x) - 1)
        fractions.append(float(nearer.mean()))
    return ViewStatistics(float(same.mean()), float(np.mean(fractions)))


def check_views(statistics: ViewStatistics, images: int, views: int, augment: str, words: Words = IMAGE_WORDS) -> Check:
    """Whether the augmentation changes the images, and still shows them."""
    issues = []
    equal = (
        f"{statistics.same:.0%} of the augmented views ({views} of each of {plural(images, words.sample)}) equal the "
        "clean view"
    )
    if statistics.same > 0.25 and augment == "none":
        remedy = f"Extract with --views 0, which gives the same features, or with --augment {words.mild_recipe}."
        issues.append(Issue("identical views", "note", f"{equal}, because of --augment none", remedy))
    elif statistics.same > 0.25:
        other = f"use --augment {words.recipe}, or --views 0" if words.recipe else "use --views 0"
        remedy = f"The augmentation ({augment}) does not change these {words.samples}: {other}."
        issues.append(Issue("identical views", "error" if statistics.same > 0.99 else "warning", equal, remedy))
    nearer = f"a view is closer to its own {words.sample} than to {statistics.nearer_to_own:.0%} of the others"
    if images >= _MIN_VIEW_IMAGES and statistics.nearer_to_own < 0.6:
        remedy = (
            "Train on the clean views (--use-views clean), and extract with a milder --augment, such as "
            f"{words.mild_recipe}."
        )
        what = f"{nearer} (50 % is chance): the views do not show their {words.sample}"
        issues.append(Issue("unrelated views", "warning", what, remedy))
    return Check("views", f"{equal}; {nearer}", tuple(issues))


def _directions(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float32).tiny), np.float32)
