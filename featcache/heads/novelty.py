"""`NoveltyScore`: how much a sample is like one of the classes, from its features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.formatting import plural
from featcache._utils.results import Result
from featcache.cache.lazy_arrays import LazyRows

STRENGTH = 1.0
"""Of the penalty of the covariance, as a multiple of the mean variance of a feature."""

KNOWN = 0.95
"""The share of samples of the known classes that is not refused as unknown."""

_BLOCK = 8192  # rows that are read at a time
_MAX_CLASSES, _MAX_OPERATIONS = 20, 1e9  # that `leave_classes_out` leaves out, and takes for it


@dataclass(frozen=True)
class NoveltyScore:
    """The relative Mahalanobis distance to the nearest class, with a minus: low for samples of other classes.

    It is the squared distance to the mean of the nearest class minus the squared distance to the mean of all samples,
    in the metrics of the covariance within the classes and of the total covariance, to which the same penalty is added
    (Ren et al. 2021, "A simple fix to Mahalanobis distance for improving near-OOD detection"). Both differ only in the
    space of the class means, so that one inner product with each class is all that is needed.

    Parameters
    ----------
    coef : ndarray, shape (c, d), float32
        The inverse covariance within the classes times each class mean minus the mean of all samples.
    intercept : ndarray, shape (c,), float64
        So that coef @ x + intercept is 0 at the mean of all samples.
    products : ndarray, shape (c, c), float64
        The same inner products of the class means.
    priors : ndarray, shape (c,), float64
        Fractions of the classes.
    """

    coef: NDArray[np.float32]
    intercept: NDArray[np.float64]
    products: NDArray[np.float64]
    priors: NDArray[np.float64]

    def check(self) -> None:
        """Raise ValueError for arrays that contradict each other."""
        c = len(self.coef)
        shapes = [array.shape for array in (self.intercept, self.products, self.priors)]
        if self.coef.ndim != 2 or shapes != [(c,), (c, c), (c,)]:
            raise ValueError("its arrays have shapes that contradict each other")
        if not all(np.isfinite(array).all() for array in vars(self).values()):
            raise ValueError("its arrays are not finite")

    def score_samples(self, x: NDArray[Any] | LazyRows) -> NDArray[np.float64]:
        """The scores of rows of features, shape (n, d): (n,)."""
        blocks = [np.asarray(x[start : start + _BLOCK], np.float32) for start in range(0, max(1, len(x)), _BLOCK)]
        parts = [block @ self.coef.T + self.intercept for block in blocks]
        return relative_distances(np.concatenate(parts), self.products, self.priors)

    def scaled(self, scale: NDArray[np.float32]) -> NoveltyScore:
        """The score of features that are not yet multiplied by `scale`, shape (d,)."""
        return replace(self, coef=self.coef * scale)


@dataclass(frozen=True)
class NoveltyFigures(Result):
    """How well samples of unknown classes are found: each class in turn is treated as unknown.

    Attributes
    ----------
    auroc : float
        The chance that a sample of the unknown class has a lower score than one of the others; mean over classes.
    refused : float
        The share of samples of the unknown class that `--unknown` refuses; mean over classes.
    classes : int
        How many classes were left out.
    curve : tuple of float
        Share of the unknown samples that is refused if 0, 5, 10, ... 100 % of the others are.
    """

    auroc: float
    refused: float
    classes: int
    curve: tuple[float, ...]

    def __str__(self) -> str:
        return (
            f"--unknown: of a class that is left out (each of {plural(self.classes, 'class', 'classes')} in turn) "
            f"{self.refused:.0%} of the samples are refused, and {1 - KNOWN:.0%} of the others (AUROC {self.auroc:.2f})"
        )


def relative_distances(
    logits: NDArray[np.float64], products: NDArray[np.float64], priors: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The scores of samples, (n,), from their inner products with the classes, (n, c); see `NoveltyScore`."""
    nearest = (np.diag(products) - 2 * logits).min(axis=1)
    inverse = np.linalg.inv(np.diag(1 / np.maximum(priors, 1e-9)) + products)
    background: NDArray[np.float64] = np.einsum("nc,nc->n", logits @ inverse, logits)
    return np.asarray(-(nearest + background), np.float64)


def leave_classes_out(
    logits: NDArray[np.float64],
    y: NDArray[np.int64],
    fold: NDArray[np.int64],
    folds: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> NoveltyFigures | None:
    """Figures of held-out samples; None for fewer than three classes, for so many that it would take long,
    or if only one class has samples that were held out.

    A class is left out of the means. The covariance within the classes keeps its samples of the other folds.

    Parameters
    ----------
    logits : ndarray, shape (m, c)
        Inner products of held-out samples, by the score of the fold that holds them out.
    y, fold : ndarray, shape (m,)
        Their classes and folds.
    folds : sequence of (products, priors)
        Of the score of each fold, see `NoveltyScore`.
    """
    c, m = logits.shape[1], len(y)
    left_out = min(c, _MAX_CLASSES, int(_MAX_OPERATIONS / (m * c**2 + c**3)))
    if c < 3 or not left_out:
        return None
    shares = np.linspace(0, 1, 21)
    aurocs, curves, refused = [], [], []
    for label in np.unique(np.linspace(0, c - 1, left_out).round().astype(int)):
        values = np.empty(m)
        for number, (products, priors) in enumerate(folds):
            values[fold == number] = _without_class(logits[fold == number], products, priors, label)
        unknown, others = np.sort(values[y == label]), np.sort(values[y != label])
        if not len(unknown) or not len(others):
            continue
        below = np.searchsorted(others, unknown, "left") + np.searchsorted(others, unknown, "right")
        aurocs.append(1 - below.mean() / 2 / len(others))
        limits = np.quantile(others, [*shares, 1 - KNOWN])
        caught = np.searchsorted(unknown, limits, "left") / len(unknown)
        curves.append([*caught[:-2], 1.0])
        refused.append(caught[-1])
    if not curves:  # all held-out samples are of one class
        return None
    curve = np.mean(curves, axis=0).round(4).tolist()
    return NoveltyFigures(float(np.mean(aurocs)), float(np.mean(refused)), len(aurocs), tuple(curve))


def _without_class(
    logits: NDArray[np.float64], products: NDArray[np.float64], priors: NDArray[np.float64], label: int
) -> NDArray[np.float64]:
    """The scores if one class were not known: the mean of all samples moves to that of the others."""
    keep = np.arange(len(priors)) != label
    priors = priors[keep] / priors[keep].sum()
    products, logits = products[np.ix_(keep, keep)], logits[:, keep]
    moved = products @ priors  # inner products with the new mean
    square = priors @ moved
    logits = logits - moved - (logits @ priors)[:, None] + square
    return relative_distances(logits, products - moved - moved[:, None] + square, priors)
