"""Calibration of probabilities, and temperature scaling: pure functions of logits and labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_STEPS = 100
_MAX_SCALE = (
    1e3  # of the temperature, in spreads of the logits, and of its inverse; uninformative logits have no optimum
)


def fit_temperature(
    logits: NDArray[Any], y: NDArray[np.int64], weight: NDArray[np.float64], start: float = 1.0
) -> float:
    """The T > 0 for which softmax(logits / T) has the least log-loss (Guo et al. 2017, "On calibration").

    Labels are smoothed as if one in n + 1 were random, so that T stays above 0 if no image is wrong.

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
    from scipy.special import softmax  # takes half a second to import; `featcache info` does not need it

    z = np.asarray(logits, np.float64)
    z = z - z.mean(axis=1, keepdims=True)
    spread = float(np.sqrt(np.mean(z * z))) or 1.0
    z /= spread
    target = (1 - 1 / (len(y) + 1)) * z[np.arange(len(y)), y]  # a random label has the mean logit, 0
    beta = min(max(spread / start, 1 / _MAX_SCALE), _MAX_SCALE)
    for _ in range(_STEPS):  # Newton's method: the loss is convex in 1 / T
        p = softmax(beta * z, axis=1)
        mean = np.einsum("nc,nc->n", p, z)
        slope = float(weight @ (mean - target))
        curvature = float(weight @ np.einsum("nc,nc->n", p, (z - mean[:, None]) ** 2))
        step = slope / curvature if curvature * beta > abs(slope) * 1e-6 else np.copysign(np.inf, slope)
        before = beta
        beta = min(max(beta - step, beta / 4, 1 / _MAX_SCALE), beta * 4, _MAX_SCALE)
        if abs(beta - before) <= 1e-6 * before:
            break
    return float(spread / beta)


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
        if np.all(np.abs(beta - before) <= 1e-6 * before):
            break
    return np.asarray(spread / beta, np.float64)


def label_log_loss(logits: NDArray[Any], y: NDArray[Any], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted mean log-loss of each label, in nats: from shape (n, c) to (c,)."""
    z = np.asarray(logits, np.float64)
    return np.average(np.logaddexp(0, np.where(y, -z, z)), axis=0, weights=weight)


def mean_log_loss(logits: NDArray[Any], y: NDArray[np.int64], weight: NDArray[np.float64]) -> float:
    """Weighted mean log-loss, in nats; logits of shape (n, c)."""
    from scipy.special import logsumexp

    z = np.asarray(logits, np.float64)
    return float(np.average(logsumexp(z, axis=1) - z[np.arange(len(y)), y], weights=weight))


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
