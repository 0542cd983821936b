"""PyTorch's random generators of the CPU and of one other device. CUDA is not opened for the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

CPU = torch.device("cpu")


@contextmanager
def seeded(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """A context with the generators of the CPU and of `device` seeded; afterwards they have their former states."""
    with forked(device):
        set_seed(seed, device)
        yield


@contextmanager
def forked(device: torch.device = CPU) -> Iterator[None]:
    """A context after which the generators of the CPU and of `device` have their former states."""
    if device.type == "cpu":
        with torch.random.fork_rng(devices=[]):
            yield
    else:
        with torch.random.fork_rng(devices=[_index(device)], device_type=device.type):
            yield


def set_seed(seed: int, device: torch.device = CPU) -> None:
    """Seed the generators of the CPU and of `device`. `torch.manual_seed` seeds those of all devices."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[_index(device)].manual_seed(seed)
    elif device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def _index(device: torch.device) -> int:
    if device.index is not None:
        return device.index
    return torch.cuda.current_device() if device.type == "cuda" else 0
