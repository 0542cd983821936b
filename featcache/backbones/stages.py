"""The stages of a network: runs of blocks at one resolution, or quarters of its depth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_EQUAL_STAGES = 4  # of a network with one resolution
_LEAST_STAGES = 3  # fewer resolutions than this do not define stages


class FeatureMap(NamedTuple):
    """Output of a module: d channels at h x w positions, or t tokens (h = t, w = 1)."""

    module: str
    d: int
    size: tuple[int, int]


def find_stages(network: nn.Module, image_size: int) -> list[str]:
    """Names of the modules that end the stages, in order of depth.

    A stage is a run of blocks at one resolution. A transformer with a constant number of tokens has four stages with
    equal numbers of blocks. The last stage ends before the layers whose width is that of the penultimate features, if
    it has others: the mean of those layers is the penultimate features.

    Parameters
    ----------
    network : without its classifier, from normalized pixels (b, 3, s, s) to features (b, d); in `eval()` mode.
    image_size : s in pixels.
    """
    maps, d = _record_maps(network, _units(network), image_size)
    blocks = [block for block in maps if [*network.get_submodule(block.module).children()]]
    runs = _runs(network, blocks)
    if len(runs) < _LEAST_STAGES:  # a chain of plain layers, as VGG, or a single resolution
        runs = max(runs, _runs(network, maps), key=len)
    if not runs:
        return []
    if len(runs) < _LEAST_STAGES:
        equal = _same_type(network, max(runs, key=len))
        n = min(_EQUAL_STAGES, len(equal))
        return [equal[len(equal) * stage // n - 1].module for stage in range(1, n + 1)]
    last = [block for block in runs[-1] if block.d != d] or runs[-1]
    ends = [run[-1].module for run in runs[:-1]] + [last[-1].module]
    return [_outer_container(network, end, ends) for end in ends]


def stage_of(network: nn.Module, stages: list[str]) -> dict[str, int]:
    """The stage of each parameter and buffer, from 0, by the order of the network's modules.

    A module before the end of a stage belongs to that stage, a module behind the last end to the last stage.
    """
    numbers = stage_of_modules(network, stages)
    return {name: numbers[name.rpartition(".")[0]] for name in network.state_dict()}


def stage_of_modules(network: nn.Module, stages: list[str]) -> dict[str, int]:
    """The stage of each module, see `stage_of`. A container belongs to the stage in which it begins."""
    modules = [name for name, _ in network.named_modules()]
    ends = [max(index for index, name in enumerate(modules) if f"{name}.".startswith(f"{end}.")) for end in stages]
    last = max(0, len(stages) - 1)
    return {name: min(sum(index > end for end in ends), last) for index, name in enumerate(modules)}


def _units(network: nn.Module) -> list[str]:
    """The blocks of a network in order; containers, and wrappers of most of its weights, are opened."""
    total = sum(parameter.numel() for parameter in network.parameters())

    def walk(prefix: str, module: nn.Module) -> Iterator[str]:
        for name, child in module.named_children():
            size = sum(parameter.numel() for parameter in child.parameters())
            is_wrapper = size > total / 2 and len(list(child.children())) > 1
            if type(child) in (nn.Sequential, nn.ModuleList) or is_wrapper:
                yield from walk(f"{prefix}{name}.", child)
            else:
                yield f"{prefix}{name}"

    return list(walk("", network))


def _runs(network: nn.Module, maps: list[FeatureMap]) -> list[list[FeatureMap]]:
    """Feature maps, split where the resolution changes, without runs that have no parameters, such as pooling."""
    runs: list[list[FeatureMap]] = []
    for block in maps:
        if not runs or runs[-1][-1].size != block.size:
            runs.append([])
        runs[-1].append(block)
    return [run for run in runs if any([*network.get_submodule(block.module).parameters()] for block in run)]


def device_of(network: nn.Module) -> torch.device:
    """Where the weights of a network are; the CPU if it has none."""
    weight = next(network.parameters(), None)
    return torch.device("cpu") if weight is None else weight.device


def _same_type(network: nn.Module, run: list[FeatureMap]) -> list[FeatureMap]:
    """The blocks of a run with its most common type."""
    types = [type(network.get_submodule(block.module)) for block in run]
    common = max(types, key=types.count)
    return [block for block, kind in zip(run, types, strict=True) if kind is common]


def _record_maps(network: nn.Module, names: list[str], image_size: int) -> tuple[list[FeatureMap], int]:
    """Outputs of modules in the order in which they finish, and the width of the penultimate features."""
    maps: list[FeatureMap] = []

    def make_hook(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim in (3, 4):
                d, size = extent(output)
                if size != (1, 1):
                    maps.append(FeatureMap(name, d, size))

        return hook

    handles = [network.get_submodule(name).register_forward_hook(make_hook(name)) for name in names]
    try:
        device = device_of(network)
        with torch.inference_mode():
            features = network(torch.zeros(1, 3, image_size, image_size, device=device))
    finally:
        for handle in handles:
            handle.remove()
    return maps, int(features.shape[1])


def extent(output: Tensor) -> tuple[int, tuple[int, int]]:
    """Channels and size of maps (b, d, h, w) or (b, h, w, d), or of tokens (b, t, d)."""
    if output.ndim == 3:
        return output.shape[2], (output.shape[1], 1)
    if channels_last(output):
        return output.shape[3], (output.shape[1], output.shape[2])
    return output.shape[1], (output.shape[2], output.shape[3])


def channels_last(maps: Tensor) -> bool:
    """Whether the channels of 4-dimensional maps are last, as in Swin. The maps of square views are square."""
    return maps.shape[1] == maps.shape[2] != maps.shape[3]


def _outer_container(network: nn.Module, end: str, ends: list[str]) -> str:
    """The largest container that ends with this block and contains the end of no other stage."""
    parent, _, last = end.rpartition(".")
    while parent:
        children = [name for name, _ in network.get_submodule(parent).named_children()]
        others = any(other != end and other.startswith(f"{parent}.") for other in ends)
        if type(network.get_submodule(parent)) is not nn.Sequential or children[-1] != last or others:
            break
        end = parent
        parent, _, last = end.rpartition(".")
    return end
