"""`TuningData`: heads that choose their own settings, each judged on the same left-out images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.base import BaseEstimator
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

from featcache._utils.progress_bar import Progress
from featcache.cache.features import Features, ViewUse
from featcache.cache.lazy_arrays import safe_mean_variance
from featcache.core.progress import StepProgress
from featcache.core.splitting import NEVER, plan_folds
from featcache.errors import HeadError
from featcache.heads.solvers.closed_form import EigenDecompositions, SufficientStatistics, nearest_centroid
from featcache.heads.solvers.knn import knn_probabilities
from featcache.heads.solvers.preconditioner import LowRankPreconditioner
from featcache.heads.solvers.softmax import CVSoftmaxProblem, LossAndGradient, solve_path
from featcache.heads.tuning.head2toe import FRACTIONS, select_features
from featcache.heads.tuning.path_selection import (
    CVScore,
    CVSelection,
    HeldOut,
    OutOfTimeError,
    PathWeights,
    select_on_path,
)
from featcache.heads.tuning.training_rows import LocalRows, Targets, TrainingRows

if TYPE_CHECKING:
    from featcache.heads.ray.coordinator import TrainingCluster

PENALTIES = tuple(np.logspace(4, -6, 16).tolist())  # of a penalty, in shares of a feature's mean variance
TOL, MAX_ITER = 1e-5, 1000

Stop = Callable[[], bool]


class TunedHead(NamedTuple):
    """A head with the setting that left-out images prefer.

    setting : as text, "C=0.2". trials : of all settings. probabilities : of the left-out images, shape (m, c).
    temperature : what the head's logits were divided by, if they were.
    """

    estimator: BaseEstimator
    setting: str
    trials: tuple[CVScore, ...]
    probabilities: NDArray[np.float64]
    temperature: float | None = None


class TuningData:
    """Training features in the form that the families share; what several of them need is worked out once.

    Parameters
    ----------
    features : of train. use : the views to train on. class_weight : see `LinearHead`. folds : None takes 5, or holds
    a fifth out once where images times classes are more than a million. seed : of the folds.
    device : of linear, see `LinearHead`. team : machines that share the rows, see `TrainingCluster`; then device is
    theirs. progress : called for each strength that a family tries, for each share of the features of head2toe.

    Attributes
    ----------
    classes : labels in the training data, ascending. rows : those to train on.

    Raises
    ------
    HeadError : one class, or features that are not finite. ClusterError : of the team.
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
        team: TrainingCluster | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.classes, labels = np.unique(features.y, return_inverse=True)
        if len(self.classes) < 2:
            only = features.samples.classes[self.classes[0]]
            raise HeadError(f"a head needs two classes or more, and all training images are {only}")
        fold, parts = plan_folds(labels, len(self.classes), features.samples.split_keys, folds, seed)
        if np.all(fold == NEVER):
            raise HeadError(
                f"no class has {features.samples.two_distinct}, so none can be left out to choose settings by. "
                "Fit a head with settings of your own, such as linear with C=1 (--head linear -p C=1)."
            )
        try:
            class_weight = weights_by_index(class_weight, features.samples.classes)
            by_class = compute_class_weight(class_weight, classes=self.classes, y=features.y)[labels]
            if not by_class.min() > 0:
                raise ValueError("class_weight must be greater than 0 for every class")
            targets = Targets(labels, by_class, fold, 1 + parts, 1 if len(self.classes) == 2 else len(self.classes))
            self.rows: TrainingRows = (
                team.share(features, use, targets) if team else LocalRows(features, use, targets, device)
            )
        except (TypeError, ValueError) as error:
            raise HeadError(f"the head could not be fitted: {error}") from error
        self.class_weight, self.progress = class_weight, progress
        self._features = features
        self._moments: list[SufficientStatistics] | None = None
        self._spectra: EigenDecompositions | None = None

    @property
    def problems(self) -> CVSoftmaxProblem:
        """See `TrainingRows`."""
        return self.rows.problems

    @property
    def left_out(self) -> HeldOut:
        """See `TrainingRows`."""
        return self.rows.left_out

    @property
    def clean(self) -> NDArray[np.float32]:
        """The clean views, shape (n, d), in memory. Raises ValueError where several machines have them."""
        if not isinstance(self.rows, LocalRows):
            raise ValueError("it compares all images with each other, on one machine: leave out the cluster")
        return np.asarray(self._features.lazy_view(0), dtype=np.float32)

    def moments(self, stop: Stop = lambda: False) -> list[SufficientStatistics]:
        """Of each problem. Raises OutOfTimeError."""
        if self._moments is None:
            self._moments = self.rows.moments(stop)
        return self._moments

    def spectra(self, stop: Stop = lambda: False) -> EigenDecompositions:
        """Of each problem's covariance. Raises OutOfTimeError."""
        if self._spectra is None:
            self._spectra = EigenDecompositions(self.moments(stop), self.problems.x.mean)
        self._spectra.decompose(stop)
        return self._spectra


def weights_by_index(class_weight: Any, names: tuple[str, ...]) -> Any:
    """Weights by class name as weights by index."""
    if not isinstance(class_weight, Mapping):
        return class_weight
    unknown = [name for name in class_weight if isinstance(name, str) and name not in names]
    if unknown:
        raise ValueError(f"class_weight names {unknown[0]!r}; the classes are {', '.join(names)}")
    return {names.index(name) if isinstance(name, str) else name: weight for name, weight in class_weight.items()}


