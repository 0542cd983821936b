"""`fit_selected`: softmax regression on features that each fold chooses for itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from featcache.heads.solvers.path import Layer, PathWeights, Stop
from featcache.heads.tuning.path_selection import CVSelection
from featcache.heads.tuning.tuning_data import TuningData


def fit_selected(data: TuningData, mask: NDArray[np.bool_] | None, stop: Stop) -> tuple[CVSelection, Layer]:
    """Choose C on held-out images, then fit to all images.

    Parameters
    ----------
    data : TuningData
        The training images.
    mask : ndarray of bool, shape (k, d), or None
        The features that each problem may use; None: all.
    stop : callable
        Whether the time is over.

    Returns
    -------
    CVSelection
        Of the rows of data.
    Layer
        For features.

    Raises
    ------
    OutOfTimeError
    """
    if mask is None or not data.is_projected:
        selection = data.select(data.logistic_path(stop, feature_mask=mask), stop)
        return selection, data.refit(selection, mask)
    selection = data.select(_joint_path(data, mask, stop), stop)
    part = data.take_features(mask[-1])
    outputs, d = selection.coef.shape[1], len(part.problem.x.mean)
    start = Layer(np.zeros((outputs, d)), selection.intercept.mean(axis=0))
    return selection, _spread(part.refit(selection, start=start), mask[-1])


def _joint_path(data: TuningData, mask: NDArray[np.bool_], stop: Stop) -> Iterator[PathWeights]:
    """The path of each fold, in the space that its features of the rows span."""
    parts = [data.take_features(features) for features in mask[:-1]]
    paths = [part.logistic_path(stop, data.c_path, fold=fold) for fold, part in enumerate(parts)]
    for members in zip(*paths, strict=True):
        layers = [
            data.project(_spread(part.expand(Layer(member.coef[0], member.intercept[0])), features))
            for part, member, features in zip(parts, members, mask, strict=False)
        ]
        coef, intercept = (np.stack(arrays) for arrays in zip(*layers, strict=True))
        yield PathWeights(members[0].value, coef, intercept)


def _spread(layer: Layer, features: NDArray[np.bool_]) -> Layer:
    """The layer for all features, from one for some of them."""
    coef = np.zeros((len(layer.coef), len(features)))
    coef[:, features] = layer.coef
    return Layer(coef, layer.intercept)
