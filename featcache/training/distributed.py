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
    """The processes that train together; alone, all of it does nothing.

    rank : the number of this one; process 0 writes. size : how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._mine = False

    @classmethod
    def of_torchrun(cls) -> ProcessGroup:
        """As torchrun says, where it started this process."""
        return cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def device(self, device: str) -> str:
        """This process's own GPU where it is asked for any; else what was asked for."""
        return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if self.size > 1 and device == "cuda" else device

    def join(self, device: str) -> None:
        """Wait for the others."""
        if self.size > 1 and not distributed.is_initialized():
            distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
            self._mine = True

    def leave(self) -> None:
        """Part from the others."""
        if self._mine:
            distributed.destroy_process_group()
            self._mine = False

    def gather(self, thing: _T) -> list[_T]:
        """What each process has, in their order."""
        if self.size == 1:
            return [thing]
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, thing)
        return found

    def wait(self) -> None:
        """Until all processes are here: what the first has written is there then."""
        self.gather(None)

    def share(self, rows: Sequence[Any] | NDArray[Any]) -> Any:
        """This process's part of some rows: one after the other, the parts are the whole; the first may be larger."""
        each, more = divmod(len(rows), self.size)
        start = self.rank * each + min(self.rank, more)
        return rows[start : start + each + (self.rank < more)]

    def of_the_joint_batch(self, loss: Tensor, images: int) -> Tensor:
        """From the mean loss of this process's images to what it adds to that of all, which gradients are means of."""
        if self.size == 1:
            return loss
        total = torch.tensor(float(images), device=loss.device)
        distributed.all_reduce(total)
        return (loss * images if images else loss.nan_to_num() * 0) * (self.size / total)

    def joint(self, module: nn.Module) -> nn.Module:
        """The module to call in training: gradients are those of the joint batch, and BatchNorm normalises by it."""
        if self.size == 1:
            return module
        for part in module.modules():
            if isinstance(part, _BatchNorm) and "forward" not in vars(part):
                part.forward = MethodType(_joint_forward, part)  # type: ignore[method-assign]
        return nn.parallel.DistributedDataParallel(module, broadcast_buffers=False)


class _Sum(torch.autograd.Function):
    """The sum over all processes, through which gradients flow back to each."""

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


def _joint_forward(module: Any, x: Tensor) -> Tensor:
    """BatchNorm's forward pass by the statistics of the joint batch, on any device.

    PyTorch's SyncBatchNorm is for GPUs alone. As in timm's BatchNormAct2d dropout and an activation may follow.
    """
    if not module.training:
        return type(module).forward(module, x)
    values = x.float()
    others = [0, *range(2, x.dim())]
    count = _sum_of(torch.tensor([x.numel() / max(1, x.shape[1])], device=x.device))
    if count <= 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(x.shape)}")
    shape = [1, -1, *[1] * (x.dim() - 2)]
    mean = _sum_of(values.sum(others)) / count
    centred = values - mean.view(shape)
    variance = _sum_of((centred * centred).sum(others)) / count
    if module.track_running_stats:
        module.num_batches_tracked += 1
        momentum = module.momentum if module.momentum is not None else 1 / float(module.num_batches_tracked)
        with torch.no_grad():
            module.running_mean.lerp_(mean, momentum)
            module.running_var.lerp_(variance * count / (count - 1), momentum)
    result = centred * torch.rsqrt(variance + module.eps).view(shape)
    if module.affine:
        result = result * module.weight.view(shape) + module.bias.view(shape)
    result = result.to(x.dtype)
    for name in ("drop", "act"):
        if hasattr(module, name):
            result = getattr(module, name)(result)
    return result


def _sum_of(local: Tensor) -> Tensor:
    return _Sum.apply(local)


SINGLE_PROCESS = ProcessGroup()
"""One process."""
