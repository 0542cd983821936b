"""`solve_path`: softmax regression along a path of L2 penalties, for several folds at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from featcache.cache.lazy_arrays import CenteredMatrix
from featcache.heads.solvers.lbfgs import minimize
from featcache.heads.solvers.path import OutOfTimeError, Stop, never
from featcache.heads.solvers.preconditioner import LowRankPreconditioner

_MIN_FRACTION = 1e-9  # of a class, and of the curvature of a logit
_MEMORY_BYTES = 2**29  # for the steps that L-BFGS remembers


class BatchedProblem(Protocol):
    """k regressions on the same n rows, as `solve_path` needs them.

    x : the rows. weight : of the rows, (n,), not negative. k : number of regressions. outputs : logits of each; 1 for
    two classes, else c.
    """

    @property
    def x(self) -> CenteredMatrix: ...
    @property
    def weight(self) -> NDArray[np.float64]: ...
    @property
    def k(self) -> int: ...
    @property
    def outputs(self) -> int: ...

    def class_weights(self) -> NDArray[np.float64]:
        """The sum of the weights of each class in each problem, shape (k, c)."""

    def weights(self, rows: slice, problem_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Weights of b rows in the a problems with these indices, shape (a, b)."""

    def targets(self, rows: slice, problem_ids: NDArray[np.int64]) -> NDArray[Any]:
        """Classes of b rows, shape (b,), or (a, b) if each problem has its own."""

    def to_device(self, move: Callable[[NDArray[Any]], Any]) -> Any:
        """A copy whose arrays are converted by `move`, such as to tensors on a GPU; x is not copied."""


class CVSoftmaxProblem(NamedTuple):
    """k softmax regressions on the same n rows: problem f holds out the rows of fold f, the last problem none.

    x : the rows. labels : (n,), int64. weight : (n,), float64, not negative. fold : (n,), int64, from 0 to k - 2, or -1
    for rows that no problem holds out. k : number of problems. outputs : logits; 1 for two classes, else c.
    """

    x: CenteredMatrix
    labels: NDArray[np.int64]
    weight: NDArray[np.float64]
    fold: NDArray[np.int64]
    k: int
    outputs: int

    def class_weights(self) -> NDArray[np.float64]:
        """The sum of the weights of each class in each problem, shape (k, c)."""
        folds = range(self.k)
        return np.stack([
            np.bincount(self.labels, self.weight * (self.fold != fold), minlength=max(2, self.outputs))
            for fold in folds
        ])  # fmt: skip

    def weights(self, rows: slice, problem_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Weights of b rows in the a problems with these indices, shape (a, b)."""
        weights: NDArray[np.float64] = self.weight[rows] * (self.fold[rows] != problem_ids[:, None])
        return weights

    def targets(self, rows: slice, problem_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Classes of b rows, shape (b,)."""
        return self.labels[rows]

    def to_device(self, move: Callable[[NDArray[Any]], Any]) -> CVSoftmaxProblem:
        """See `BatchedProblem`."""
        return self._replace(labels=move(self.labels), weight=move(self.weight), fold=move(self.fold))


LossAndGradient = Callable[
    [NDArray[Any], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64] | None],
    tuple[NDArray[np.float64], NDArray[Any]],
]
"""See `loss_and_gradient`."""


class Solution(NamedTuple):
    """The minima of a problems at one C, or at one C each, (a,).

    coef : (a, outputs, d), float64. intercept : (a, outputs), float64. iterations, converged : (a,).
    """

    C: float | NDArray[np.float64]
    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]
    iterations: NDArray[np.int64]
    converged: NDArray[np.bool_]


