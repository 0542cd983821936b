"""`fit_tuned`: tuned heads compared on the same held-out images, and the best of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from featcache._utils.formatting import text_table
from featcache._utils.progress_bar import Progress
from featcache._utils.results import Result
from featcache.core.progress import StepProgress
from featcache.errors import ClusterError, HeadError
from featcache.heads.held_out import HeldOutPredictions, HeldOutScores
from featcache.heads.linear import LinearHead
from featcache.heads.one_vs_rest import OneVsRestHead
from featcache.heads.registry import HeadSpec
from featcache.heads.solvers.path import OutOfTimeError, Stop, never
from featcache.heads.training_data import FitOptions, Fitted, TrainingData
from featcache.heads.tuning.held_out_novelty import measure_novelty
from featcache.heads.tuning.path_selection import CVScore
from featcache.heads.tuning.tuning_data import TunedHead, TuningData
from featcache.metrics.classification import Accuracy
from featcache.metrics.multilabel import LabelAccuracy, judge
from featcache.metrics.significance import paired_test

_NOISE = 0.05

CANDIDATE_COLUMNS = ("head", "accuracy", "95 % interval", "log-loss", "seconds")

BUDGET_S = 10.0
"""Of `auto`, unless the user gives one."""


class Candidate(NamedTuple):
    """One head on the held-out images. p : of McNemar's test against the chosen head."""

    head: str
    setting: str
    accuracy: Accuracy | LabelAccuracy
    seconds: float
    p: float
    trials: tuple[CVScore, ...] = ()


@dataclass(frozen=True)
class Selection(Result):
    """The result of cross-validation.

    Attributes
    ----------
    candidates : tuple of Candidate
        Best first.
    images : int
        Training images that were held out in turn.
    folds : int
        How often heads were trained on the other images; 1 for one held-out part.
    temperature : float or tuple of float, optional
        What the logits of the chosen head were divided by; with several labels one for each.
    skipped : tuple of (str, str)
        Heads that were not compared, and why.
    """

    candidates: tuple[Candidate, ...]
    images: int
    folds: int
    temperature: float | tuple[float, ...] | None = None
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def chosen(self) -> Candidate:
        """Of those within one standard error of the most accurate one, that with the lowest log-loss."""
        return self.candidates[0]

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """A row of `CANDIDATE_COLUMNS` for each candidate, the best first."""
        return [
            (
                f"{candidate.head} {candidate.setting}".strip(),
                f"{candidate.accuracy.accuracy:.4f}",
                f"{candidate.accuracy.accuracy_low:.4f} to {candidate.accuracy.accuracy_high:.4f}",
                "none" if candidate.accuracy.log_loss is None else f"{candidate.accuracy.log_loss:.4f}",
                f"{candidate.seconds:.2f}",
            )
            for candidate in self.candidates
        ]

    def __str__(self) -> str:
        how = f"{self.folds}-fold cross-validation" if self.folds > 1 else "a part of train held out"
        lines = [f"{how}, {self.images} training samples:"]
        lines += [f"  {line}" for line in text_table([CANDIDATE_COLUMNS, *self.rows])]
        if any(candidate.trials for candidate in self.candidates):
            lines.append("  (settings were chosen on these samples: the figures of val are the unbiased ones)")
        alike = [candidate.head for candidate in self.candidates[1:] if candidate.p >= _NOISE]
        if alike:
            lines.append(f"{self.chosen.head} and {', '.join(alike)} differ by no more than noise (McNemar p >= 0.05)")
        if len(self.candidates) > 1:
            lines.append(
                f"chosen: {self.chosen.head}, which has the lowest log-loss of the heads whose accuracy is within one "
                "standard error of the best"
            )
        lines += [f"{name} was left out: {reason}" for name, reason in self.skipped]
        return "\n".join(lines)

    def _json_fields(self) -> dict[str, Any]:
        return {
            "folds": self.folds,
            "images": self.images,
            "temperature": self.temperature,
            "entrants": [
                {
                    "head": candidate.head,
                    "setting": candidate.setting,
                    "seconds": candidate.seconds,
                    "p": candidate.p,
                    **candidate.accuracy.to_dict(),
                    "trials": [trial._asdict() for trial in candidate.trials],
                }
                for candidate in self.candidates
            ],
            "missed": self.skipped,
        }


