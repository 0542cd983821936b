"""Calibration of probabilities, and temperature scaling: pure functions of logits and labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.blockwise import iter_blocks

_STEPS = 100
_PRECISION = 1e-4  # of the last step, relative; Newton's method squares it, so that the result has 1e-6 or better
_MAX_SCALE = (
    1e3  # of the temperature, in spreads of the logits, and of its inverse; uninformative logits have no optimum
)
_BLOCK_BYTES = 2**18  # of logits, which stay in the cache of a core


def fit_temperature(
    logits: NDArray[Any], y: NDArray[np.int64], weight: NDArray[np.float64], start: float = 1.0
) -> float:
    """The T > 0 for which softmax(logits / T) has the least log-loss (Guo et al. 2017, "On calibration").

    Labels are smoothed as if one in n + 1 were random, so that T stays above 0 if no image is wrong. The relative error
    of T is about 1e-6 or less.

    Parameters
    ----------
    logits : ndarray, shape (n, c)
        Of images that were not trained on.
    y : ndarray, shape (n,)
        Indices of classes.
    weight : ndarray, shape (n,)
        Weight of each image.
    start : float, default 1.0
        First value of the search.
    """
    z = np.array(logits, np.float64)
    z -= z.max(axis=1, keepdims=True)
    average = z.mean(axis=1)
    spread = float(np.sqrt(max(np.einsum("nc,nc->", z, z) / z.size - np.mean(average * average), 0.0))) or 1.0
    of_label = z[np.arange(len(y)), y]
    target = of_label + (average - of_label) / (len(y) + 1)  # a random label has the mean logit
    low, high = 1 / _MAX_SCALE / spread, _MAX_SCALE / spread
    beta = min(max(1 / start, low), high)
    for _ in range(_STEPS):  # Newton's method: the loss is convex in 1 / T
        mean, square = _moments(z, beta)
        slope = float(weight @ (mean - target))
        curvature = float(weight @ (square - mean * mean))
        step = slope / curvature if curvature * beta > abs(slope) * 1e-6 else np.copysign(np.inf, slope)
        before = beta
        beta = min(max(beta - step, beta / 4, low), beta * 4, high)
        if abs(beta - before) <= _PRECISION * before:
            break
    return float(1 / beta)


def _moments(z: NDArray[np.float64], beta: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The means of z and of its square under softmax(beta * z), (n,) each; z : (n, c), at most 0 and 0 in each row."""
    mean, square, ones = np.empty(len(z)), np.empty(len(z)), np.ones(z.shape[1])
    for rows in iter_blocks(len(z), z.itemsize * z.shape[1], _BLOCK_BYTES):
        block = z[rows]
        p = beta * block
        np.exp(p, out=p)
        total = p @ ones
        p *= block
        mean[rows] = p @ ones / total
        p *= block
        square[rows] = p @ ones / total
    return mean, square


def fit_label_temperatures(
    logits: NDArray[Any], y: NDArray[Any], weight: NDArray[np.float64], start: NDArray[np.float64]
) -> NDArray[np.float64]:
    """For each of c labels the T > 0 for which sigmoid(logits / T) has the least log-loss, shape (c,).

    See `fit_temperature`, which does the same for classes that exclude each other.

    Parameters
    ----------
    logits, y, weight : shape (n, c); y is 1 where an image has the label. start : shape (c,).
    """
    from scipy.special import expit

    z = np.asarray(logits, np.float64)
    spread = np.sqrt(np.mean(z * z, axis=0))
    spread[spread == 0] = 1.0
    z = z / spread
    target = (1 - 1 / (len(z) + 1)) * (y - 0.5) + 0.5
    beta = np.clip(spread / start, 1 / _MAX_SCALE, _MAX_SCALE)
    for _ in range(_STEPS):
        p = expit(beta * z)
        slope = np.einsum("nc,nc,nc->c", weight, z, p - target)
        curvature = np.einsum("nc,nc,nc->c", weight, z * z, p * (1 - p))
        is_convex = curvature * beta > np.abs(slope) * 1e-6
        step = np.where(is_convex, slope / np.where(is_convex, curvature, 1), np.copysign(np.inf, slope))
        before = beta
        beta = np.clip(beta - step, np.maximum(beta / 4, 1 / _MAX_SCALE), np.minimum(beta * 4, _MAX_SCALE))
        if np.all(np.abs(beta - before) <= _PRECISION * before):
            break
    return np.asarray(spread / beta, np.float64)


def label_log_loss(logits: NDArray[Any], y: NDArray[Any], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted mean log-loss of each label, in nats: from shape (n, c) to (c,)."""
    z = np.asarray(logits, np.float64)
    return np.average(np.logaddexp(0, np.where(y, -z, z)), axis=0, weights=weight)


def mean_log_loss(logits: NDArray[Any], y: NDArray[np.int64], weight: NDArray[np.float64]) -> float:
    """Weighted mean log-loss, in nats; logits of shape (n, c)."""
    z = np.asarray(logits)
    losses, ones = np.empty(len(z)), np.ones(z.shape[1])
    for rows in iter_blocks(len(z), 8 * z.shape[1], _BLOCK_BYTES):
        block = z[rows].astype(np.float64)
        block -= block.max(axis=1, keepdims=True)
        of_label = block[np.arange(len(block)), y[rows]]
        losses[rows] = np.log(np.exp(block, out=block) @ ones) - of_label
    return float(np.average(losses, weights=weight))


def reliability(confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = 15) -> NDArray[np.float64]:
    """For bins of equal width: the number of predictions, the sum of their confidence, and how many are right.

    Parameters
    ----------
    confidence : shape (n,), 0..1, of the class that was predicted. right : shape (n,).

    Returns
    -------
    sums : shape (bins, 3).
    """
    bin_of = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    return np.stack([np.bincount(bin_of, values, minlength=bins) for values in (None, confidence, right)], axis=1)


def expected_calibration_error(probabilities: NDArray[np.float64], y: NDArray[np.int64], bins: int = 15) -> float:
    """Mean distance of confidence and accuracy over bins of equal width (Naeini et al. 2015), from 0 to 1.

    Parameters
    ----------
    probabilities : shape (n, c). y : shape (n,).
    """
    if not len(y):
        return 0.0
    _, confidence, right = reliability(probabilities.max(axis=1), probabilities.argmax(axis=1) == y, bins).T
    return float(np.abs(confidence - right).sum() / len(y))
