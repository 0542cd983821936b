"""How far probabilities can be trusted, and the one number that mends them: pure functions of logits and labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_STEPS = 100
_LARGEST = 1e3  # temperature in spreads of the logits, and its inverse: where they say nothing there is no best


def fit_temperature(
    logits: NDArray[Any], y: NDArray[np.int64], weight: NDArray[np.float64], start: float = 1.0
) -> float:
    """The T > 0 for which softmax(logits / T) has the least log-loss (Guo et al. 2017, "On calibration").

    As if one label in n + 1 were drawn by lot, which keeps T from 0 where no image is wrong.

    Parameters
    ----------
    logits : shape (n, c), of images that were not trained on. y : shape (n,), indices of classes. weight : (n,).
    """
    from scipy.special import softmax  # half a second, which `info` does not wait for

    z = np.asarray(logits, np.float64)
    z = z - z.mean(axis=1, keepdims=True)
    spread = float(np.sqrt(np.mean(z * z))) or 1.0
    z /= spread
    own = (1 - 1 / (len(y) + 1)) * z[np.arange(len(y)), y]  # the label drawn by lot has the mean logit, 0
    beta = min(max(spread / start, 1 / _LARGEST), _LARGEST)
    for _ in range(_STEPS):  # Newton's method: the loss is convex in 1 / T
        p = softmax(beta * z, axis=1)
        mean = np.einsum("nc,nc->n", p, z)
        slope = float(weight @ (mean - own))
        curvature = float(weight @ np.einsum("nc,nc->n", p, (z - mean[:, None]) ** 2))
        step = slope / curvature if curvature * beta > abs(slope) * 1e-6 else np.copysign(np.inf, slope)
        before = beta
        beta = min(max(beta - step, beta / 4, 1 / _LARGEST), beta * 4, _LARGEST)
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
    wanted = (1 - 1 / (len(z) + 1)) * (y - 0.5) + 0.5
    beta = np.clip(spread / start, 1 / _LARGEST, _LARGEST)
    for _ in range(_STEPS):
        p = expit(beta * z)
        slope = np.einsum("nc,nc,nc->c", weight, z, p - wanted)
        curvature = np.einsum("nc,nc,nc->c", weight, z * z, p * (1 - p))
        sound = curvature * beta > np.abs(slope) * 1e-6
        step = np.where(sound, slope / np.where(sound, curvature, 1), np.copysign(np.inf, slope))
        before = beta
        beta = np.clip(beta - step, np.maximum(beta / 4, 1 / _LARGEST), np.minimum(beta * 4, _LARGEST))
        if np.all(np.abs(beta - before) <= 1e-6 * before):
            break
    return np.asarray(spread / beta, np.float64)


def label_log_loss(logits: NDArray[Any], y: NDArray[Any], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each label the weighted mean negative log-probability that it is there or not, in nats; (n, c) to (c,)."""
    z = np.asarray(logits, np.float64)
    return np.average(np.logaddexp(0, np.where(y, -z, z)), axis=0, weights=weight)


def mean_log_loss(logits: NDArray[Any], y: NDArray[np.int64], weight: NDArray[np.float64]) -> float:
    """Weighted mean of the labels' negative log-probabilities, in nats; logits of shape (n, c)."""
    from scipy.special import logsumexp

    z = np.asarray(logits, np.float64)
    return float(np.average(logsumexp(z, axis=1) - z[np.arange(len(y)), y], weights=weight))


def reliability(confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = 15) -> NDArray[np.float64]:
    """Of each of the bins of equal width: how many predictions are in it, their sum of confidence, how many are right.

    Parameters
    ----------
    confidence : shape (n,), 0..1, of the class that was predicted. right : shape (n,).

    Returns
    -------
    sums : shape (bins, 3).
    """
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    return np.stack([np.bincount(place, values, minlength=bins) for values in (None, confidence, right)], axis=1)


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
