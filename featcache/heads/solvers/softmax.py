"""`solve_path`: softmax regression along a path of L2 strengths, of several folds at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from featcache.cache.lazy_arrays import CenteredMatrix
from featcache.heads.solvers.lbfgs import minimize
from featcache.heads.solvers.preconditioner import LowRankPreconditioner

_LEAST = 1e-9  # share of a class, and curvature of a logit
_MEMORY_BYTES = 2**29  # of the steps that L-BFGS remembers


class BatchedProblem(Protocol):
    """k regressions on the same n rows: what `solve_path` asks of them.

    x : the rows. k : their number. outputs : logits of each; 1 for two classes, else c.
    """

    @property
    def x(self) -> CenteredMatrix: ...
    @property
    def k(self) -> int: ...
    @property
    def outputs(self) -> int: ...

    def shares(self) -> NDArray[np.float64]:
        """The weight of each class in each problem, shape (k, c)."""

    def weights(self, rows: slice, which: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of b rows in the a problems `which`, shape (a, b)."""

    def targets(self, rows: slice, which: NDArray[np.int64]) -> NDArray[Any]:
        """Classes of b rows, shape (b,), or (a, b) where the problems have each their own."""

    def moved(self, move: Callable[[NDArray[Any]], Any]) -> Any:
        """The same with arrays that `move` gives, such as tensors on a GPU, but for x."""


