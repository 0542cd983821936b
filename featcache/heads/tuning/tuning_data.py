"""`TuningData`: what tuned heads share, so that all are scored on the same held-out images."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.class_weight import compute_class_weight

from featcache._utils.progress_bar import Progress
from featcache.cache.features import Features, ViewUse
from featcache.cache.lazy_arrays import safe_mean_variance
from featcache.core.progress import StepProgress
from featcache.core.splitting import NEVER, plan_folds
from featcache.errors import HeadError
from featcache.heads.class_weights import weights_by_index
from featcache.heads.linear import LinearHead
from featcache.heads.one_vs_rest import OneVsRestHead
from featcache.heads.solvers.closed_form import RegularizedCovariances, Solve, SufficientStatistics, estimate_s
from featcache.heads.solvers.one_vs_rest import balance_labels
from featcache.heads.solvers.path import Layer, PathWeights, Stop, never
from featcache.heads.solvers.preconditioner import LowRankPreconditioner
from featcache.heads.solvers.row_space import RowSpace
from featcache.heads.solvers.softmax import BatchedProblem, Solution, interruptible, solve_path
from featcache.heads.tuning.image_sample import sample_images
from featcache.heads.tuning.path_selection import (
    CVScore,
    CVSelection,
    HeldOut,
    select_on_path,
)
from featcache.heads.tuning.strength_search import PENALTIES, search_strengths
from featcache.heads.tuning.training_rows import LocalRows, Targets, TrainingRows

if TYPE_CHECKING:
    from featcache.heads.ray.coordinator import TrainingCluster

CV_TOL, TOL, MAX_ITER = 1e-3, 1e-5, 1000
"""Precision of the solver, see `minimize`: to compare penalties on held-out images, and of the head itself.

