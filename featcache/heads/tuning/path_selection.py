"""`select_on_path`: of linear heads along a path of a setting, the one with the least log-loss on held-out images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from featcache.cache.lazy_arrays import CenteredMatrix
from featcache.core.samples import Labels
from featcache.core.splitting import NEVER
from featcache.heads.solvers.path import OutOfTimeError, PathWeights, Stop, never
from featcache.metrics.calibration import fit_label_temperatures, fit_temperature, label_log_loss, mean_log_loss

PATIENCE, GAIN = 2, 1e-2
"""A path ends when so many weights in a row have not lowered the log-loss by this share."""

_LEARNT = 0.98  # of the first log-loss: before anything is learnt, all are alike


class CVScore(NamedTuple):
    """Scores of one value of a setting on held-out images: log-loss in nats at its best temperature, accuracy."""

    value: float
    log_loss: float
    accuracy: float


@dataclass(frozen=True)
class HeldOut:
    """Of n images, those that cross-validation holds out.

    labels : see `core.samples.Labels`. fold : (n,), see `featcache.core.splitting`. weight : how much each image
    counts, (n,); with several labels (n, c). logits : of `rows`, each by the problem that held it out, (m, outputs).
    """

    labels: Labels
    fold: NDArray[np.int64]
    weight: NDArray[np.float64]
    logits: Callable[[PathWeights], NDArray[np.float64]]

    @classmethod
    def from_views(
        cls, x: CenteredMatrix, labels: Labels, fold: NDArray[np.int64], weight: NDArray[np.float64]
    ) -> HeldOut:
        """x : clean views of the images, (n, d)."""
        return cls(labels, fold, weight, partial(_logits, x, fold))

    @property
    def rows(self) -> NDArray[np.int64]:
        """The images that some problem holds out, shape (m,)."""
        return np.flatnonzero(self.fold >= 0)

    @property
    def first_fold(self) -> HeldOut:
        """The images of fold 0 alone, for weights of the problem that holds it out."""
        is_first = self.fold[self.rows] == 0

        def logits(weights: PathWeights) -> NDArray[np.float64]:
            return self.logits(weights)[is_first]

        return replace(self, fold=np.where(self.fold == 0, 0, NEVER), logits=logits)


def _logits(x: CenteredMatrix, fold: NDArray[np.int64], weights: PathWeights) -> NDArray[np.float64]:
    intercept = weights.intercept + weights.coef @ x.mean.astype(np.float64)
    coef = weights.coef.astype(x.mean.dtype)
    logits = np.empty((len(fold), coef.shape[1]))
    for rows, block in x:
        for number in range(len(coef)):
            index = np.flatnonzero(fold[rows] == number)
            logits[rows][index] = block[index] @ coef[number].T + intercept[number]
    return logits[fold >= 0]


@dataclass(frozen=True)
class CVSelection:
    """The weights that were chosen, and their scores. A choice is made for all classes together, or for each label.

    values : of the setting, (g,): g is 1, or the number of labels. temperature, log_loss : on held-out images, (g,).
    logits : of held-out images, before the temperature, (m, c). coef : (folds, outputs, d). intercept : (folds,
    outputs). trials : scores of all values that were tried. interrupted : whether `stop` ended the path.
    """

    values: NDArray[np.float64]
    temperature: NDArray[np.float64]
    log_loss: NDArray[np.float64]
    logits: NDArray[np.float64]
    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]
    trials: tuple[CVScore, ...]
    interrupted: bool = False

    def probabilities(self, multilabel: bool) -> NDArray[np.float64]:
        """Probabilities of the held-out images at the temperature, shape (m, c)."""
        logits = self.logits / self.temperature
        return np.asarray(expit(logits) if multilabel else softmax(logits, axis=1), np.float64)


def select_on_path(
    path: Iterable[PathWeights],
    held_out: HeldOut,
    stop: Stop = never,
    temperature: NDArray[np.float64] | None = None,
) -> CVSelection:
    """The weights with the least log-loss on held-out images, each at its best temperature.

    A path ends early if two weights in a row have not lowered the log-loss by a hundredth, as weaker penalties take
    longest, or if `stop` returns True. A path that raises OutOfTimeError after its first weights ends there; before,
    the error is passed on.

    Parameters
    ----------
    path : iterable of PathWeights
        From strong to weak penalties.
    held_out : HeldOut
        With one label an image, its labels are indices of the outputs.
    stop : callable
        Whether the time is over.
    temperature : ndarray, optional
        First value of the search for the best temperature; None: 1.

    Raises
    ------
    OutOfTimeError
    """
    rows = held_out.rows
    labels, weight = held_out.labels[rows], held_out.weight[rows]
    scores: _Scores = _LabelScores(labels, weight) if labels.ndim == 2 else _ClassScores(labels, weight)
    trials: list[CVScore] = []
    best: _Best | None = None
    if temperature is None:
        temperature = np.ones(1)
    interrupted = False
    members = iter(path)
    while True:
        try:
            weights = next(members)
        except StopIteration:
            break
        except OutOfTimeError:
            if best is None:
                raise
            interrupted = True
            break
        logits = scores.logits(held_out.logits(weights))
        temperature = scores.temperature(logits, temperature)
        log_loss = scores.log_loss(logits / temperature)
        trials.append(CVScore(weights.value, float(log_loss.mean()), scores.accuracy(logits)))
        if best is None:
            best = _Best(weights, logits, temperature, log_loss)
        else:
            best.update(weights, logits, temperature, log_loss)
        interrupted = not best.is_final and stop()
        if interrupted or best.is_final:
            break
    if best is None:
        raise AssertionError("a path has one member or more")
    return CVSelection(
        best.values, best.temperature, best.log_loss, best.logits, best.coef, best.intercept, tuple(trials), interrupted
    )


class _Best:
    """The best weights of a path so far, choice by choice; see `CVSelection` for the attributes."""

    def __init__(
        self,
        weights: PathWeights,
        logits: NDArray[np.float64],
        temperature: NDArray[np.float64],
        log_loss: NDArray[np.float64],
    ) -> None:
        self.coef, self.intercept, self.logits = weights.coef, weights.intercept, logits
        self.temperature, self.log_loss = temperature, log_loss
        self.values = np.full(len(log_loss), weights.value)
        self._learnt = log_loss * _LEARNT
        self._before = log_loss  # the lowest one when it last fell by GAIN
        self._failures = np.zeros(len(log_loss), np.int64)

    @property
    def is_final(self) -> bool:
        """Whether the log-loss of no choice falls any more."""
        return bool(self._failures.min() >= PATIENCE)

    def update(
        self,
        weights: PathWeights,
        logits: NDArray[np.float64],
        temperature: NDArray[np.float64],
        log_loss: NDArray[np.float64],
    ) -> None:
        """Take what has a lower log-loss, unless the log-loss of its choice has stopped to fall."""
        active = self._failures < PATIENCE
        better = (log_loss < self.log_loss) & active
        gained = (log_loss < self._before * (1 - GAIN)) & active
        rose = log_loss > self.log_loss * (1 + GAIN / 10)
        self._failures = np.where(gained, 0, self._failures + (rose | (self.log_loss < self._learnt)))
        self._before = np.where(gained, log_loss, self._before)
        if not better.any():
            return
        self.values = np.where(better, weights.value, self.values)
        self.temperature = np.where(better, temperature, self.temperature)
        self.log_loss = np.where(better, log_loss, self.log_loss)
        self.logits = np.where(better, logits, self.logits)
        self.coef = np.where(better[:, None], weights.coef, self.coef)
        self.intercept = np.where(better, weights.intercept, self.intercept)


class _Scores(Protocol):
    """How logits of held-out images are scored, choice by choice."""

    def logits(self, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Logits of all classes or labels, (m, c), of the outputs of the problems."""

    def temperature(self, logits: NDArray[np.float64], start: NDArray[np.float64]) -> NDArray[np.float64]:
        """The temperatures with the least log-loss, (g,), searched from `start`."""

    def log_loss(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log-loss in nats, (g,)."""

    def accuracy(self, logits: NDArray[np.float64]) -> float:
        """Fraction of images whose class, or all of whose labels, are right."""


class _ClassScores:
    """One choice for classes that exclude each other. y : (m,). weight : (m,)."""

    def __init__(self, y: NDArray[np.int64], weight: NDArray[np.float64]) -> None:
        self._y, self._weight = y, weight

    def logits(self, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        return two_sided(outputs)

    def temperature(self, logits: NDArray[np.float64], start: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([fit_temperature(logits, self._y, self._weight, float(start[0]))])

    def log_loss(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([mean_log_loss(logits, self._y, self._weight)])

    def accuracy(self, logits: NDArray[np.float64]) -> float:
        return float(np.mean(logits.argmax(axis=1) == self._y))


class _LabelScores:
    """A choice for each of c labels. y : (m, c), 0 or 1. weight : (m, c).

    A label that all held-out images have, or none, has no best setting: it gets the one that is best for the others.
    """

    def __init__(self, y: NDArray[np.uint8], weight: NDArray[np.float64]) -> None:
        self._y, self._weight = y, weight
        self._constant = np.all(y == y[0], axis=0)

    def logits(self, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        return outputs

    def temperature(self, logits: NDArray[np.float64], start: NDArray[np.float64]) -> NDArray[np.float64]:
        start = np.broadcast_to(start, self._y.shape[1:])
        return np.where(self._constant, 1.0, fit_label_temperatures(logits, self._y, self._weight, start))

    def log_loss(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        log_loss = label_log_loss(logits, self._y, self._weight)
        if not self._constant.all():
            log_loss[self._constant] = log_loss[~self._constant].mean()
        return log_loss

    def accuracy(self, logits: NDArray[np.float64]) -> float:
        return float(np.mean(np.all((logits > 0) == self._y, axis=1)))


def two_sided(logits: NDArray[Any]) -> NDArray[np.float64]:
    """(m, 1) log-odds of the second of two classes as (m, 2) logits; more columns are returned unchanged."""
    logits = np.asarray(logits, np.float64)
    return np.hstack([-logits / 2, logits / 2]) if logits.shape[1] == 1 else logits
