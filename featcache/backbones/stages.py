"""The stages of a network: the modules at whose end it goes on at a smaller resolution, or in quarters of its depth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_PARTS = 4  # of a network that keeps its resolution
_FEW = 3  # stages


class FeatureMap(NamedTuple):
    """What a module gives: d channels at h x w places, or at t tokens (h = t, w = 1)."""

    module: str
    d: int
    places: tuple[int, int]


def find_stages(network: nn.Module, image_size: int) -> list[str]:
    """Names of the modules that end the stages, in order of depth.

    A stage is a run of blocks at one resolution; a transformer that keeps its number of tokens has four, of equal
    numbers of blocks. Of the last resolution the stage ends where the width still differs from that of the penultimate
    features, where it does: behind lie layers whose mean is those.

    Parameters
    ----------
    network : without its classifier, from normalised pixels (b, 3, s, s) to features (b, d); in `eval()`.
    image_size : s in pixels.
    """
    seen, d = _watch(network, _units(network), image_size)
    blocks = [maps for maps in seen if [*network.get_submodule(maps.module).children()]]
    runs = _runs(network, blocks)
    if len(runs) < _FEW:  # a chain of plain layers, as VGG; or one resolution all along
        runs = max(runs, _runs(network, seen), key=len)
    if not runs:
        return []
    if len(runs) < _FEW:
        equal = _alike(network, max(runs, key=len))
        parts = min(_PARTS, len(equal))
        return [equal[len(equal) * part // parts - 1].module for part in range(1, parts + 1)]
    last = [maps for maps in runs[-1] if maps.d != d] or runs[-1]
    ends = [run[-1].module for run in runs[:-1]] + [last[-1].module]
    return [_outermost(network, end, ends) for end in ends]


def stage_of(network: nn.Module, stages: list[str]) -> dict[str, int]:
    """The stage of each parameter and buffer, by the order in which the network holds them: 0 is the first.

    What lies before a stage's end belongs to it, what lies behind the last one's to the last.
    """
    found = stage_of_modules(network, stages)
    return {name: found[name.rpartition(".")[0]] for name in network.state_dict()}


def stage_of_modules(network: nn.Module, stages: list[str]) -> dict[str, int]:
    """The same of each module, by what it holds itself: a container counts where it begins."""
    modules = [name for name, _ in network.named_modules()]
    ends = [max(place for place, name in enumerate(modules) if f"{name}.".startswith(f"{end}.")) for end in stages]
    last = max(0, len(stages) - 1)
    return {name: min(sum(place > end for end in ends), last) for place, name in enumerate(modules)}


def _units(network: nn.Module) -> list[str]:
    """The blocks that a network is a chain of: containers, and wrappers of most of its weights, are looked into."""
    total = sum(parameter.numel() for parameter in network.parameters())

    def walk(prefix: str, module: nn.Module) -> Iterator[str]:
        for name, child in module.named_children():
            holds = sum(parameter.numel() for parameter in child.parameters())
            if type(child) in (nn.Sequential, nn.ModuleList) or (holds > total / 2 and len(list(child.children())) > 1):
                yield from walk(f"{prefix}{name}.", child)
            else:
                yield f"{prefix}{name}"

    return list(walk("", network))


def _runs(network: nn.Module, seen: list[FeatureMap]) -> list[list[FeatureMap]]:
    """What was seen, cut where the resolution changes; runs that learn nothing, such as pooling, are none."""
    runs: list[list[FeatureMap]] = []
    for maps in seen:
        if not runs or runs[-1][-1].places != maps.places:
            runs.append([])
        runs[-1].append(maps)
    return [run for run in runs if any([*network.get_submodule(maps.module).parameters()] for maps in run)]


def _alike(network: nn.Module, run: list[FeatureMap]) -> list[FeatureMap]:
    """Those of a run that have the commonest type."""
    kinds = [type(network.get_submodule(maps.module)) for maps in run]
    common = max(kinds, key=kinds.count)
    return [maps for maps, kind in zip(run, kinds, strict=True) if kind is common]


def _watch(network: nn.Module, names: list[str], image_size: int) -> tuple[list[FeatureMap], int]:
    """What the named modules give, in the order in which they end, and the width of the penultimate features."""
    seen: list[FeatureMap] = []

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim in (3, 4):
                d, places = extent(output)
                if places != (1, 1):
                    seen.append(FeatureMap(name, d, places))

        return hook

    handles = [network.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        device = next(network.parameters()).device
        with torch.inference_mode():
            features = network(torch.zeros(1, 3, image_size, image_size, device=device))
    finally:
        for handle in handles:
            handle.remove()
    return seen, int(features.shape[1])


def extent(output: Tensor) -> tuple[int, tuple[int, int]]:
    """Channels and places of maps (b, d, h, w) or (b, h, w, d), or of tokens (b, t, d)."""
    if output.ndim == 3:
        return output.shape[2], (output.shape[1], 1)
    if channels_last(output):
        return output.shape[3], (output.shape[1], output.shape[2])
    return output.shape[1], (output.shape[2], output.shape[3])


def channels_last(maps: Tensor) -> bool:
    """Whether the channels of 4-dimensional maps come last, as in Swin: square views give square maps."""
    return maps.shape[1] == maps.shape[2] != maps.shape[3]


def _outermost(network: nn.Module, end: str, ends: list[str]) -> str:
    """The container that ends with this block and holds no other stage's end."""
    parent, _, last = end.rpartition(".")
    while parent:
        children = [name for name, _ in network.get_submodule(parent).named_children()]
        others = any(other != end and other.startswith(f"{parent}.") for other in ends)
        if type(network.get_submodule(parent)) is not nn.Sequential or children[-1] != last or others:
            break
        end = parent
        parent, _, last = end.rpartition(".")
    return end
