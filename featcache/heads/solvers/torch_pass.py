"""`TorchLossAndGradient`: loss and gradient of softmax regression, computed by PyTorch on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.backbones.float32 import ieee_float32
from featcache.heads.solvers.device_rows import DeviceRows

if TYPE_CHECKING:
    from featcache.heads.solvers.softmax import BatchedProblem

_LOGITS_BYTES = 2**28  # of one array; about four such arrays exist at a time


class TorchLossAndGradient:
    """Losses and gradients of regressions, in the dtype of the rows; called like `softmax.loss_and_gradient`.

    problem : on the CPU. device : "cuda", "cuda:1", "mps"; "cpu" is for tests.
    """

    def __init__(self, problem: BatchedProblem, device: str) -> None:
        self._device = torch.device(device)
        self._dtype = torch.from_numpy(problem.x.mean).dtype
        self._problem = problem.to_device(self._to_device)
        self._rows = DeviceRows(problem.x, self._device)
        self._sums = self._dtype if self._device.type == "mps" else torch.float64  # MPS has no float64

    def __call__(
        self,
        theta: NDArray[Any],
        problem_ids: NDArray[np.int64],
        totals: NDArray[np.float64],
        curvature: NDArray[np.float64] | None,
    ) -> tuple[NDArray[np.float64], NDArray[Any]]:
        """See `featcache.heads.solvers.softmax.loss_and_gradient`. float32 is IEEE float32, not TF32."""
        with ieee_float32():
            return self._compute(theta, problem_ids, totals, curvature)

    def _compute(
        self,
        theta: NDArray[Any],
        problem_ids: NDArray[np.int64],
        totals: NDArray[np.float64],
        curvature: NDArray[np.float64] | None,
    ) -> tuple[NDArray[np.float64], NDArray[Any]]:
        a, outputs, width = theta.shape
        parameters = self._to_device(np.ascontiguousarray(theta.swapaxes(0, 1)).reshape(outputs * a, width))
        coef, intercept = parameters[:, :-1], parameters[:, -1:]
        ids, total = self._to_device(problem_ids), self._to_device(totals[problem_ids, None])
        losses, gradient = torch.zeros(a, dtype=self._sums, device=self._device), torch.zeros_like(parameters)
        mean_curvature = parameters.new_zeros(a, outputs)
        for rows, x in self._blocks(outputs * a):
            weight = self._problem.weights(rows, ids) / total
            logits = torch.addmm(intercept, coef, x.T).view(outputs, a, len(x))
            loss, slope = _cross_entropy(logits, self._problem.targets(rows, ids))
            losses += (weight * loss).sum(1, dtype=self._sums)
            if curvature is not None:
                size = slope.abs()
                mean_curvature += (weight * size * (1 - size)).sum(2).T
            slope = (slope * weight).view(outputs * a, len(x))
            gradient[:, :-1] += slope @ x
            gradient[:, -1] += slope.sum(1)
        if curvature is not None:
            curvature += mean_curvature.cpu().numpy()
        gradients = gradient.view(outputs, a, width).transpose(0, 1).cpu().numpy()
        return losses.cpu().numpy().astype(np.float64), gradients

    def _to_device(self, array: NDArray[Any]) -> Tensor:
        """A copy on the device, real numbers in the dtype of the rows."""
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.to(self._device, self._dtype if tensor.is_floating_point() else tensor.dtype, copy=True)

    def _blocks(self, logits: int) -> Iterator[tuple[slice, Tensor]]:
        """Rows on the device, so many at a time that their logits, `logits` of each row, fit in _LOGITS_BYTES."""
        step = max(1, _LOGITS_BYTES // (logits * self._dtype.itemsize))
        for rows, x in self._rows:
            for start in range(0, len(x), step):
                part = x[start : start + step]
                yield slice(rows.start + start, rows.start + start + len(part)), part


def _cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Like `featcache.heads.solvers.softmax.cross_entropy`: losses (a, b) and slopes (outputs, a, b)."""
    if len(logits) == 1:
        sign = 1 - 2 * labels.to(logits.dtype)
        margin = sign * logits[0]
        return torch.nn.functional.softplus(margin, threshold=80), (sign * margin.sigmoid())[None]
    true_class = labels.expand(logits.shape[1:])[None]
    logits = logits - logits.gather(0, true_class)
    top = logits.amax(0)
    odds, base = (logits - top).exp_(), (-top).exp()
    odds.scatter_(0, true_class, 0.0)
    others = odds.sum(0)
    losses = torch.where(top > 0, top + (base + others).log(), others.log1p())
    odds.scatter_(0, true_class, -others[None])
    return losses, odds / (base + others)
