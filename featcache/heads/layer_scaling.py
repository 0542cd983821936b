"""`weigh_layers` and `standardize_layers`: features of several layers on one scale; and the reverse of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from featcache._utils.blockwise import RunningMoments, iter_blocks
from featcache.cache.features import Features
from featcache.cache.lazy_arrays import BLOCK_BYTES, safe_mean_variance
from featcache.heads.linear import LinearHead
from featcache.heads.one_vs_rest import OneVsRestHead

_MIN_DEVIATION = 1e-3  # as a fraction of the largest one of the layer: smaller ones are mostly rounding


def weigh_layers(features: Features, weights: Sequence[float]) -> NDArray[np.float32]:
    """The factor of each feature, shape (d,), that gives each layer a total variance of its weight squared.

    All features of a layer have one factor. Heads on features that are divided by a standard deviation each are less
    accurate on most sets, as what varies little says little.

    Parameters
    ----------
    features : Features
        Of several layers.
    weights : sequence of float
        One for each layer. A layer of constants has a total variance of 0.
    """
    scales = []
    for weight, (mean, deviation) in zip(weights, _by_layer(features), strict=True):
        variance = safe_mean_variance(float(np.mean(deviation**2)), mean)
        scales.append(np.full(len(mean), weight / np.sqrt(len(mean) * variance)))
    return np.concatenate(scales).astype(np.float32)


def standardize_layers(features: Features) -> NDArray[np.float32]:
    """The factor of each feature, shape (d,), that gives features of a layer equal variance and layers equal weight.

    It is for methods that compare lengths. Features that are almost constant get a factor of 0, as their mean would
    outweigh all others.

    Parameters
    ----------
    features : Features
        Of several layers.
    """
    scales = []
    for _, deviation in _by_layer(features):
        largest = float(deviation.max())
        least = _MIN_DEVIATION * largest if largest > 0 else 1.0
        scales.append((deviation >= least) / np.maximum(deviation, least) / np.sqrt(len(deviation)))
    return np.concatenate(scales).astype(np.float32)


def _by_layer(features: Features) -> list[NDArray[np.float64]]:
    """Mean and standard deviation of each feature over the clean views, layer by layer, of shape (2, d) each."""
    if features.concatenated is None:
        raise AssertionError("there is one layer only")
    clean = features.lazy_view(0)
    n, d = clean.shape
    moments = RunningMoments(d)
    for rows in iter_blocks(n, 8 * d, BLOCK_BYTES):
        moments.update(clean[rows])
    ends = np.cumsum(features.concatenated.widths)[:-1]
    return np.split(np.stack([moments.mean, moments.deviation]), ends, axis=1)


def without_scaling(estimator: BaseEstimator, scale: NDArray[np.float32]) -> BaseEstimator:
    """The classifier for unscaled features, from one that was fitted to features multiplied by `scale`, (d,)."""
    if isinstance(estimator, LinearHead):
        return LinearHead.from_weights(estimator.coef_ * scale, estimator.intercept_, estimator.classes_)
    if isinstance(estimator, OneVsRestHead):
        return OneVsRestHead.from_weights(estimator.coef_ * scale, estimator.intercept_)
    if hasattr(estimator, "rescaled"):
        rescaled: BaseEstimator = estimator.rescaled(scale)
        return rescaled
    from sklearn.pipeline import Pipeline  # 20 ms, which linear heads do not need
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler(with_mean=False)
    scaler.scale_ = 1 / scale.astype(np.float64)
    scaler.var_, scaler.n_samples_seen_, scaler.n_features_in_ = scaler.scale_**2, 1, len(scale)
    return Pipeline([("scaling", scaler), ("head", estimator)])