def check_tuned_options(spec: HeadSpec, options: FitOptions) -> None:
    """Raise HeadError for options that a head which chooses its settings does not take."""
    options.reject("scaling", message="is for heads that are not tuned: fix their settings with -p, or name another")
    options.reject("calibrate", message="is for heads that have no probabilities of their own")
    if set(options.parameters) - {"class_weight"}:
        advice = ". Name the head that they are for, such as linear" if spec.tries_heads else ""
        raise HeadError(f"{spec.name} chooses its settings itself; it takes class_weight alone{advice}")
    if spec.clean_views and options.view_use == "mean":
        raise HeadError("neighbours vote with their clean views; leave out use_views")


def fit_tuned(name: str, specs: Sequence[HeadSpec], data: TrainingData, options: FitOptions) -> Fitted:
    """Tune heads on train, within the budget if there are several, and keep the best.

    Parameters
    ----------
    name : str
        What the user calls the head.
    specs : sequence of HeadSpec
        Kinds that have `tune`, in the order in which they are tried.

    Raises
    ------
    HeadError
    """
    single = len(specs) == 1
    thresholds = options.label_thresholds(data.train.samples.classes)
    started = time.perf_counter()
    tuning = TuningData(
        data.train,
        options.view_use,
        class_weight=options.parameters.get("class_weight"),
        folds=options.cv,
        seed=options.seed,
        device=options.compute_device,
        cluster=options.cluster,
        progress=options.progress if single else None,
    )
    budget_s = BUDGET_S if options.budget_s is None else options.budget_s
    left_s = None if single else budget_s - (time.perf_counter() - started)
    tuned, selection = select(tuning, specs, data.train.samples.classes, left_s, None if single else options.progress)
    uncalibrated = without_temperature(tuned)
    rows, classes = tuning.held_out.rows, data.train.samples.classes
    held_out_labels = data.train.y[rows]
    predictions = HeldOutPredictions(rows, *_all_classes(tuned, tuning, len(classes)))
    scores = None
    if not tuning.multilabel:
        scores = HeldOutScores.from_probabilities(predictions.probabilities, held_out_labels, measure_novelty(tuning))
    fitted = Fitted(
        tuned.estimator,
        selection.chosen.head,
        selection=selection,
        uncalibrated=uncalibrated,
        held_out=scores,
        held_out_predictions=predictions,
    )
    return fitted.with_thresholds(thresholds, classes, held_out_labels, tuned.probabilities)


def select(
    tuning: TuningData,
    specs: Sequence[HeadSpec],
    class_names: tuple[str, ...],
    budget_s: float | None = None,
    progress: Progress | None = None,
) -> tuple[TunedHead, Selection]:
    """Tune one head after the other until the budget is spent, and choose the best.

    Parameters
    ----------
    specs : sequence of HeadSpec
        Kinds that have `tune`.
    budget_s : float, optional
        Seconds from now. A head that would not end in time, or fails, is skipped; the last one is fitted if there is no
        other.
    progress : callable, optional
        Called for each head that was tried.

    Raises
    ------
    HeadError
        No head could be fitted.
    """
    end = time.perf_counter() + (float("inf") if budget_s is None else budget_s)
    heads: dict[str, tuple[TunedHead, float]] = {}
    skipped: list[tuple[str, str]] = []
    with StepProgress(progress, "fit heads", len(specs)) as steps:
        for number, spec in enumerate(specs):
            if number:
                steps.advance()
            started = time.perf_counter()
            if heads and started >= end:
                skipped.append((spec.name, "the budget was spent"))
                continue
            is_last_resort = number == len(specs) - 1 and not heads
            if budget_s is not None and spec.estimate_s and not is_last_resort:
                expected = spec.estimate_s(tuning)
                if expected and started + expected > end:
                    skipped.append((spec.name, _too_long(expected, max(0.0, end - started))))
                    continue
            is_limited = budget_s is not None and heads
            tuned = _tune(spec, tuning, partial(_is_over, end) if is_limited else never)
            if isinstance(tuned, str):
                skipped.append((spec.name, tuned))
            elif tuned.cut_short:
                skipped.append((spec.name, "its search was cut short by the budget"))
            else:
                heads[spec.name] = tuned, time.perf_counter() - started
    if not heads:
        raise HeadError("; ".join(f"{name} could not be fitted: {reason}" for name, reason in skipped))
    return _choose(heads, tuning, class_names, tuple(skipped))


