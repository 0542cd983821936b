"""`LocalRows`: the training images of one machine, and the sums over their rows that tuned heads need."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from featcache.cache.features import Features, ViewUse
from featcache.cache.lazy_arrays import CenteredMatrix
from featcache.core.samples import Labels
from featcache.heads.solvers.closed_form import SufficientStatistics, accumulate
from featcache.heads.solvers.one_vs_rest import OneVsRestProblem
from featcache.heads.solvers.path import Stop, never
from featcache.heads.solvers.row_space import RowSpace
from featcache.heads.solvers.softmax import BatchedProblem, CVSoftmaxProblem, LossAndGradient, make_loss_and_gradient
from featcache.heads.tuning.path_selection import HeldOut


class Targets(NamedTuple):
    """What the problems know of n images besides their features.

    labels : (n,), int64, or with several labels (n, c), uint8. weight : (n,), float64. fold : (n,), int64. k : number
    of problems, one more than folds. outputs : logits of each problem. balance : with several labels the weights of
    images without and with each label, (c, 2); else None.
    """

    labels: Labels
    weight: NDArray[np.float64]
    fold: NDArray[np.int64]
    k: int
    outputs: int
    balance: NDArray[np.float64] | None = None

    def take(self, images: slice) -> Targets:
        """Those of some images."""
        return self._replace(labels=self.labels[images], weight=self.weight[images], fold=self.fold[images])

    def repeat_views(self, views: int) -> Targets:
        """Those of `views` rows of each image, which together count as the image does."""
        return self._replace(
            labels=np.repeat(self.labels, views, axis=0),
            weight=np.repeat(self.weight / views, views),
            fold=np.repeat(self.fold, views),
        )

    def problem(self, x: CenteredMatrix) -> BatchedProblem:
        """The regressions on rows x with these targets."""
        if self.balance is None:
            return CVSoftmaxProblem(x, self.labels, self.weight, self.fold, self.k, self.outputs)
        return OneVsRestProblem(x, self.labels, self.weight, self.balance, self.fold, self.k)

    @property
    def held_out_weight(self) -> NDArray[np.float64]:
        """How much each image counts when it is held out, (n,); with several labels (n, c)."""
        if self.balance is None:
            return self.weight
        return self.weight[:, None] * np.where(self.labels, self.balance[:, 1], self.balance[:, 0])


class TrainingRows(Protocol):
    """What tuned heads need of the rows of train.

    problem : the regressions on the rows. held_out : the clean views that heads are scored on.
    """

    problem: BatchedProblem
    held_out: HeldOut

    @property
    def loss_and_gradient(self) -> LossAndGradient:
        """See `featcache.heads.solvers.softmax.loss_and_gradient`."""

    @property
    def squares(self) -> NDArray[np.float64]:
        """See `CenteredMatrix.squares`, shape (d,)."""

    def statistics(self, stop: Stop = never) -> list[SufficientStatistics]:
        """Of each problem, see `accumulate`. Raises OutOfTimeError."""


class LocalRows:
    """The rows of one machine, see `TrainingRows`.

    Parameters
    ----------
    features : Features
        The training images.
    use : {"all", "mean", "clean"}
        The views to train on.
    targets : Targets
        Of the images.
    device : str
        Where passes over the rows are computed.
    row_space : RowSpace, optional
        The rows are projected on it.

    Raises
    ------
    ValueError
        Features are not finite.
    """

    def __init__(
        self,
        features: Features,
        use: ViewUse,
        targets: Targets,
        device: str = "cpu",
        row_space: RowSpace | None = None,
    ) -> None:
        x, clean_x, only_clean = features.flatten(use).x, features.lazy_view(0), use == "clean" or features.views == 0
        if row_space:
            x, clean_x = row_space.project(x), row_space.project(clean_x)
        self._targets = targets.repeat_views(x.shape[0] // len(targets.labels))
        rows = CenteredMatrix(x, self._targets.weight)
        clean = rows if only_clean else CenteredMatrix(clean_x, np.ones(len(targets.fold)))
        self.problem = self._targets.problem(rows)
        self.held_out = HeldOut.from_views(clean, targets.labels, targets.fold, targets.held_out_weight)
        self._device = device

    @cached_property
    def loss_and_gradient(self) -> LossAndGradient:
        """See `TrainingRows`."""
        return make_loss_and_gradient(self.problem, self._device)

    @cached_property
    def squares(self) -> NDArray[np.float64]:
        """See `TrainingRows`."""
        return self.problem.x.squares(self._targets.weight)

    def statistics(self, stop: Stop = never) -> list[SufficientStatistics]:
        """See `TrainingRows`."""
        labels, weight, fold, k, outputs, _ = self._targets
        return accumulate(self.problem.x, labels, weight, fold, k, max(2, outputs), stop)
