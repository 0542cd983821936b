"""`LocalRows`: images of train that a machine has, all or some of them, and what tuned heads ask of their rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from featcache.cache.features import Features, ViewUse
from featcache.cache.lazy_arrays import CenteredMatrix
from featcache.heads.solvers.closed_form import SufficientStatistics, accumulate
from featcache.heads.solvers.softmax import CVSoftmaxProblem, LossAndGradient, make_loss_and_gradient
from featcache.heads.tuning.path_selection import HeldOut


class Targets(NamedTuple):
    """What is known of n images besides their features; see `CVSoftmaxProblem`.

    labels : (n,), int64. weight : (n,), float64. fold : (n,), int64. k : problems. outputs : logits of each.
    """

    labels: NDArray[np.int64]
    weight: NDArray[np.float64]
    fold: NDArray[np.int64]
    k: int
    outputs: int

    def of(self, images: slice) -> Targets:
        """Those of some images."""
        return self._replace(labels=self.labels[images], weight=self.weight[images], fold=self.fold[images])

    def spread(self, views: int) -> Targets:
        """Those of so many rows of each image, which together count as the image does."""
        return self._replace(
            labels=np.repeat(self.labels, views),
            weight=np.repeat(self.weight / views, views),
            fold=np.repeat(self.fold, views),
        )


class TrainingRows(Protocol):
    """What tuned heads ask of the rows of train.

    problems : the regressions on the rows to train on. left_out : the clean views that heads are judged on.
    """

    problems: CVSoftmaxProblem
    left_out: HeldOut

    @property
    def one_pass(self) -> LossAndGradient:
        """See `featcache.heads.solvers.softmax.loss_and_gradient`."""

    @property
    def squares(self) -> NDArray[np.float64]:
        """See `CenteredMatrix.squares`, shape (d,)."""

    def moments(self, stop: Callable[[], bool] = lambda: False) -> list[SufficientStatistics]:
        """Of each problem, see `accumulate`. Raises OutOfTimeError."""


class LocalRows:
    """See `TrainingRows`.

    Raises ValueError where features are not finite.
    """

    def __init__(self, features: Features, use: ViewUse, targets: Targets, device: str = "cpu") -> None:
        x = features.flatten(use).x
        labels, weight, fold, k, outputs = targets.spread(x.shape[0] // len(targets.labels))
        rows = CenteredMatrix(x, weight)
        clean = (
            rows
            if use == "clean" or features.views == 0
            else CenteredMatrix(features.lazy_view(0), np.ones(len(targets.fold)))
        )
        self.problems = CVSoftmaxProblem(rows, labels, weight, fold, k, outputs)
        self.left_out = HeldOut.of(clean, targets.labels, targets.fold, targets.weight)
        self._device = device

    @cached_property
    def one_pass(self) -> LossAndGradient:
        """See `TrainingRows`."""
        return make_loss_and_gradient(self.problems, self._device)

    @cached_property
    def squares(self) -> NDArray[np.float64]:
        """See `TrainingRows`."""
        return self.problems.x.squares(self.problems.weight)

    def moments(self, stop: Callable[[], bool] = lambda: False) -> list[SufficientStatistics]:
        """See `TrainingRows`."""
        x, labels, weight, fold, k, outputs = self.problems
        return accumulate(x, labels, weight, fold, k, max(2, outputs), stop)
