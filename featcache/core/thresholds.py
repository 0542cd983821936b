"""From which probability on a label is predicted: 0.5, numbers of one's own, or those with the highest F1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featcache.core.specs import Thresholds as Thresholds
from featcache.errors import HeadError

HALF = 0.5
LEAST = 10
"""How many left-out images must have a label for its threshold to be chosen; with fewer, the choice is mostly luck."""


def decide(probabilities: NDArray[Any], thresholds: NDArray[Any] | Sequence[float] | None = None) -> NDArray[np.int64]:
    """Which labels are predicted: 1 where a probability is above the label's threshold, else 0.

    Parameters
    ----------
    probabilities : ndarray, shape (n, c)
    thresholds : shape (c,), optional. None is 0.5 for each label.

    Returns
    -------
    ndarray, shape (n, c), int64

    Examples
    --------
    >>> decide(np.array([[0.4, 0.4], [0.6, 0.2]]), [0.5, 0.3]).tolist()
    [[0, 1], [1, 0]]
    """
    return (probabilities > (HALF if thresholds is None else np.asarray(thresholds))).astype(np.int64)


def best_f1_threshold(y: NDArray[Any], probabilities: NDArray[np.float64]) -> float:
    """The threshold with the highest F1 of one label (SCut: Yang 2001, "A study of thresholding strategies").

    It lies halfway between the lowest probability that is still predicted and the next lower one, or 0. Of several
    that are equally good it is the one nearest to 0.5.

    Parameters
    ----------
    y : ndarray, shape (n,)
        1 where an image has the label, else 0; one image at least has it.
    probabilities : ndarray, shape (n,)
        Of the label, from 0 to 1, of images that were not trained on.

    Returns
    -------
    float

    Examples
    --------
    Of two images that have the label one is predicted with 0.3; the image without it has 0.2.

    >>> best_f1_threshold(np.array([1, 1, 0]), np.array([0.9, 0.3, 0.2]))
    0.25
    """
    order = np.argsort(-probabilities, kind="stable")
    high = np.asarray(probabilities, np.float64)[order]
    low = np.append(high[1:], 0.0)
    hits = np.cumsum(y[order], dtype=np.int64)
    f1 = 2 * hits / (np.arange(1, len(high) + 1) + hits[-1])
    separable = high > low  # no threshold divides images of one probability
    if not separable.any():  # all are 0
        return HALF
    middle = (low + high) / 2
    middle = np.where(middle < high, middle, low)  # of neighbouring floats
    best = middle[separable & (f1 == f1[separable].max())]
    return float(best[np.argmin(np.abs(best - HALF))])


def choose_thresholds(
    y: NDArray[Any], probabilities: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Of each label the threshold with the highest F1, see `best_f1_threshold`.

    Parameters
    ----------
    y, probabilities : ndarray, shape (n, c)
        Labels, 0 or 1, and probabilities of images that were not trained on.

    Returns
    -------
    thresholds : ndarray, shape (c,)
        0.5 where too little is known.
    unknown : ndarray of bool, shape (c,)
        Where that is so: fewer than `LEAST` images have the label, or all have it.
    """
    images = np.asarray(y, np.int64).sum(axis=0)
    unknown = (images < LEAST) | (images == len(y))
    thresholds = np.full(y.shape[1], HALF)
    for label in np.flatnonzero(~unknown):
        thresholds[label] = best_f1_threshold(y[:, label], probabilities[:, label])
    return thresholds, unknown


def check_thresholds(
    requested: Thresholds | None, classes: Sequence[str]
) -> NDArray[np.float64] | Literal["f1"] | None:
    """The requested thresholds, with numbers as one for each label; labels that are not named get 0.5.

    Raises
    ------
    HeadError
        No such label, or a number that is not at least 0 and below 1.
    """
    if requested is None or isinstance(requested, str):
        if requested not in (None, "f1"):
            raise HeadError(f"thresholds is {requested!r}; give 'f1', a number, or a number for each label by its name")
        return requested
    named = dict(requested) if isinstance(requested, Mapping) else dict.fromkeys(classes, requested)
    unknown = [name for name in named if name not in classes]
    if unknown:
        raise HeadError(f"thresholds names {unknown[0]!r}; the labels are {', '.join(classes)}")
    for name, value in named.items():
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 <= value < 1:
            raise HeadError(f"the threshold of {name} is {value!r}; give a number from 0 up to, but not, 1")
    return np.array([float(named.get(name, HALF)) for name in classes])


def format_thresholds(thresholds: Sequence[float] | NDArray[np.float64]) -> str:
    """The range of some thresholds, for people.

    Examples
    --------
    >>> format_thresholds([0.125, 0.5])
    '0.125 to 0.5 by label'
    """
    low, high = min(thresholds), max(thresholds)
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g} by label"
