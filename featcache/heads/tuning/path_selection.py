"""`select_on_path`: the member of a path of linear heads that predicts images best which it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.cache.lazy_arrays import CenteredMatrix
from featcache.core.samples import Labels
from featcache.heads.linear import LinearHead
from featcache.metrics.calibration import fit_temperature, mean_log_loss

PATIENCE, RISE = 2, 1e-3


class OutOfTimeError(Exception):
    """The time for a head was up before it had a result."""


class PathWeights(NamedTuple):
    """Linear layers of k problems, the last of which saw all images.

    value : of what changes along the path: C, or the strength of a penalty. coef : shape (k, outputs, d).
    intercept : (k, outputs). outputs is 1 for two classes.
    """

    value: float
    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]


class CVScore(NamedTuple):
    """What one value reached on left-out images: log-loss in nats at the temperature that suits it, accuracy."""

    value: float
    log_loss: float
    accuracy: float


@dataclass(frozen=True)
class HeldOut:
    """Of n images, those that cross-validation leaves out.

    labels : see `core.samples.Labels`. fold : (n,), see `featcache.core.splitting`. weight : (n,), how much each
    counts. logits : of `rows`, each by the problem that left it out; shape (m, c), c >= 2.
    """

    labels: Labels
    fold: NDArray[np.int64]
    weight: NDArray[np.float64]
    logits: Callable[[PathWeights], NDArray[np.float64]]

    @classmethod
    def of(cls, x: CenteredMatrix, labels: Labels, fold: NDArray[np.int64], weight: NDArray[np.float64]) -> HeldOut:
        """x : their clean views, (n, d)."""
        return cls(labels, fold, weight, partial(_logits, x, fold))

    @property
    def rows(self) -> NDArray[np.int64]:
        """Those that some problem leaves out."""
        return np.flatnonzero(self.fold >= 0)


def _logits(x: CenteredMatrix, fold: NDArray[np.int64], layers: PathWeights) -> NDArray[np.float64]:
    k, outputs, d = layers.coef.shape
    coef = layers.coef[:-1].reshape(-1, d)
    intercept = layers.intercept[:-1].ravel() + coef @ x.mean.astype(np.float64)
    coef = coef.astype(x.mean.dtype)
    found = []
    for rows, block in x:
        here = np.flatnonzero(fold[rows] >= 0)
        logits = (block[here] @ coef.T + intercept).reshape(len(here), k - 1, outputs)
        found.append(logits[np.arange(len(here)), fold[rows][here]])
    return two_sided(np.concatenate(found))


@dataclass(frozen=True)
class CVSelection:
    """A head with its temperature folded in, and what cross-validation says of it.

    value : see `PathWeights`. temperature : that the logits were divided by. trials : of all values that were tried.
    logits : of the left-out images, shape (m, c), before the temperature. cut : whether `stop` ended the path.
    layers : the member that was chosen. log_loss : its, on the left-out images.
    """

    head: LinearHead
    value: float
    temperature: float
    trials: tuple[CVScore, ...]
    logits: NDArray[np.float64]
    cut: bool
    layers: PathWeights
    log_loss: float


def select_on_path(
    path: Iterable[PathWeights], left_out: HeldOut, classes: NDArray[np.int64], stop: Callable[[], bool] = lambda: False
) -> CVSelection:
    """The member with the least log-loss on left-out images, each judged at the temperature that suits it best.

    A path ends early where the log-loss has risen twice since the best, or where `stop` says so. A path that raises
    OutOfTimeError behind its first member ends there; before that, the error is passed on.

    Parameters
    ----------
    path : from strong to weak penalties. left_out.labels index classes, which are the labels that heads predict.
    """
    rows = left_out.rows
    y, weight = left_out.labels[rows], left_out.weight[rows]
    trials: list[CVScore] = []
    best: tuple[float, PathWeights, float, NDArray[np.float64]] | None = None
    risen, temperature, cut = 0, 1.0, False
    members = iter(path)
    while True:
        try:
            layers = next(members)
        except StopIteration:
            break
        except OutOfTimeError:
            if best is None:
                raise
            cut = True
            break
        logits = left_out.logits(layers)
        temperature = fit_temperature(logits, y, weight, temperature)
        loss = mean_log_loss(logits / temperature, y, weight)
        trials.append(CVScore(layers.value, loss, float(np.mean(logits.argmax(axis=1) == y))))
        if best is None or loss < best[0]:
            best, risen = (loss, layers, temperature, logits), 0
        elif loss > best[0] * (1 + RISE):  # where nothing is learnt yet, all losses are alike
            risen += 1
        cut = risen < PATIENCE and stop()
        if cut or risen == PATIENCE:
            break
    if best is None:
        raise AssertionError("a path has members")
    loss, layers, temperature, logits = best
    coef, intercept = layers.coef[-1] / temperature, layers.intercept[-1] / temperature
    head = LinearHead.from_weights(coef, intercept, classes)
    return CVSelection(head, layers.value, temperature, tuple(trials), logits, cut, layers, loss)


def two_sided(logits: NDArray[Any]) -> NDArray[np.float64]:
    """(m, 1) log-odds of the second of two classes as (m, 2) logits; more columns as they are."""
    logits = np.asarray(logits, np.float64)
    return np.hstack([-logits / 2, logits / 2]) if logits.shape[1] == 1 else logits
