"""`ProcessGroup`: processes that train one network together, as torchrun starts them, each on its shard of a batch."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from featcache.backbones.devices import resolve_device
from featcache.core.rng import derived_seed
from featcache.errors import RunError, first_line

_T = TypeVar("_T")


class ProcessGroup:
    """The processes that train together. With one process, every method returns its argument.

    Parameters
    ----------
    rank : int
        The number of this process. Process 0 writes files and reports progress. Default: 0.
    size : int
        The number of processes. Default: 1.

    Attributes
    ----------
    batch_images : int
        The images of the current batch, over all processes. Who makes the shards of several processes sets it, so that
        losses and BatchNorm need no communication for it.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size, self.batch_images = rank, size, 0
        self._must_destroy = False

    @classmethod
    def from_torchrun(cls) -> ProcessGroup:
        """The group that torchrun describes in the environment; one process if torchrun did not start this one."""
        return cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes files and reports progress."""
        return self.rank == 0

    @property
    def has_images(self) -> bool:
        """Whether this process's shard of the current batch has images; `shard` gives the first processes one more."""
        return self.rank < self.batch_images

    def local_device(self, device: str) -> str:
        """The device of this process; with "auto" and "cuda" each process of a machine has its own GPU.

        Raises RunError if there are fewer GPUs than processes, or if `device` is one GPU or cannot train with others.
        """
        if self.size == 1:
            return device
        device = resolve_device(device) if device == "auto" else device  # "cuda" would be tested on the first GPU
        kind, _, number = device.partition(":")
        if kind == "cpu":
            return device
        if kind != "cuda":
            raise RunError(f"{self.size} processes train together on GPUs of CUDA or on CPUs, not on {device!r}: "
                           "give --device cpu, or train in one process")  # fmt: skip
        local_rank, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if gpus > 1 and number and number != str(local_rank) and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1:
            raise RunError(
                f"each process needs its own GPU, but process {local_rank} of this machine was given {device}: "
                "give --device cuda. CUDA_VISIBLE_DEVICES selects GPUs."
            )
        if not number and 0 < gpus <= local_rank:
            raise RunError(
                f"each process needs its own GPU, but process {local_rank} of this machine (the first is 0) has none "
                f"of its {gpus} GPU(s): give torchrun --nproc-per-node {gpus}, or --device cpu. If each process sees "
                "its own GPU alone, give --device cuda:0."
            )
        return f"cuda:{number or local_rank}"

    def init(self, device: str) -> None:
        """Initialize torch.distributed for `device`. It waits for the other processes. Raises RunError."""
        if self.size == 1:
            return
        backend, gpu = "gloo", None
        if device.startswith("cuda"):
            backend, gpu = "cpu:gloo,cuda:nccl", torch.device(device)  # objects go through gloo
            torch.cuda.set_device(gpu)
        if distributed.is_initialized():
            return
        try:
            distributed.init_process_group(backend, device_id=gpu)
        except (RuntimeError, ValueError) as error:
            raise RunError(
                f"process {self.rank} of {self.size} could not join the others on {device} ({first_line(error)}). "
                "Start all processes with torchrun; each needs its own GPU, or --device cpu."
            ) from error
        self._must_destroy = True

    def destroy(self) -> None:
        """Shut torch.distributed down, if `init` initialized it. Not after an error: NCCL waits for all processes."""
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

    def own_seed(self, seed: int) -> int:
        """The seed of this process's random layers, so that processes draw different dropout masks."""
        return derived_seed(seed, "rank", self.rank) if self.rank else seed

    def scale_loss(self, loss: Tensor, images: int) -> Tensor:
        """Scale the mean loss of this process's images so that averaged gradients are those of the whole batch.

        DistributedDataParallel averages the gradients of processes, whose shards may differ in length.
        """
        if self.size == 1:
            return loss
        return loss * (images * self.size / self.batch_images) if images else loss.nan_to_num() * 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module to call in training. Its gradients and BatchNorm statistics are those of the whole batch."""
        if self.size == 1:
            return module
        for part in module.modules():
            if isinstance(part, _BatchNorm):
                part.forward = partial(_sync_batchnorm_forward, part, self)  # type: ignore[method-assign]
        # without static_graph, a parameter that the forward pass does not use is an error
        wrapped = nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True, static_graph=True)
        wrapped.broadcast_buffers = False  # the option of this name is deprecated in newer versions
        return wrapped


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


def _sync_batchnorm_forward(module: Any, process_group: ProcessGroup, x: Tensor) -> Tensor:
    """BatchNorm's forward pass with the statistics of the whole batch, on any device. No process waits for its GPU.

    PyTorch's SyncBatchNorm works only on GPUs. As in timm's BatchNormAct2d, dropout and an activation may follow.
    """
    if not module.training:
        return type(module).forward(module, x)
    if max(len(x), process_group.batch_images) * math.prod(x.shape[2:]) <= 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(x.shape)}")
    counted = slice(None) if process_group.has_images else slice(0)  # not the placeholder of an empty shard
    values, dims, shape = x.float(), [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
    own = values[counted]
    total = _all_reduce_sum(functional.pad(own.sum(dims), (0, 1), value=own.numel() / x.shape[1]))
    count = total[-1].detach()
    mean = total[:-1] / count
    centered = values - mean.view(shape)
    variance = _all_reduce_sum(centered[counted].square().sum(dims)) / count
    if module.track_running_stats:
        module.num_batches_tracked += 1
        momentum = module.momentum if module.momentum is not None else 1 / module.num_batches_tracked
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
