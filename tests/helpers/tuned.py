"""Heads by name: unfitted, and tuned with what cross-validation says of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from featcache.cache.features import Features, ViewUse
from featcache.heads.estimators import make_estimator
from featcache.heads.one_vs_rest import OneVsRestHead
from featcache.heads.registry import HEADS, auto_heads, find_head, heads_with
from featcache.heads.solvers.path import Stop, never
from featcache.heads.solvers.row_space import RowSpace
from featcache.heads.tuning.selection import Selection, select, without_temperature
from featcache.heads.tuning.tuning_data import TunedHead, TuningData

AUTO = tuple(spec.name for spec in auto_heads())
"""Heads that auto compares, in the order in which it tries them."""

TUNED = (*AUTO, *(name for name in heads_with("tune") if name not in AUTO))
"""Heads that choose their settings."""


def make_head(name: str, parameters: Mapping[str, Any] | None = None) -> BaseEstimator:
    """An unfitted classifier by the name of a head, or by its dotted path."""
    return make_estimator(find_head(name), parameters)


def try_to_tune(name: str, data: TuningData, stop: Stop = never) -> TunedHead | None:
    """A tuned head; None if there is no time, or there are too few images."""
    tune_head = HEADS.get(name).tune
    assert tune_head is not None
    return tune_head(data, stop)


def tune(name: str, data: TuningData) -> TunedHead:
    """A tuned head."""
    tuned = try_to_tune(name, data)
    assert tuned is not None
    return tuned


def unprojected(train: Features, *arguments: Any, **options: Any) -> TuningData:
    """Training data whose rows are not projected on the space that they span."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowSpace, "from_rows", lambda _rows: None)
        return TuningData(train, *arguments, **options)


class TunedLabels(NamedTuple):
    """`linear` tuned on several labels. labels, probabilities : of the held-out images, (m, c)."""

    head: OneVsRestHead
    selection: Selection
    uncalibrated: OneVsRestHead
    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float64]


def tune_labels(features: Features, use: ViewUse = "all", **settings: Any) -> TunedLabels:
    """`linear` tuned on images with several labels."""
    data = TuningData(features, use, **settings)
    tuned, selection = select(data, [HEADS.get("linear")], features.samples.classes)
    uncalibrated = without_temperature(tuned)
    assert isinstance(tuned.estimator, OneVsRestHead)
    assert isinstance(uncalibrated, OneVsRestHead)
    return TunedLabels(tuned.estimator, selection, uncalibrated, features.y[data.held_out.rows], tuned.probabilities)