def linear(tuning: TuningData, stop: Stop = lambda: False) -> TunedHead:
    """Softmax regression along the path of L2 strengths."""
    problems = tuning.problems
    spectrum = LowRankPreconditioner.of(problems.x, problems.weight)
    Cs = c_grid(tuning.rows.squares, problems.weight, problems.x.mean)
    path = solve_path(problems, spectrum, Cs, TOL, MAX_ITER, one_pass=_interruptible(tuning.rows.one_pass, stop))
    tuned, C = _chosen(tuning, (PathWeights(one.C, one.coef, one.intercept) for one in path), "C={:.3g}", stop)
    tuned.estimator.set_params(C=C, class_weight=tuning.class_weight)
    return tuned


def head2toe(tuning: TuningData, stop: Stop = lambda: False) -> TunedHead:
    """Softmax regression on the features that it leans on most, see `featcache.heads.tuning.head2toe`."""
    problems = tuning.problems
    spectrum = LowRankPreconditioner.of(problems.x, problems.weight)
    squares, one_pass = tuning.rows.squares, _interruptible(tuning.rows.one_pass, stop)
    strengths = c_grid(squares, problems.weight, problems.x.mean)

    def fit(kept: NDArray[np.bool_] | None, Cs: Sequence[float] | None) -> CVSelection:
        path = solve_path(problems, spectrum, Cs or strengths, TOL, MAX_ITER, kept=kept, one_pass=one_pass)
        layers = (PathWeights(one.C, one.coef, one.intercept) for one in path)
        found = select_on_path(layers, tuning.left_out, tuning.classes, stop)
        steps.advance()
        return found

    with StepProgress(tuning.progress, "fit shares of the features", len(FRACTIONS)) as steps:
        found, fraction = select_features(squares, fit, strengths, stop)
    d = len(problems.x.mean)
    tuned, _ = _tuned(found, f"{round(fraction * d)} of {d} features, C={{:.3g}}")
    return tuned


def c_grid(squares: NDArray[np.float64], weight: NDArray[np.float64], mean: NDArray[Any]) -> list[float]:
    """STRENGTHS as C of `LinearHead`; squares : see `Centred`; weight : of the rows, (n,); mean : theirs, (d,)."""
    total = float(weight.sum())
    scale = safe_mean_variance(float(squares.sum()) / total / len(mean), mean) * total
    return [1 / (strength * scale) for strength in PENALTIES]


def ridge(tuning: TuningData, stop: Stop = lambda: False) -> TunedHead:
    """Least squares, all strengths from one eigendecomposition."""
    return _chosen(tuning, tuning.spectra(stop).ridge(PENALTIES), "strength={:.3g}", stop)[0]


def lda(tuning: TuningData, stop: Stop = lambda: False) -> TunedHead:
    """Linear discriminant analysis, all strengths of shrinkage from the same eigendecomposition."""
    return _chosen(tuning, tuning.spectra(stop).lda(PENALTIES), "strength={:.3g}", stop)[0]


def centroid(tuning: TuningData, stop: Stop = lambda: False) -> TunedHead:
    """The nearest mean direction of a class."""
    return _chosen(tuning, nearest_centroid(tuning.moments(stop), tuning.problems.x.mean), "", stop)[0]


def _chosen(tuning: TuningData, path: Iterable[PathWeights], setting: str, stop: Stop) -> tuple[TunedHead, float]:
    with StepProgress(tuning.progress, "fit strengths", len(PENALTIES)) as steps:
        found = select_on_path(steps.over(path), tuning.left_out, tuning.classes, stop)
    return _tuned(found, setting)


def _tuned(found: CVSelection, setting: str) -> tuple[TunedHead, float]:
    probabilities = softmax(found.logits / found.temperature, axis=1)
    text = setting.format(found.value) + (", cut short" if found.cut and setting else "")
    return TunedHead(found.head, text, found.trials, probabilities, found.temperature), found.value


def knn(tuning: TuningData, stop: Stop = lambda: False) -> TunedHead | None:
    """The nearest clean views by cosine, none of them of the fold that the image is left out with."""
    from sklearn.neighbors import KNeighborsClassifier  # a tenth of a second, which no other head waits for

    left_out, names = tuning.left_out, range(len(tuning.classes))
    x, labels, rows = tuning.clean, left_out.labels, left_out.rows
    found = knn_probabilities(x, labels, left_out.fold, rows, len(names), stop)
    if not found:  # no time, or no other image
        return None
    y, weight = labels[rows], left_out.weight[rows]
    trials, scores = [], {}
    for k, shares in found.items():
        right = shares.argmax(axis=1) == y
        loss = log_loss(y, shares, sample_weight=weight, labels=names)
        trials.append(CVScore(k, loss, float(right.mean())))
        scores[k] = float(np.average(right, weights=weight)), -loss
    k = max(scores, key=lambda k: scores[k])
    estimator = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(x, tuning.classes[labels])
    return TunedHead(estimator, f"k={k}", tuple(trials), found[k])


def _interruptible(one_pass: LossAndGradient, stop: Stop) -> LossAndGradient:
    """The same pass over the rows, which raises OutOfTimeError where `stop` says so."""

    def run(*arguments: Any, **named: Any) -> Any:
        if stop():
            raise OutOfTimeError
        return one_pass(*arguments, **named)

    return run


# In the order in which `auto` tries them: ridge and lda are last, since they share six decompositions, each of which
# takes seconds where features are wide, whatever the number of images, and cannot be cut short.
TUNED_HEADS: Mapping[str, Callable[[TuningData, Stop], TunedHead | None]] = {
    "centroid": centroid,
    "knn": knn,
    "linear": linear,
    "head2toe": head2toe,
    "ridge": ridge,
    "lda": lda,
}
