"""Features of several layers made alike before a head is fitted, and the head for features as they are."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from featcache._utils.blockwise import RunningMoments, iter_blocks
from featcache.cache.features import Features
from featcache.cache.lazy_arrays import BLOCK_BYTES
from featcache.heads.linear import LinearHead
from featcache.heads.one_vs_rest import OneVsRestHead

_LEAST = 1e-3  # of a layer's widest feature: narrower ones are hardly more than rounding

_Estimator = TypeVar("_Estimator", bound=BaseEstimator)


def standardize_layers(features: Features, *, keep_still: bool = True) -> NDArray[np.float32]:
    """The scale of each feature, shape (d,), by which all of a layer are equally wide and all layers count alike.

    A feature is divided by its standard deviation over the clean views, and by the root of its layer's width. Without
    the latter, heads on all stages of the digits are a little less accurate, with views they take longer, too.

    Parameters
    ----------
    keep_still : False gives features that hardly move a scale of 0, for what goes by lengths: their mean would drown
        all others.
    """
    if features.concatenated is None:
        raise AssertionError("these are of one layer")
    scales = []
    for part in np.split(_deviations(features), np.cumsum(features.concatenated.widths)[:-1]):
        widest = float(part.max())
        least = _LEAST * widest if widest > 0 else 1.0
        scales.append((keep_still | (part >= least)) / np.maximum(part, least) / np.sqrt(len(part)))
    return np.concatenate(scales).astype(np.float32)


def _deviations(features: Features) -> NDArray[np.float64]:
    """The standard deviation of each feature over the clean views, shape (d,)."""
    clean = features.lazy_view(0)
    n, d = clean.shape
    moments = RunningMoments(d)
    for rows in iter_blocks(n, 8 * d, BLOCK_BYTES):
        moments.update(clean[rows])
    return moments.deviation


def unscaled(estimator: BaseEstimator, scale: NDArray[np.float32]) -> BaseEstimator:
    """The classifier for features as they are, from one that was fitted to them times their scale, (d,)."""
    if isinstance(estimator, LinearHead):
        return LinearHead.from_weights(estimator.coef_ * scale, estimator.intercept_, estimator.classes_)
    if isinstance(estimator, OneVsRestHead):
        return OneVsRestHead.from_weights(estimator.coef_ * scale, estimator.intercept_)
    from sklearn.pipeline import Pipeline  # 20 ms, which linear heads do not wait for
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler(with_mean=False)
    scaler.scale_ = 1 / scale.astype(np.float64)
    scaler.var_, scaler.n_samples_seen_, scaler.n_features_in_ = scaler.scale_**2, 1, len(scale)
    return Pipeline([("scaling", scaler), ("head", estimator)])