class CVSoftmaxProblem(NamedTuple):
    """k softmax regressions on the same n rows: problem f leaves out the rows of fold f, the last one none.

    x : the rows. labels : (n,), int64. weight : (n,), float64, not negative. fold : (n,), int64, from 0 to k - 2, or -1
    for rows that no problem leaves out. k : their number. outputs : logits; 1 for two classes, else c.
    """

    x: CenteredMatrix
    labels: NDArray[np.int64]
    weight: NDArray[np.float64]
    fold: NDArray[np.int64]
    k: int
    outputs: int

    def shares(self) -> NDArray[np.float64]:
        """The weight of each class in each problem, shape (k, c)."""
        folds = range(self.k)
        return np.stack([
            np.bincount(self.labels, self.weight * (self.fold != fold), minlength=max(2, self.outputs))
            for fold in folds
        ])  # fmt: skip

    def weights(self, rows: slice, which: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of b rows in the a problems `which`, shape (a, b)."""
        found: NDArray[np.float64] = self.weight[rows] * (self.fold[rows] != which[:, None])
        return found

    def targets(self, rows: slice, which: NDArray[np.int64]) -> NDArray[np.int64]:
        """Classes of b rows, shape (b,)."""
        return self.labels[rows]

    def moved(self, move: Callable[[NDArray[Any]], Any]) -> CVSoftmaxProblem:
        """See `BatchedProblem`."""
        return self._replace(labels=move(self.labels), weight=move(self.weight), fold=move(self.fold))


LossAndGradient = Callable[
    [NDArray[Any], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64] | None],
    tuple[NDArray[np.float64], NDArray[Any]],
]
"""See `loss_and_gradient`."""


class Solution(NamedTuple):
    """The k minima at one strength.

    coef : (k, outputs, d), float64. intercept : (k, outputs), float64. iterations, converged : (k,).
    """

    C: float
    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]
    iterations: NDArray[np.int64]
    converged: NDArray[np.bool_]


def solve_path(
    problems: BatchedProblem,
    spectrum: LowRankPreconditioner,
    Cs: Sequence[float],
    tol: float,
    max_iter: int,
    device: str = "cpu",
    kept: NDArray[np.bool_] | None = None,
    one_pass: LossAndGradient | None = None,
) -> Iterator[Solution]:
    """The minima of C * sum_i w_i loss_i + ||coef||^2 / 2, for one C after the other, each found from the one before.

    From weak to strong C that takes the fewest steps. `minimize` needs few of them because its first estimate of the
    inverse Hessian is that of a softmax as curved at every row as this one is on average: a covariance, of which the
    leading directions suffice (Frangella, Tropp and Udell 2023), times the curvature of each logit, plus the penalty.

    spectrum : of problems.x. tol, max_iter : see `minimize`. device : other than "cpu", PyTorch works there.
    kept : the features that each problem may use, shape (k, d); None for all. The others have coefficients of 0.
    one_pass : over these problems, where it was made before, see `make_loss_and_gradient`; then there is no need of
    device.
    """
    mean, dtype = problems.x.mean.astype(np.float64), problems.x.mean.dtype
    k, outputs, d = problems.k, problems.outputs, len(mean)
    weights = problems.shares()
    totals = weights.sum(axis=1)
    logs = np.log(np.maximum(weights / totals[:, None], _LEAST))
    logs -= logs.mean(axis=1, keepdims=True)
    theta = np.zeros((k, outputs, d + 1), dtype)  # the best without any coefficients
    theta[..., -1] = logs if outputs > 1 else logs[:, 1:] - logs[:, :1]
    memory = max(3, min(10, _MEMORY_BYTES // (2 * theta.nbytes)))
    one_pass = one_pass or make_loss_and_gradient(problems, device)
    for C in Cs:
        step = _Step(problems, one_pass, spectrum, totals, 1 / (C * totals), kept)
        found = minimize(step.objective, theta.reshape(k, -1), step.precondition, tol, max_iter, memory)
        theta = found.x.reshape(theta.shape)
        coef = theta[..., :-1].astype(np.float64)
        yield Solution(C, coef, theta[..., -1] - coef @ mean, found.iterations, found.converged)


def make_loss_and_gradient(problems: BatchedProblem, device: str) -> LossAndGradient:
    """The pass over the rows, made by PyTorch on a device other than "cpu", which takes a copy of them there."""
    if device == "cpu":
        return partial(loss_and_gradient, problems)
    from featcache.heads.solvers.torch_pass import TorchLossAndGradient  # PyTorch takes seconds to import

    return TorchLossAndGradient(problems, device)


class _Step:
    """What `minimize` asks of one strength; objectives are divided by C and by the problems' weights.

    totals, penalty : shape (k,). kept : see `solve_path`.
    """

    def __init__(
        self,
        problems: BatchedProblem,
        one_pass: LossAndGradient,
        spectrum: LowRankPreconditioner,
        totals: NDArray[np.float64],
        penalty: NDArray[np.float64],
        kept: NDArray[np.bool_] | None,
    ) -> None:
        self._problems, self._pass, self._spectrum = problems, one_pass, spectrum
        self._totals, self._penalty, self._kept = totals, penalty, kept
        self._curvature: NDArray[np.float64] | None = None  # where the strength before left it

    def objective(self, points: NDArray[Any], which: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[Any]]:
        theta = self._shaped(points)
        first = np.zeros(theta.shape[:2]) if self._curvature is None else None
        losses, gradient = self._pass(theta, which, self._totals, first)
        if first is not None:
            self._curvature = np.maximum(first, _LEAST)
        penalty, coef = self._penalty[which], theta[..., :-1]
        gradient[..., :-1] += penalty[:, None, None].astype(coef.dtype) * coef
        self._leave_out(gradient, which)
        squares = np.einsum("kod,kod->k", coef, coef, dtype=np.float64)
        return losses + penalty / 2 * squares, gradient.reshape(points.shape)

    def precondition(self, gradients: NDArray[Any], which: NDArray[np.int64]) -> NDArray[Any]:
        gradient = self._shaped(gradients)
        if self._curvature is None:
            raise AssertionError("the objective comes first")
        curvature = self._curvature[which]
        found = np.empty_like(gradient)
        found[..., :-1] = self._spectrum.times_inverse(gradient[..., :-1], curvature, self._penalty[which, None])
        found[..., -1] = gradient[..., -1] / curvature
        if curvature.shape[1] > 1:  # what all classes have in common changes no probability, and is 0 at the minimum
            found -= found.mean(axis=1, keepdims=True)
        self._leave_out(found, which)
        return found.reshape(gradients.shape)

    def _leave_out(self, directions: NDArray[Any], which: NDArray[np.int64]) -> None:
        """Never leave 0 where a coefficient shall be 0: minimising goes along sums of such directions."""
        if self._kept is not None:
            directions[..., :-1] *= self._kept[which][:, None]

    def _shaped(self, flat: NDArray[Any]) -> NDArray[Any]:
        """(a, outputs, d + 1), the intercept last."""
        return flat.reshape(len(flat), self._problems.outputs, len(self._problems.x.mean) + 1)


def loss_and_gradient(
    problems: BatchedProblem,
    theta: NDArray[Any],
    which: NDArray[np.int64],
    totals: NDArray[np.float64],
    curvature: NDArray[np.float64] | None,
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Mean losses (a,) and their gradients (a, outputs, d + 1).

    theta : (a, outputs, d + 1), of the problems `which`. curvature : of zeros, (a, outputs); the mean p (1 - p) of each
    logit is added to it.
    """
    a, outputs, width = theta.shape
    weights = np.ascontiguousarray(theta.swapaxes(0, 1)).reshape(outputs * a, width)
    coef, intercept = weights[:, :-1], weights[:, -1:]
    losses, gradient = np.zeros(a), np.zeros_like(weights)
    for rows, x in problems.x:
        share = problems.weights(rows, which) / totals[which, None]  # (a, b)
        logits = np.empty((outputs * a, len(x)), x.dtype)  # rows of one class lie together: its sums are over axis 0
        np.add((x @ coef.T).T, intercept, out=logits)
        loss, slope = cross_entropy(logits.reshape(outputs, a, len(x)), problems.targets(rows, which))
        losses += np.einsum("ab,ab->a", share, loss)
        share = share.astype(x.dtype)
        if curvature is not None:
            size = np.abs(slope)
            curvature += np.einsum("ab,oab->ao", share, size * (1 - size))
        slope *= share
        slope = slope.reshape(outputs * a, len(x))
        gradient[:, :-1] += slope @ x
        gradient[:, -1] += slope.sum(axis=1)
    return losses, gradient.reshape(outputs, a, width).swapaxes(0, 1)


def cross_entropy(logits: NDArray[Any], labels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Losses (a, b) in nats of logits (outputs, a, b), and their derivatives by the logits, in the logits' place.

    labels : shape (b,), or (a, b) where outputs is 1.

    Both come from the margins to the own class, so that small ones keep all their digits in float32.
    """
    if len(logits) == 1:
        sign = 1 - 2 * labels.astype(logits.dtype)
        margin = sign * logits[0]
        return np.logaddexp(0, margin), (sign * expit(margin))[None]
    rows = np.arange(len(labels))
    logits -= logits[labels, :, rows].T
    top = logits.max(axis=0)  # 0 where the own class leads
    logits -= top
    odds, own = np.exp(logits, out=logits), np.exp(-top)
    odds[labels, :, rows] = 0
    others = odds.sum(axis=0)
    losses = np.where(top > 0, top + np.log(own + others), np.log1p(others))
    odds[labels, :, rows] = -others.T
    odds /= own + others
    return losses, odds
