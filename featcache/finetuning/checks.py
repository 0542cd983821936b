"""Errors that a user's settings cause: options that exclude each other, and what PyTorch raises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from featcache._utils.memory_errors import is_out_of_memory
from featcache.backbones.devices import resolve_device
from featcache.backbones.frozen_network import FrozenNetwork
from featcache.errors import RunError, first_line
from featcache.training.config import TrainConfig
from featcache.training.distributed import ProcessGroup


def check_distributed(process_group: ProcessGroup, config: TrainConfig, image_cache: object, compile: bool) -> None:
    """Raise RunError for options that several processes cannot use."""
    if image_cache is not None:
        raise RunError(f"an image cache is written by one process, and {process_group.size} train: drop --image-cache")
    if compile:
        raise RunError("torch.compile does not support training in several processes: drop --compile")
    if config.batch_size < process_group.size:
        raise RunError(
            f"{process_group.size} processes cannot share batches of {config.batch_size}: raise --batch-size"
        )


def process_device(process_group: ProcessGroup, backbone: Any, device: str) -> str:
    """The device of one of several processes: that of a given network, else by the option. Raises RunError."""
    if isinstance(backbone, FrozenNetwork):
        device = str(torch.empty(0, device=backbone.device).device)  # "cuda" is the current GPU
    return resolve_device(process_group.local_device(device))


@contextmanager
def explain_torch_errors(sample: str, size_option: str, config: TrainConfig, is_compiled: bool) -> Iterator[None]:
    """Turn errors of PyTorch that settings cause into errors that name the settings.

    sample, size_option : see `LivePipeline`.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise RunError(
            f"BatchNorm cannot train on a batch of one {sample}. Give a larger --batch-size than {config.batch_size}, "
            f"--batchnorm eval, or a larger {size_option}."
        ) from error
    except Exception as error:
        if is_out_of_memory(error):
            raise RunError(
                f"the GPU has too little free memory to train with batches of {config.batch_size} "
                f"({first_line(error)}). Give a smaller --batch-size or {size_option}, or stop other programs that "
                "use this memory."
            ) from error
        if not is_compiled or not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise RunError(f"torch.compile cannot train this network ({first_line(error)}). Drop --compile.") from error