def _tune(spec: HeadSpec, tuning: TuningData, stop: Stop) -> TunedHead | str:
    """The tuned head, or why there is none."""
    if spec.tune is None:
        raise AssertionError(f"{spec.name} has no settings to choose")
    try:
        tuned = spec.tune(tuning, stop)
    except OutOfTimeError:
        return "the budget was spent"
    except ClusterError:  # other heads would fail as well
        raise
    except (ValueError, MemoryError, RuntimeError) as error:  # LinAlgError; a GPU without memory
        return f"it failed ({error})"
    return "the budget was spent, or there are too few samples" if tuned is None else tuned


def _choose(
    heads: dict[str, tuple[TunedHead, float]],
    tuning: TuningData,
    class_names: tuple[str, ...],
    skipped: tuple[tuple[str, str], ...],
) -> tuple[TunedHead, Selection]:
    """The head with the lowest log-loss of those that are as accurate as the best; heads : with their seconds."""
    rows, labels = tuning.held_out.rows, tuning.held_out.labels
    y = labels[rows] if tuning.multilabel else tuning.classes[labels[rows]]
    weight = np.ones(len(rows)) if tuning.multilabel else tuning.held_out.weight[rows]
    scores: dict[str, Accuracy | LabelAccuracy] = {}
    right: dict[str, NDArray[np.bool_]] = {}
    for name, (tuned, _) in heads.items():
        predicted, probabilities = _all_classes(tuned, tuning, len(class_names))
        scores[name] = judge(y, predicted, probabilities, class_names)
        right[name] = np.all(predicted == y, axis=1) if tuning.multilabel else predicted == y
    order = sorted(scores, key=lambda name: (-np.average(right[name], weights=weight), scores[name].log_loss))
    alike = [name for name in order if _is_as_good(right[name], right[order[0]])]
    best = min(alike, key=lambda name: scores[name].log_loss or 0.0)
    order.remove(best)
    candidates = tuple(
        Candidate(
            name,
            heads[name][0].setting,
            scores[name],
            heads[name][1],
            1.0 if name == best else paired_test(right[best], right[name]).p,
            heads[name][0].trials,
        )
        for name in (best, *order)
    )
    tuned = heads[best][0]
    return tuned, Selection(candidates, len(rows), tuning.folds, tuned.temperature, skipped)


def _too_long(expected_s: float, left_s: float) -> str:
    if expected_s == float("inf"):
        return "its matrices of all pairs of features do not fit in memory"
    return f"it would take about {expected_s:.0f} s, and {left_s:.0f} s are left"


def _is_over(limit: float) -> bool:
    return time.perf_counter() > limit


def _is_as_good(right: NDArray[np.bool_], best: NDArray[np.bool_]) -> bool:
    """Whether a head is no more than one standard error of their difference below the best, on the same images.

    The one-standard-error rule of Breiman et al. (1984, "Classification and Regression Trees"), paired.
    """
    lost, won = int(np.sum(best & ~right)), int(np.sum(right & ~best))
    return lost - won <= (lost + won) ** 0.5


def _all_classes(tuned: TunedHead, tuning: TuningData, n_classes: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Predictions and probabilities of the held-out images, (m, c), for classes without training images, too."""
    if tuning.multilabel:
        return (tuned.probabilities > 0.5).astype(np.int64), tuned.probabilities
    full = np.zeros((len(tuned.probabilities), n_classes))
    full[:, tuning.classes] = tuned.probabilities
    return tuning.classes[tuned.probabilities.argmax(axis=1)], full


def without_temperature(tuned: TunedHead) -> BaseEstimator | None:
    """The same linear head before its logits were divided by the temperature; None for other heads."""
    head = tuned.estimator
    if tuned.temperature is None:
        return None
    temperature = np.asarray(tuned.temperature)
    if isinstance(head, LinearHead):
        return LinearHead.from_weights(head.coef_ * temperature, head.intercept_ * temperature, head.classes_)
    if isinstance(head, OneVsRestHead):
        return OneVsRestHead.from_weights(head.coef_ * temperature[:, None], head.intercept_ * temperature)
    return None
