"""`tune_labels`: a head for images with several labels, each label with the strength that left-out images prefer."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from featcache._utils.progress_bar import Progress
from featcache.cache.features import Features, ViewUse
from featcache.cache.lazy_arrays import CenteredMatrix
from featcache.core.progress import StepProgress
from featcache.core.splitting import plan_folds
from featcache.errors import HeadError
from featcache.heads.one_vs_rest import OneVsRestHead, OneVsRestProblem, balance_labels
from featcache.heads.solvers.preconditioner import LowRankPreconditioner
from featcache.heads.solvers.softmax import solve_path
from featcache.heads.tuning.auto import Candidate, Selection
from featcache.heads.tuning.families import MAX_ITER, PENALTIES, TOL, c_grid, weights_by_index
from featcache.heads.tuning.path_selection import PATIENCE, RISE, CVScore, HeldOut, PathWeights
from featcache.metrics.calibration import fit_label_temperatures, label_log_loss
from featcache.metrics.multilabel import evaluate_labels


class TunedLabels(NamedTuple):
    """A head with its temperatures folded in, what cross-validation says of it, and the head without them.

    labels, probabilities : of the left-out images, each by the problem that left it out; shape (m, c).
    """

    head: OneVsRestHead
    selection: Selection
    untempered: OneVsRestHead
    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float64]


def tune_labels(
    features: Features,
    use: ViewUse = "all",
    *,
    class_weight: Any = None,
    folds: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> TunedLabels:
    """One logistic regression a label, all labels, strengths and folds solved together.

    Parameters
    ----------
    features : of train, with several labels an image. class_weight : see `OneVsRestHead`; names stand for labels, too.
    folds, seed, device, progress : see `featcache.heads.tuning.families.TuningData`.

    Raises
    ------
    HeadError : features that are not finite, or nothing to choose by.
    """
    started = time.perf_counter()
    samples, labels, c = features.samples, features.y, len(features.samples.classes)
    fold, parts = plan_folds(labels, c, samples.split_keys, folds, seed)
    flat = features.flatten(use)
    try:
        balance = balance_labels(weights_by_index(class_weight, samples.classes), flat.y, flat.weights)
        rows = CenteredMatrix(flat.x, flat.weights)
        clean = (
            rows
            if use == "clean" or features.views == 0
            else CenteredMatrix(features.lazy_view(0), np.ones(len(labels)))
        )
    except (TypeError, ValueError) as error:
        raise HeadError(f"the head could not be fitted: {error}") from error
    left_out = HeldOut.of(clean, labels, fold, np.ones(len(labels)))
    if not len(left_out.rows):
        raise HeadError(
            f"no label has {samples.two_distinct}, so none can be left out to choose strengths by. "
            "Fit a head with one of your own (-p C=1)."
        )
    spread = np.repeat(fold, len(flat.y) // len(labels))
    problems = OneVsRestProblem(rows, flat.y, flat.weights, balance, spread, parts + 1)
    Cs = c_grid(rows.squares(flat.weights), flat.weights, rows.mean)
    path = solve_path(problems, LowRankPreconditioner.of(rows, flat.weights), Cs, TOL, MAX_ITER, device)
    layers = (
        PathWeights(one.C, one.coef.reshape(parts + 1, c, -1), one.intercept.reshape(parts + 1, c)) for one in path
    )  # one layer a fold
    with StepProgress(progress, "fit strengths", len(PENALTIES)) as steps:
        best = _choose(steps.over(layers), left_out, balance, len(rows.mean))
    labels, probabilities = labels[left_out.rows], expit(best.logits / best.temperature)
    found = evaluate_labels(labels, probabilities, samples.classes)
    low, high = best.C.min(), best.C.max()
    setting = f"C={low:.3g}" + ("" if low == high else f" to {high:.3g} by label")
    entrant = Candidate("linear", setting, found, time.perf_counter() - started, 1.0, best.trials)
    selection = Selection((entrant,), len(left_out.rows), parts, tuple(best.temperature.tolist()))
    return TunedLabels(
        OneVsRestHead.from_weights(best.coef / best.temperature[:, None], best.intercept / best.temperature),
        selection,
        OneVsRestHead.from_weights(best.coef, best.intercept),
        labels,
        probabilities,
    )


class _Best:
    """The best of a path so far, label by label.

    C, temperature, log_loss, intercept : shape (c,). coef : (c, d). logits : (m, c), of left-out images. trials : of
    all labels together.
    """

    def __init__(self, c: int, d: int, m: int) -> None:
        self.C, self.temperature, self.intercept = np.ones(c), np.ones(c), np.zeros(c)
        self.log_loss, self.risen = np.full(c, np.inf), np.zeros(c, np.int64)
        self.coef, self.logits = np.zeros((c, d)), np.zeros((m, c))
        self.trials: tuple[CVScore, ...] = ()

    def offer(
        self,
        layers: PathWeights,
        logits: NDArray[np.float64],
        temperature: NDArray[np.float64],
        loss: NDArray[np.float64],
    ) -> None:
        """Take for each label what is better than before."""
        self.risen += loss > self.log_loss * (1 + RISE)
        better = (loss < self.log_loss) & (self.risen < PATIENCE)
        self.risen[better] = 0
        self.log_loss[better], self.temperature[better] = loss[better], temperature[better]
        self.C[better] = layers.value
        self.coef[better], self.intercept[better] = layers.coef[-1][better], layers.intercept[-1][better]
        self.logits[:, better] = logits[:, better]


def _choose(path: Iterable[PathWeights], left_out: HeldOut, balance: NDArray[np.float64], d: int) -> _Best:
    """See `path_selection.select_on_path`, which does the same for classes that exclude each other.

    A label that all left-out images have, or none, says nothing: it gets the strength that is best for the others.
    """
    y = left_out.labels[left_out.rows]
    silent = np.all(y == y[0], axis=0)
    weight = np.where(y, balance[:, 1], balance[:, 0])
    best = _Best(y.shape[1], d, len(y))
    temperature = np.ones(y.shape[1])
    for layers in path:
        logits = left_out.logits(layers)
        temperature = fit_label_temperatures(logits, y, weight, temperature)
        temperature[silent] = 1.0
        loss = label_log_loss(logits / temperature, y, weight)
        if not silent.all():
            loss[silent] = loss[~silent].mean()
        right = float(np.mean(np.all((logits > 0) == y, axis=1)))
        best.trials += (CVScore(layers.value, float(loss.mean()), right),)
        best.offer(layers, logits, temperature, loss)
        if best.risen.min() >= PATIENCE:
            break
    return best