def solve_path(
    problem: BatchedProblem,
    preconditioner: LowRankPreconditioner,
    Cs: Sequence[float | NDArray[np.float64]],
    tol: float,
    max_iter: int,
    device: str = "cpu",
    feature_mask: NDArray[np.bool_] | None = None,
    loss_and_gradient: LossAndGradient | None = None,
    problem_ids: NDArray[np.int64] | None = None,
    start: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> Iterator[Solution]:
    """The minima of C * sum_i w_i loss_i + ||coef||^2 / 2 for one C after the other, each started from the last one.

    Ascending Cs take the fewest steps. `minimize` needs few of them because its first estimate of the inverse Hessian
    is that of a softmax with the mean curvature at all rows: a covariance, of which the leading eigenvectors suffice
    (Frangella, Tropp and Udell 2023), times the curvature of each logit, plus the penalty.

    Parameters
    ----------
    problem : BatchedProblem
        The regressions.
    preconditioner : LowRankPreconditioner
        Of problem.x.
    Cs : sequence of float or ndarray
        Inverse strengths of the penalty; of all problems, or of each, (a,).
    tol, max_iter
        See `minimize`.
    device : str
        On a device other than "cpu", PyTorch computes the passes over the rows.
    feature_mask : ndarray of bool, shape (k, d), optional
        The features that each problem may use; the others have coefficients of 0. None: all.
    loss_and_gradient : callable, optional
        The result of `make_loss_and_gradient`, if it exists already; `device` is ignored then.
    problem_ids : ndarray, shape (a,), optional
        The problems to solve, ascending. None: all k.
    start : tuple of ndarray, optional
        coef (a, outputs, d) and intercept (a, outputs) to begin with. None: 0, and the logarithms of the class sizes.
    """
    mean, dtype = problem.x.mean.astype(np.float64), problem.x.mean.dtype
    ids = np.arange(problem.k) if problem_ids is None else problem_ids
    a, outputs, d = len(ids), problem.outputs, len(mean)
    weights = problem.class_weights()
    totals = weights.sum(axis=1)
    theta = np.zeros((a, outputs, d + 1), dtype)
    if start is None:
        theta[..., -1] = _prior_logits(weights[ids], outputs)
    else:
        coef = start[0] if feature_mask is None else start[0] * feature_mask[ids][:, None]
        theta[..., :-1], theta[..., -1] = coef, start[1] + coef @ mean
    memory = max(3, min(10, _MEMORY_BYTES // (2 * theta.nbytes)))
    loss_and_gradient = loss_and_gradient or make_loss_and_gradient(problem, device)
    for C in Cs:
        penalty = 1 / (C * totals[ids])
        objective = _Objective(problem, ids, loss_and_gradient, preconditioner, totals, penalty, feature_mask)
        minimum = minimize(objective.evaluate, theta.reshape(a, -1), objective.precondition, tol, max_iter, memory)
        theta = minimum.x.reshape(theta.shape)
        coef = theta[..., :-1].astype(np.float64)
        yield Solution(C, coef, theta[..., -1] - coef @ mean, minimum.iterations, minimum.converged)


def _prior_logits(weights: NDArray[np.float64], outputs: int) -> NDArray[np.float64]:
    """The intercepts, (a, outputs), that are best with coefficients of 0. weights : of classes, (a, c)."""
    logs = np.log(np.maximum(weights / weights.sum(axis=1, keepdims=True), _MIN_FRACTION))
    logs -= logs.mean(axis=1, keepdims=True)
    return logs if outputs > 1 else logs[:, 1:] - logs[:, :1]


def make_loss_and_gradient(problem: BatchedProblem, device: str) -> LossAndGradient:
    """`loss_and_gradient` of a problem; on a device other than "cpu" by PyTorch, with a copy of the rows."""
    if device == "cpu":
        return partial(loss_and_gradient, problem)
    from featcache.heads.solvers.torch_pass import TorchLossAndGradient  # PyTorch takes seconds to import

    return TorchLossAndGradient(problem, device)


def interruptible(loss_and_gradient: LossAndGradient, stop: Stop) -> LossAndGradient:
    """The same pass over the rows, which raises OutOfTimeError if `stop` returns True."""
    if stop is never:
        return loss_and_gradient

    def run(*arguments: Any, **options: Any) -> Any:
        if stop():
            raise OutOfTimeError
        return loss_and_gradient(*arguments, **options)

    return run


class _Objective:
    """The functions that `minimize` needs for one C. Objectives are divided by C and by the weight of the problem.

    problem_ids : of the problems that are solved, (a,). totals : weight of each problem, (k,). penalty : (a,).
    feature_mask : see `solve_path`.
    """

    def __init__(
        self,
        problem: BatchedProblem,
        problem_ids: NDArray[np.int64],
        loss_and_gradient: LossAndGradient,
        preconditioner: LowRankPreconditioner,
        totals: NDArray[np.float64],
        penalty: NDArray[np.float64],
        feature_mask: NDArray[np.bool_] | None,
    ) -> None:
        self._problem, self._loss_and_gradient, self._preconditioner = problem, loss_and_gradient, preconditioner
        self._problem_ids, self._totals, self._penalty = problem_ids, totals, penalty
        self._feature_mask = None if feature_mask is None else feature_mask[problem_ids]
        self._curvature: NDArray[np.float64] | None = None  # at the start, where the last C ended

    def evaluate(self, points: NDArray[Any], active: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[Any]]:
        """Values and gradients, see `lbfgs.Objective`."""
        theta = self._shaped(points)
        curvature = np.zeros(theta.shape[:2]) if self._curvature is None else None
        losses, gradient = self._loss_and_gradient(theta, self._problem_ids[active], self._totals, curvature)
        if curvature is not None:
            self._curvature = np.maximum(curvature, _MIN_FRACTION)
        penalty, coef = self._penalty[active], theta[..., :-1]
        gradient[..., :-1] += penalty[:, None, None].astype(coef.dtype) * coef
        self._mask(gradient, active)
        squares = np.einsum("kod,kod->k", coef, coef, dtype=np.float64)
        return losses + penalty / 2 * squares, gradient.reshape(points.shape)

    def precondition(self, gradients: NDArray[Any], active: NDArray[np.int64]) -> NDArray[Any]:
        """See `lbfgs.Precondition`."""
        gradient = self._shaped(gradients)
        if self._curvature is None:
            raise AssertionError("evaluate is called before precondition")
        curvature = self._curvature[active]
        direction = np.empty_like(gradient)
        direction[..., :-1] = self._preconditioner.solve(gradient[..., :-1], curvature, self._penalty[active, None])
        direction[..., -1] = gradient[..., -1] / curvature
        if curvature.shape[1] > 1:  # a common offset of all classes changes no probability, and is 0 at the minimum
            direction -= direction.mean(axis=1, keepdims=True)
        self._mask(direction, active)
        return direction.reshape(gradients.shape)

    def _mask(self, directions: NDArray[Any], active: NDArray[np.int64]) -> None:
        """Set directions of masked features to 0, so that their coefficients stay 0."""
        if self._feature_mask is not None:
            directions[..., :-1] *= self._feature_mask[active][:, None]

    def _shaped(self, flat: NDArray[Any]) -> NDArray[Any]:
        """(a, outputs, d + 1), the intercept last."""
        return flat.reshape(len(flat), self._problem.outputs, len(self._problem.x.mean) + 1)


def loss_and_gradient(
    problem: BatchedProblem,
    theta: NDArray[Any],
    problem_ids: NDArray[np.int64],
    totals: NDArray[np.float64],
    curvature: NDArray[np.float64] | None,
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Mean losses (a,) and their gradients (a, outputs, d + 1).

    theta : (a, outputs, d + 1), of the problems with the indices `problem_ids`. totals : weight of all problems, (k,).
    curvature : zeros, (a, outputs); the mean p (1 - p) of each logit is added to it. None: it is not needed.
    """
    a, outputs, width = theta.shape
    parameters = np.ascontiguousarray(theta.swapaxes(0, 1)).reshape(outputs * a, width)
    coef, intercept = parameters[:, :-1], parameters[:, -1:]
    losses, gradient = np.zeros(a), np.zeros_like(parameters)
    for rows, x in problem.x:
        weight = problem.weights(rows, problem_ids) / totals[problem_ids, None]  # (a, b)
        logits = np.empty((outputs * a, len(x)), x.dtype)  # sums over classes are over axis 0
        np.add((x @ coef.T).T, intercept, out=logits)
        loss, slope = cross_entropy(logits.reshape(outputs, a, len(x)), problem.targets(rows, problem_ids))
        losses += np.einsum("ab,ab->a", weight, loss)
        weight = weight.astype(x.dtype)
        if curvature is not None:
            size = np.abs(slope)
            curvature += np.einsum("ab,oab->ao", weight, size * (1 - size))
        slope *= weight
        slope = slope.reshape(outputs * a, len(x))
        gradient[:, :-1] += slope @ x
        gradient[:, -1] += slope.sum(axis=1)
    return losses, gradient.reshape(outputs, a, width).swapaxes(0, 1)


def cross_entropy(logits: NDArray[Any], labels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Losses (a, b) in nats of logits (outputs, a, b), and their derivatives; the logits are overwritten.

    labels : shape (b,), or (a, b) if outputs is 1.

    Both are computed from the differences to the logit of the true class, so that small values keep their precision in
    float32.
    """
    if len(logits) == 1:
        sign = 1 - 2 * labels.astype(logits.dtype)
        margin = sign * logits[0]
        return np.logaddexp(0, margin), (sign * expit(margin))[None]
    rows = np.arange(len(labels))
    logits -= logits[labels, :, rows].T
    top = logits.max(axis=0)  # 0 where the true class has the largest logit
    logits -= top
    odds, true_class = np.exp(logits, out=logits), np.exp(-top)
    odds[labels, :, rows] = 0
    others = odds.sum(axis=0)
    losses = np.where(top > 0, top + np.log(true_class + others), np.log1p(others))
    odds[labels, :, rows] = -others.T
    odds /= true_class + others
    return losses, odds
