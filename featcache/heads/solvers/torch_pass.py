"""`TorchLossAndGradient`: loss and gradient of softmax regression, computed by PyTorch on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.cache import lazy_arrays

if TYPE_CHECKING:
    from featcache.heads.solvers.softmax import BatchedProblem

_LOGITS_BYTES = 2**28  # at a time; some four such arrays are there together
_KEPT_SHARE = 0.5  # of the memory that is free: rows that fit in it stay on the device


class TorchLossAndGradient:
    """Losses and gradients of regressions, in the rows' dtype: called as `softmax.numpy_pass` is.

    problems : on the CPU. device : "cuda", "cuda:1", "mps"; "cpu" is of use to tests alone.
    """

    def __init__(self, problems: BatchedProblem, device: str) -> None:
        self._x, self._outputs, self._device = problems.x, problems.outputs, torch.device(device)
        self._dtype = torch.from_numpy(problems.x.mean).dtype
        self._problems = problems.moved(self._moved)
        self._kept: Tensor | None = None
        n, d = problems.x.shape
        if n * d * problems.x.mean.itemsize <= _KEPT_SHARE * _free_bytes(self._device):
            self._kept = torch.empty((n, d), dtype=self._dtype, device=self._device)
            for rows, block in problems.x:
                self._kept[rows] = torch.from_numpy(block).to(self._device)
        self._sums = self._dtype if self._device.type == "mps" else torch.float64  # MPS has none

    def __call__(
        self,
        theta: NDArray[Any],
        which: NDArray[np.int64],
        totals: NDArray[np.float64],
        curvature: NDArray[np.float64] | None,
    ) -> tuple[NDArray[np.float64], NDArray[Any]]:
        """See `featcache.heads.solvers.softmax.loss_and_gradient`."""
        a, outputs, width = theta.shape
        weights = self._moved(np.ascontiguousarray(theta.swapaxes(0, 1)).reshape(outputs * a, width))
        coef, intercept = weights[:, :-1], weights[:, -1:]
        number, total = self._moved(which), self._moved(totals[which, None])
        losses, gradient = torch.zeros(a, dtype=self._sums, device=self._device), torch.zeros_like(weights)
        bend = weights.new_zeros(a, outputs)
        for rows, x in self._blocks(outputs * a):
            share = self._problems.weights(rows, number) / total
            logits = torch.addmm(intercept, coef, x.T).view(outputs, a, len(x))
            loss, slope = _cross_entropy(logits, self._problems.targets(rows, number))
            losses += (share * loss).sum(1, dtype=self._sums)
            if curvature is not None:
                size = slope.abs()
                bend += (share * size * (1 - size)).sum(2).T
            slope = (slope * share).view(outputs * a, len(x))
            gradient[:, :-1] += slope @ x
            gradient[:, -1] += slope.sum(1)
        if curvature is not None:
            curvature += bend.cpu().numpy()
        found = gradient.view(outputs, a, width).transpose(0, 1).cpu().numpy()
        return losses.cpu().numpy().astype(np.float64), found

    def _moved(self, array: NDArray[Any]) -> Tensor:
        """A copy on the device (a block is overwritten by the next), real numbers in the rows' dtype."""
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.to(self._device, self._dtype if tensor.is_floating_point() else tensor.dtype, copy=True)

    def _blocks(self, logits: int) -> Iterator[tuple[slice, Tensor]]:
        """Rows on the device, no more at a time than have `logits` each fit in _LOGITS_BYTES."""
        step = max(1, _LOGITS_BYTES // (logits * self._x.mean.itemsize))
        whole = [] if self._kept is None else [(slice(0, len(self._kept)), self._kept)]
        for rows, x in whole or ((rows, self._moved(x)) for rows, x in self._x):
            for start in range(0, len(x), step):
                part = x[start : start + step]
                yield slice(rows.start + start, rows.start + start + len(part)), part


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory()) - int(torch.mps.driver_allocated_memory())
    return 2 * lazy_arrays.MAX_CACHED_BYTES


def _cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """As `featcache.heads.solvers.softmax.cross_entropy`: losses (a, b) and slopes (outputs, a, b)."""
    if len(logits) == 1:
        sign = 1 - 2 * labels.to(logits.dtype)
        margin = sign * logits[0]
        return torch.nn.functional.softplus(margin, threshold=80), (sign * margin.sigmoid())[None]
    own = labels.expand(logits.shape[1:])[None]
    logits = logits - logits.gather(0, own)
    top = logits.amax(0)
    odds, base = (logits - top).exp_(), (-top).exp()
    odds.scatter_(0, own, 0.0)
    others = odds.sum(0)
    losses = torch.where(top > 0, top + (base + others).log(), others.log1p())
    odds.scatter_(0, own, -others[None])
    return losses, odds / (base + others)
