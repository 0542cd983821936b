"""`select`: several tuned heads compared on the same left-out images, and the best of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from featcache._utils.progress_bar import Progress
from featcache.core.progress import StepProgress
from featcache.errors import ClusterError, HeadError
from featcache.heads.tuning.families import TUNED_HEADS, TunedHead, TuningData
from featcache.heads.tuning.path_selection import CVScore, OutOfTimeError
from featcache.metrics.classification import Accuracy, evaluate
from featcache.metrics.multilabel import LabelAccuracy
from featcache.metrics.significance import paired_test

_NOISE = 0.05


class Candidate(NamedTuple):
    """One head on the left-out images. p : of McNemar's test against the chosen head."""

    head: str
    setting: str
    accuracy: Accuracy | LabelAccuracy
    seconds: float
    p: float
    trials: tuple[CVScore, ...] = ()


@dataclass(frozen=True)
class Selection:
    """What cross-validation says.

    entrants : best first. images : left out in turn. folds : how often the rest was trained on; 1 for a held-out part.
    temperature : that the chosen head's logits were divided by; one a label of several. missed : heads that were left
    out, and why.
    """

    entrants: tuple[Candidate, ...]
    images: int
    folds: int
    temperature: float | tuple[float, ...] | None = None
    missed: tuple[tuple[str, str], ...] = ()

    @property
    def chosen(self) -> Candidate:
        """Of those within one standard error of the most accurate one, that with the lowest log-loss."""
        return self.entrants[0]

    def __str__(self) -> str:
        how = f"{self.folds}-fold cross-validation" if self.folds > 1 else "a part of train held out"
        lines = [f"{how}, {self.images} training images:"]
        heads = [f"{one.head} {one.setting}".strip() for one in self.entrants]
        width = max(4, *map(len, heads))
        lines.append(f"  {'head':{width}}  accuracy  95 % interval     log-loss  seconds")
        for name, one in zip(heads, self.entrants, strict=True):
            found = one.accuracy
            loss = "none    " if found.log_loss is None else f"{found.log_loss:.4f}  "
            interval = f"{found.accuracy_low:.4f} to {found.accuracy_high:.4f}"
            lines.append(f"  {name:{width}}  {found.accuracy:.4f}    {interval}  {loss}  {one.seconds:.2f}")
        if any(one.trials for one in self.entrants):
            lines.append("  (settings were chosen on these images: the figures of val are the unbiased ones)")
        alike = [one.head for one in self.entrants[1:] if one.p >= _NOISE]
        if alike:
            lines.append(f"{self.chosen.head} and {', '.join(alike)} differ by no more than noise (McNemar p >= 0.05)")
        lines += [f"{name} was left out: {why}" for name, why in self.missed]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "folds": self.folds,
            "images": self.images,
            "temperature": self.temperature,
            "entrants": [
                {
                    "head": one.head,
                    "setting": one.setting,
                    "seconds": one.seconds,
                    "p": one.p,
                    **one.accuracy.to_dict(),
                    "trials": [trial._asdict() for trial in one.trials],
                }
                for one in self.entrants
            ],
            "missed": [list(pair) for pair in self.missed],
        }


def select(
    tuning: TuningData,
    names: Sequence[str],
    class_names: tuple[str, ...],
    budget_s: float | None = None,
    progress: Progress | None = None,
) -> tuple[BaseEstimator, Selection]:
    """Tune each of FAMILIES that is named, till the budget is spent, and keep the best.

    Parameters
    ----------
    names : in the order of FAMILIES: each may use half of the time that is left, the last one all of it.
    budget_s : seconds from now. The first head is always fitted. A later one whose time is up ends its path where it
        is, or is left out where it has no setting yet; so is one that fails.
    progress : called for each head that has been tried.

    Raises
    ------
    HeadError : nothing came of any.
    """
    end = time.perf_counter() + (float("inf") if budget_s is None else budget_s)
    found: dict[str, tuple[TunedHead, float]] = {}
    missed: list[tuple[str, str]] = []
    with StepProgress(progress, "fit heads", len(names)) as steps:
        for number, name in enumerate(names):
            if number:
                steps.advance()
            started = time.perf_counter()
            limit = end if name == names[-1] else started + (end - started) / 2
            if found and started >= end:
                missed.append((name, "the budget was spent"))
                continue
            try:
                tuned = TUNED_HEADS[name](tuning, partial(_is_over, limit if number and found else float("inf")))
            except OutOfTimeError:
                missed.append((name, "the budget was spent"))
                continue
            except ClusterError:  # no other head would fare better
                raise
            except (ValueError, MemoryError, RuntimeError) as error:  # LinAlgError; a GPU's memory
                missed.append((name, f"it failed ({error})"))
                continue
            if tuned is None:
                missed.append((name, "the budget was spent, or there are too few images"))
            else:
                found[name] = tuned, time.perf_counter() - started
    if not found:
        raise HeadError("; ".join(f"{name} could not be fitted: {why}" for name, why in missed))
    rows = tuning.left_out.rows
    y, weight = tuning.classes[tuning.left_out.labels[rows]], tuning.left_out.weight[rows]
    judged = {name: _judge(tuned, y, tuning.classes, class_names) for name, (tuned, _) in found.items()}
    right = {name: predicted == y for name, (_, predicted) in judged.items()}
    order = sorted(judged, key=lambda name: (-np.average(right[name], weights=weight), judged[name][0].log_loss))
    alike = [name for name in order if _is_as_good(right[name], right[order[0]])]
    best = min(alike, key=lambda name: judged[name][0].log_loss or 0.0)
    order.remove(best)
    entrants = tuple(
        Candidate(
            name,
            found[name][0].setting,
            judged[name][0],
            found[name][1],
            paired_test(right[best], right[name]).p,
            found[name][0].trials,
        )
        for name in (best, *order)
    )
    kept = found[best][0]
    return kept.estimator, Selection(entrants, len(rows), tuning.problems.k - 1, kept.temperature, tuple(missed))


def _is_over(limit: float) -> bool:
    return time.perf_counter() > limit


def _is_as_good(right: NDArray[np.bool_], best: NDArray[np.bool_]) -> bool:
    """Whether a head is no more than one standard error of their difference below the best, on the same images.

    The one-standard-error rule of Breiman et al. (1984, "Classification and Regression Trees"), paired.
    """
    lost, won = int(np.sum(best & ~right)), int(np.sum(right & ~best))
    return lost - won <= (lost + won) ** 0.5


def _judge(
    tuned: TunedHead, y: NDArray[np.int64], classes: NDArray[np.int64], names: tuple[str, ...]
) -> tuple[Accuracy, NDArray[np.int64]]:
    predicted = classes[tuned.probabilities.argmax(axis=1)]
    full = np.zeros((len(y), len(names)))
    full[:, classes] = tuned.probabilities
    return evaluate(y, predicted, names, full), predicted
