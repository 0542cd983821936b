"""What is wrong with features as such: values that say nothing, one direction for all, views that do not differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache._utils.blockwise import RunningMoments, iter_blocks
from featcache.analysis.doctor.findings import Check, Issue, IssueExample
from featcache.cache.lazy_arrays import BLOCK_BYTES, LazyRows

_MOST_IDLE = 0.5  # of the dimensions; a sound network has 0 to 6 % that are never above zero
_LEAST_SPREAD = 0.05  # of the features' length; sound networks have 0.8 to 1.4, one of random weights 0.13
_LEAST_RANK, _WIDE, _MANY = 3.0, 16, 50  # sound networks have 27 and more within the classes, random weights 11
_SAME = {"fp32": 2e-3, "fp16": 1e-2, "bf16": 2e-2}  # of a feature's length: storage, and what computing rounds
_FEW_VIEWS = 20
_PREPROCESSING = "the spec's mean, std, interpolation and image_size (`featcache info`) and the weights"


class Spread(NamedTuple):
    """Of n rows and d dimensions: how many dimensions are always 0, or some other constant.

    spread : root mean square distance from the mean row over the mean row's length; of several layers the root mean
    square of theirs.
    """

    n: int
    d: int
    dead: int
    constant: int
    spread: float


def find_non_finite(parts: Iterable[NDArray[Any] | LazyRows]) -> NDArray[np.int64]:
    """Places of the rows of arrays (n_i, v, d), one below the other, that hold NaN or infinity in any view."""
    lost, place = [np.empty(0, np.int64)], 0
    for part in parts:
        step = max(1, BLOCK_BYTES // (8 * part.shape[1] * part.shape[2]))
        for start in range(0, len(part), step):
            fine = np.isfinite(part[start : start + step]).all(axis=(1, 2))
            lost.append(place + start + np.flatnonzero(~fine))
        place += len(part)
    return np.concatenate(lost)


def measure_spread(parts: Iterable[NDArray[Any] | LazyRows], widths: Sequence[int] = ()) -> Spread:
    """Of matrices (n_i, d) one below the other, finite, with a row or more, read a block at a time. A dimension whose
    range is no more than two roundings of the stored dtype is constant.

    widths : of the layers that lie side by side, where there are several.
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
    apart = np.add.reduceat(moments.squares / moments.n, starts) / lengths
    return Spread(moments.n, len(low), int(dead.sum()), int(constant.sum()), float(np.sqrt(apart.mean())))


def effective_rank(x: NDArray[np.floating[Any]], groups: NDArray[np.int64]) -> float:
    """Dimensions that the directions of the rows of x (n, d) from their group's middle fill: (sum of the covariance's
    eigenvalues)^2 over the sum of their squares, the participation ratio. Of directions, as one row may be far off.
    """
    x = np.array(x, np.float64)
    for group in np.unique(groups):
        x[groups == group] -= np.median(x[groups == group], axis=0)
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    x /= np.where(lengths > 0, lengths, 1)
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
    total = float((gram**2).sum())
    return float(np.trace(gram)) ** 2 / total if total > 0 else 0.0


def non_finite_check(images: tuple[IssueExample, ...]) -> Check:
    """That some images have features that are NaN or infinite, where nothing else can be told."""
    what = f"{len(images)} images have features that are NaN or infinite, in one view or more"
    todo = "Extract with --precision fp32 --dtype float32, and look at these pictures."
    return Check("values", what, (Issue("not finite", "error", what, todo, images),))


def check_values(spread: Spread, rank: float) -> Check:
    """Whether the features say something: not constant, not all alike."""
    found = []
    idle, d = (spread.dead + spread.constant) / max(1, spread.d), spread.d
    told = f"{spread.dead} of {d} dimensions are 0 and {spread.constant} another constant in all {spread.n} images"
    if spread.n > 1 and idle > _MOST_IDLE:
        todo = f"The network sees hardly any of the pictures: look at {_PREPROCESSING}."
        found.append(Issue("dead dimensions", "error", told, todo))
    elif spread.n > 1 and idle:
        todo = "Nothing, as long as there are few: an image of another kind may need them."
        found.append(Issue("dead dimensions", "note", told, todo))
    if spread.n > 1 and spread.spread < _LEAST_SPREAD:
        found.append(
            Issue(
                "collapse", "error", f"all features are nearly the same: they differ by {spread.spread:.2%} of their "
                "length", f"The pictures reach the network as if all were one: look at {_PREPROCESSING}.",
            )
        )  # fmt: skip
    elif d >= _WIDE and spread.n >= _MANY and rank < _LEAST_RANK:
        found.append(
            Issue(
                "collapse", "error",
                f"the features of a class's images differ along about {rank:.1f} directions, of {d} that there are",
                f"The network tells pictures of a class apart by one thing alone: look at {_PREPROCESSING}.",
            )
        )  # fmt: skip
    said = f"{told}; features differ by {spread.spread:.0%} of their length, within a class along {rank:.0f} directions"
    return Check("values", said, tuple(found))


class ViewStatistics(NamedTuple):
    """How augmented views lie: the share that equals the clean view; the mean share of other images that a view is
    farther from than from its own, 0.5 where a view has nothing to do with its image.
    """

    same: float
    own: float


def compare_views(x: NDArray[Any], precision: str = "fp32") -> ViewStatistics:
    """Of images with their views, x (n, v, d), v and n at least 2."""
    x = np.asarray(x, np.float32)
    clean, views = x[:, 0], x[:, 1:]
    lengths = np.maximum(np.linalg.norm(clean, axis=1), np.finfo(np.float32).tiny)
    same = np.linalg.norm(views - clean[:, None], axis=2) <= _SAME.get(precision, 2e-3) * lengths[:, None]
    mean = clean.mean(axis=0)
    directions = _directions(clean - mean)
    shares = []
    for view in range(views.shape[1]):
        cosine = _directions(views[:, view] - mean) @ directions.T
        nearer = (cosine < np.diag(cosine)[:, None]).sum(axis=1) / (len(x) - 1)
        shares.append(float(nearer.mean()))
    return ViewStatistics(float(same.mean()), float(np.mean(shares)))


def check_views(found: ViewStatistics, images: int, views: int, augment: str) -> Check:
    """Whether augmentation did something, and not too much."""
    findings = []
    told = f"{found.same:.0%} of {views} views of {images} images equal the clean view"
    if found.same > 0.25 and augment == "none":
        todo = "Extract with --views 0, which holds as much, or with --augment tutorial."
        findings.append(Issue("views alike", "note", f"{told}, as --augment none has it", todo))
    elif found.same > 0.25:
        todo = f"The augmentation ({augment}) does nothing to these pictures: use --augment tutorial, or --views 0."
        findings.append(Issue("views alike", "error" if found.same > 0.99 else "warning", told, todo))
    own = f"a view is nearer to its image than to {found.own:.0%} of the others"
    if images >= _FEW_VIEWS and found.own < 0.6:
        todo = "Train on the clean views (--use-views clean), and extract with a milder --augment, such as crop."
        what = f"{own}; 50 % is chance: the views no longer show what the image shows"
        findings.append(Issue("views astray", "warning", what, todo))
    return Check("views", f"{told}; {own}", tuple(findings))


def _directions(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float32).tiny), np.float32)