On held-out images a head solved to 1e-3 differs from the exact one by less than the strengths of a path do.
"""


_ENOUGH = 200  # images that choose a strength
_PASSES = 80  # over the rows, in the search of C on features of photos and of digits


class TunedHead(NamedTuple):
    """A head with the setting that is best on held-out images.

    setting : as text, "C=0.2". trials : scores of all settings. probabilities : of the held-out images, (m, c).
    temperature : that the logits were divided by, if they were; with several labels one for each. cut_short : whether
    the budget ended the search for the setting.
    """

    estimator: BaseEstimator
    setting: str
    trials: tuple[CVScore, ...]
    probabilities: NDArray[np.float64]
    temperature: float | tuple[float, ...] | None = None
    cut_short: bool = False


class TuningData:
    """Training features and folds for tuned heads. Results that several heads need are computed once.

    Parameters
    ----------
    features : Features
        The training images, with one label or several.
    use : {"all", "mean", "clean"}
        The views to train on.
    class_weight : None, "balanced" or dict
        See `LinearHead` and `OneVsRestHead`; keys are names or indices of classes.
    folds : int, optional
        None takes 5, or holds a fifth out once if images times classes are more than a million.
    seed : int
        Of the folds.
    device : str
        Where the passes over the rows are computed, see `LinearHead`.
    cluster : TrainingCluster, optional
        Machines that share the rows; they have their own devices.
    progress : callable, optional
        Called for each strength that a head tries.

    Attributes
    ----------
    classes : ndarray
        The classes of the training images, ascending; with several labels all of them.
    multilabel : bool
        Whether an image can have several labels.
    folds : int
        How often the images are split; 1 for one held-out part.
    rows : TrainingRows
        The rows to train on.

    Raises
    ------
    HeadError
        There is one class only, no image can be held out, or features are not finite.
    ClusterError
        The cluster fails.
    """

    def __init__(
        self,
        features: Features,
        use: ViewUse = "all",
        *,
        class_weight: Any = None,
        folds: int | None = None,
        seed: int = 0,
        device: str = "cpu",
        cluster: TrainingCluster | None = None,
        progress: Progress | None = None,
    ) -> None:
        samples, self.multilabel, self.progress = features.samples, features.samples.multilabel, progress
        self._features, self._seed = features, seed
        labels = features.y if self.multilabel else self._index_classes(features)
        self.classes = np.arange(len(samples.classes)) if self.multilabel else np.unique(features.y)
        fold, self.folds = plan_folds(labels, len(self.classes), samples.split_keys, folds, seed)
        if np.all(fold == NEVER):
            raise HeadError(
                f"no {'label' if self.multilabel else 'class'} has {samples.two_distinct}, so none can be held out to "
                "choose settings by. Fit a head with settings of your own, such as linear with C=1 (--head linear "
                "-p C=1)."
            )
        try:
            self.class_weight = weights_by_index(class_weight, samples.classes)
            self._use, self._device, self._targets = use, device, self._make_targets(labels, fold)
            self._row_space = None if cluster else RowSpace.from_rows(features.flatten(use).x)
            self.rows: TrainingRows = (
                cluster.distribute(features, use, self._targets)
                if cluster
                else LocalRows(features, use, self._targets, device, self._row_space)
            )
        except (TypeError, ValueError) as error:
            raise HeadError(f"the head could not be fitted: {error}") from error
        self._statistics: list[SufficientStatistics] | None = None
        self._covariances: RegularizedCovariances | None = None

    @staticmethod
    def _index_classes(features: Features) -> NDArray[np.int64]:
        classes, labels = np.unique(features.y, return_inverse=True)
        if len(classes) < 2:
            only = features.samples.classes[classes[0]]
            raise HeadError(f"a head needs two classes or more, and all training samples are {only}")
        return labels

    def _make_targets(self, labels: NDArray[Any], fold: NDArray[np.int64]) -> Targets:
        if self.multilabel:
            weight = np.ones(len(labels))
            return Targets(labels, weight, fold, self.folds + 1, 1, balance_labels(self.class_weight, labels, weight))
        by_class = compute_class_weight(self.class_weight, classes=self.classes, y=self._features.y)[labels]
        if not by_class.min() > 0:
            raise ValueError("class_weight must be greater than 0 for every class")
        outputs = 1 if len(self.classes) == 2 else len(self.classes)
        return Targets(labels, by_class, fold, self.folds + 1, outputs)

    @property
    def is_projected(self) -> bool:
        """Whether the rows are projected on the space that they span, see `RowSpace`."""
        return self._row_space is not None

    def take_features(self, mask: NDArray[np.bool_]) -> TuningData:
        """The same images and folds with some of the features; mask : shape (d,)."""
        data = copy(self)
        data._features = replace(self._features, x=np.asarray(self._features.x[:])[..., mask])
        data._row_space = RowSpace.from_rows(data._features.flatten(self._use).x)
        data.rows = LocalRows(data._features, self._use, self._targets, self._device, data._row_space)
        data._statistics = data._covariances = None
        for name in ("preconditioner", "c_path"):
            data.__dict__.pop(name, None)
        return data

    def expand(self, layer: Layer) -> Layer:
        """The layer for features, from one for rows of `problem`."""
        return layer if self._row_space is None else self._row_space.expand(layer)

    def project(self, layer: Layer) -> Layer:
        """The layer for rows of `problem`, from one for features."""
        return layer if self._row_space is None else self._row_space.project_layer(layer)

    @property
    def problem(self) -> BatchedProblem:
        """See `TrainingRows`."""
        return self.rows.problem

    @property
    def held_out(self) -> HeldOut:
        """See `TrainingRows`."""
        return self.rows.held_out

    @property
    def clean(self) -> NDArray[np.float32]:
        """The clean views, shape (n, d), in memory. Raises ValueError if several machines have them."""
        if not isinstance(self.rows, LocalRows):
            raise ValueError("it compares all samples with each other, on one machine: leave out the cluster")
        return np.asarray(self._features.lazy_view(0), dtype=np.float32)

    def sample(self, images: int) -> tuple[NDArray[np.float32], HeldOut]:
        """Clean views of so many images or a few more, (m, d), and what is known of them, see `sample_images`."""
        rows = sample_images(self._features.samples, images, self._seed)
        x = np.asarray(self._features.take(rows).lazy_view(0), np.float32)
        whole = self.held_out
        return x, replace(whole, labels=whole.labels[rows], fold=whole.fold[rows], weight=whole.weight[rows])

    @cached_property
    def preconditioner(self) -> LowRankPreconditioner:
        """Of the rows."""
        return LowRankPreconditioner.from_rows(self.problem.x, self.problem.weight)

    @cached_property
    def c_path(self) -> list[float]:
        """The path of C of `LinearHead`."""
        return c_grid(self.rows.squares, self.problem.weight, self._features.x.shape[2], self.problem.x.mean)

    def statistics(self, stop: Stop = never) -> list[SufficientStatistics]:
        """Of each problem. Raises OutOfTimeError."""
        if self._statistics is None:
            self._statistics = self.rows.statistics(stop)
        return self._statistics

    def tune_closed_form(self, solve: Solve, stop: Stop = never) -> TunedHead:
        """A head with a closed form at the strength that is best on held-out images.

        If the first fold has 200 images or more, these alone choose the strength, which takes less time; the head is
        still fitted without each fold at this strength.

        Parameters
        ----------
        solve : Solve
            `featcache.heads.solvers.closed_form.ridge` or `lda`.

        Raises
        ------
        OutOfTimeError
        """
        first_fold = self.folds > 1 and int(np.sum(self.held_out.fold == 0)) >= _ENOUGH
        with StepProgress(self.progress, "fit strengths", len(PENALTIES)) as steps:
            selection = self.select_closed_form(solve, stop, steps, first_fold=first_fold)
        if first_fold:
            try:
                by_folds = self.select_closed_form(solve, stop, only=float(selection.values[0]))
                selection = replace(by_folds, trials=selection.trials, interrupted=selection.interrupted)
            except np.linalg.LinAlgError:  # the penalty is less than the rounding errors without another fold
                selection = self.select_closed_form(solve, stop)
        layer = self.expand(self.covariances(stop).refit(solve, float(selection.values[0])))
        return self.tuned_head(selection, layer, "strength={}")

    def select_closed_form(
        self,
        solve: Solve,
        stop: Stop = never,
        steps: StepProgress | None = None,
        only: float | None = None,
        first_fold: bool = False,
    ) -> CVSelection:
        """See `search_strengths`. Raises OutOfTimeError, LinAlgError.

        only : the only strength to try. first_fold : whether the heads are scored on the first fold alone.
        """
        covariances, held_out = self.covariances(stop), self.held_out.first_fold if first_fold else self.held_out

        def path(strengths: Sequence[float]) -> Iterable[PathWeights]:
            members = covariances.path(solve, strengths, stop, 1 if first_fold else None)
            return steps.over(members) if steps else members

        if only is not None:
            return select_on_path(path([only]), held_out, stop)
        return search_strengths(path, held_out, stop)

    def covariances(self, stop: Stop = never) -> RegularizedCovariances:
        """Of the rows. Raises OutOfTimeError."""
        if self._covariances is None:
            width = self._features.x.shape[2]
            self._covariances = RegularizedCovariances(self.statistics(stop), self.problem.x.mean, width)
        return self._covariances

    def estimate_closed_form_s(self) -> float:
        """See `featcache.heads.solvers.closed_form.estimate_s`."""
        return estimate_s(*self.problem.x.shape, self.folds + 1)

    def logistic_path(
        self,
        stop: Stop = never,
        Cs: Sequence[float] | None = None,
        feature_mask: NDArray[np.bool_] | None = None,
        fold: int | None = None,
    ) -> Iterator[PathWeights]:
        """Softmax regression, or with several labels a logistic regression for each, at one C after the other.

        Parameters
        ----------
        Cs : from strong to weak penalties; None takes `self.c_path`.
        feature_mask : the features that each problem may use, shape (k, d); None: all.
        fold : the only fold to hold out; None: each of them.
        """
        folds = np.arange(self.folds) if fold is None else np.array([fold])
        problem_ids = (folds[:, None] * self._problems + np.arange(self._problems)).ravel()
        for solution in self._solve(Cs or self.c_path, problem_ids, CV_TOL, stop, feature_mask):
            coef = solution.coef.reshape(len(folds), -1, solution.coef.shape[-1])
            yield PathWeights(float(solution.C), coef, solution.intercept.reshape(len(folds), -1))

    def estimate_logistic_path_s(self) -> float:
        """The time that a choice of C by `logistic_path` takes, in seconds: that of a pass over the rows, times 80."""
        p, d = self._problems, len(self.problem.x.mean)
        problem_ids = np.arange(self.folds * p)
        totals = self.problem.class_weights().sum(axis=1)
        theta = np.zeros((len(problem_ids), self.problem.outputs, d + 1), self.problem.x.mean.dtype)
        loss_and_gradient = self.rows.loss_and_gradient
        loss_and_gradient(theta[:1], problem_ids[:1], totals, None)  # a GPU, or a cluster, begins with it
        started = time.perf_counter()
        loss_and_gradient(theta, problem_ids, totals, None)
        return _PASSES * (time.perf_counter() - started)

    def refit(
        self, selection: CVSelection, feature_mask: NDArray[np.bool_] | None = None, start: Layer | None = None
    ) -> Layer:
        """The same regression on all images, at the C that was chosen, as a layer for features.

        start : where the solver starts; None: at the mean over the folds.
        """
        p = self._problems
        problem_ids = np.arange(self.folds * p, (self.folds + 1) * p)
        coef, intercept = start or (selection.coef.mean(axis=0), selection.intercept.mean(axis=0))
        first = coef.reshape(p, -1, coef.shape[-1]), intercept.reshape(p, -1)
        Cs = [selection.values if p > 1 else float(selection.values[0])]
        solution = next(self._solve(Cs, problem_ids, TOL, never, feature_mask, first))
        return self.expand(Layer(solution.coef.reshape(coef.shape), solution.intercept.ravel()))

    @property
    def _problems(self) -> int:
        """Regressions of a fold: one, or one for each label."""
        return len(self.classes) if self.multilabel else 1

    def _solve(
        self,
        Cs: Sequence[float | NDArray[np.float64]],
        problem_ids: NDArray[np.int64],
        tol: float,
        stop: Stop,
        feature_mask: NDArray[np.bool_] | None,
        start: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
    ) -> Iterator[Solution]:
        return solve_path(
            self.problem,
            self.preconditioner,
            Cs,
            tol,
            MAX_ITER,
            feature_mask=feature_mask,
            loss_and_gradient=interruptible(self.rows.loss_and_gradient, stop),
            problem_ids=problem_ids,
            start=start,
        )

    def select(self, path: Iterable[PathWeights], stop: Stop = never) -> CVSelection:
        """See `select_on_path`; reports each member of the path as progress."""
        with StepProgress(self.progress, "fit strengths", len(PENALTIES)) as steps:
            return select_on_path(steps.over(path), self.held_out, stop)

    def tuned_head(self, selection: CVSelection, layer: Layer, setting: str) -> TunedHead:
        """A head of a layer for features; `setting` has {} where the value that was chosen stands, or is empty."""
        coef, intercept = layer.coef / selection.temperature[:, None], layer.intercept / selection.temperature
        probabilities = selection.probabilities(self.multilabel)
        if self.multilabel:
            head: BaseEstimator = OneVsRestHead.from_weights(coef, intercept)
            temperature: float | tuple[float, ...] = tuple(selection.temperature.tolist())
        else:
            head = LinearHead.from_weights(coef, intercept, self.classes)
            temperature = float(selection.temperature[0])
        low, high = selection.values.min(), selection.values.max()
        value = f"{low:.3g}" + ("" if low == high else f" to {high:.3g} by label")
        text = setting.format(value) + (", cut short" if selection.interrupted and setting else "")
        return TunedHead(head, text, selection.trials, probabilities, temperature, selection.interrupted)


def c_grid(squares: NDArray[np.float64], weight: NDArray[np.float64], d: int, mean: NDArray[Any]) -> list[float]:
    """PENALTIES as C of `LinearHead`.

    squares : see `CenteredMatrix`. weight, mean : of the rows, (n,) and (r,). d : number of features, r or more.
    """
    total = float(weight.sum())
    scale = safe_mean_variance(float(squares.sum()) / total / d, mean) * total
    return [1 / (strength * scale) for strength in PENALTIES]
