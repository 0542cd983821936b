"""`ProcessGroup`: processes that train one network together, as torchrun starts them, each on its shard of a batch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import MethodType
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

_T = TypeVar("_T")


class ProcessGroup:
    """The processes that train together. With one process, every method returns its argument.

    Parameters
    ----------
    rank : int
        The number of this process. Process 0 writes files and reports progress. Default: 0.
    size : int
        The number of processes. Default: 1.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._must_destroy = False

    @classmethod
    def from_torchrun(cls) -> ProcessGroup:
        """The group that torchrun describes in the environment; one process if torchrun did not start this one."""
        return cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes files and reports progress."""
        return self.rank == 0

    def local_device(self, device: str) -> str:
        """The GPU of this process if `device` is "cuda", else `device`."""
        return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if self.size > 1 and device == "cuda" else device

    def init(self, device: str) -> None:
        """Initialize torch.distributed. It waits for the other processes."""
        if self.size > 1 and not distributed.is_initialized():
            distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
            self._must_destroy = True

    def destroy(self) -> None:
        """Shut torch.distributed down, if `init` initialized it."""
        if self._must_destroy:
            distributed.destroy_process_group()
            self._must_destroy = False

    def all_gather(self, value: _T) -> list[_T]:
        """The values of all processes, in the order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait until all processes call this. Files that the main process wrote before exist afterwards."""
        self.all_gather(None)

    def shard(self, rows: Sequence[Any] | NDArray[Any]) -> Any:
        """The contiguous part of the rows for this process. Lengths differ by at most one; the first may be longer."""
        length, remainder = divmod(len(rows), self.size)
        start = self.rank * length + min(self.rank, remainder)
        return rows[start : start + length + (self.rank < remainder)]

    def scale_loss(self, loss: Tensor, images: int) -> Tensor:
        """Scale the mean loss of this process's images so that averaged gradients are those of the whole batch.

        DistributedDataParallel averages the gradients of processes, whose shards may differ in length.
        """
        if self.size == 1:
            return loss
        total = torch.tensor(float(images), device=loss.device)
        distributed.all_reduce(total)
        return (loss * images if images else loss.nan_to_num() * 0) * (self.size / total)

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module to call in training. Its gradients and BatchNorm statistics are those of the whole batch."""
        if self.size == 1:
            return module
        for part in module.modules():
            if isinstance(part, _BatchNorm) and "forward" not in vars(part):
                part.forward = MethodType(_sync_batchnorm_forward, part)  # type: ignore[method-assign]
        return nn.parallel.DistributedDataParallel(module, broadcast_buffers=False)


class _AllReduceSum(torch.autograd.Function):
    """The sum over all processes. The gradient flows back to each process."""

    @staticmethod
    def forward(_context: Any, local: Tensor) -> Tensor:
        total = local.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total


def _sync_batchnorm_forward(module: Any, x: Tensor) -> Tensor:
    """BatchNorm's forward pass with the statistics of the whole batch, on any device.

    PyTorch's SyncBatchNorm works only on GPUs. As in timm's BatchNormAct2d, dropout and an activation may follow.
    """
    if not module.training:
        return type(module).forward(module, x)
    values = x.float()
    dims = [0, *range(2, x.dim())]
    count = _all_reduce_sum(torch.tensor([x.numel() / max(1, x.shape[1])], device=x.device))
    if count <= 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(x.shape)}")
    shape = [1, -1, *[1] * (x.dim() - 2)]
    mean = _all_reduce_sum(values.sum(dims)) / count
    centered = values - mean.view(shape)
    variance = _all_reduce_sum((centered * centered).sum(dims)) / count
    if module.track_running_stats:
        module.num_batches_tracked += 1
        momentum = module.momentum if module.momentum is not None else 1 / float(module.num_batches_tracked)
        with torch.no_grad():
            module.running_mean.lerp_(mean, momentum)
            module.running_var.lerp_(variance * count / (count - 1), momentum)
    result = centered * torch.rsqrt(variance + module.eps).view(shape)
    if module.affine:
        result = result * module.weight.view(shape) + module.bias.view(shape)
    result = result.to(x.dtype)
    for name in ("drop", "act"):
        if hasattr(module, name):
            result = getattr(module, name)(result)
    return result


def _all_reduce_sum(local: Tensor) -> Tensor:
    return _AllReduceSum.apply(local)


SINGLE_PROCESS = ProcessGroup()
"""A group of one process."""
