"""`pool`: features from the output of a module, by pooling feature maps and tokens over positions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from featcache._utils.random_generators import seeded
from featcache.backbones.stages import channels_last, device_of, find_stages
from featcache.core.layer_names import ALL, LAST, STAGES, grid_side, parse_layer
from featcache.core.specs import PENULTIMATE
from featcache.errors import BackboneError


def pool(output: Any, kind: str) -> Tensor:
    """Features (b, d) from maps (b, d, h, w) or (b, h, w, d), tokens (b, t, d), or vectors (b, d).

    Parameters
    ----------
    kind : see `featcache.core.layer_names.POOLS`; "grid" returns (b, 4 * d); "" averages maps and tokens.

    Raises
    ------
    ValueError : another output, or a pool that it does not have.
    """
    if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4):
        raise ValueError("it does not return one tensor of 2 to 4 dimensions")
    if output.ndim == 2:
        if kind:
            raise ValueError(f"it returns vectors, which have no positions to pool by {kind}")
        return output.clone()  # later layers may change it in place
    if not kind and output.ndim == 3:
        return output.mean(1)
    if kind == "cls":
        if output.ndim == 4 or not prefix_tokens(output):
            raise ValueError("it has no class token")
        return output[:, 0].clone()
    maps = _as_maps(output)
    if kind in ("", "mean"):
        return maps.mean((2, 3))
    if kind == "max":
        return maps.amax((2, 3))
    if kind == "std":
        maps = maps.float()
        return (maps - maps.mean((2, 3), keepdim=True)).square().mean((2, 3)).sqrt()
    return nn.functional.adaptive_avg_pool2d(maps, grid_side(kind)).flatten(1).clone()  # it may be a view of the output


def prefix_tokens(tokens: Tensor) -> int:
    """Number of class tokens and registers in (b, t, d), before the tokens of a square of patches."""
    return int(tokens.shape[1]) - math.isqrt(int(tokens.shape[1])) ** 2


def _as_maps(output: Tensor) -> Tensor:
    """Maps (b, d, h, w) from maps with channels last, or from tokens."""
    if output.ndim == 4:
        return output.permute(0, 3, 1, 2) if channels_last(output) else output
    side = math.isqrt(int(output.shape[1]))
    patches = output[:, prefix_tokens(output) :]
    return patches.transpose(1, 2).reshape(output.shape[0], output.shape[2], side, side)


def expand_layers(network: nn.Module, layers: tuple[str, ...], image_size: int) -> tuple[str, ...]:
    """Names of layers, with the sets "last", "stages" and "all" replaced by the layers of this network.

    A stage whose mean equals the penultimate features is left out.
    """
    names: list[str] = []
    for layer in layers:
        if layer == LAST:
            names.append(PENULTIMATE)
        elif layer in (STAGES, ALL):
            names += _stage_layers(network, image_size, all_pools=layer == ALL)
        else:
            names.append(layer)
    return tuple(dict.fromkeys(names))


def _stage_layers(network: nn.Module, image_size: int, all_pools: bool) -> list[str]:
    ends = find_stages(network, image_size)
    outputs: dict[str, Tensor] = {}

    def make_hook(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            outputs[name] = output.clone()

        return hook

    handles = [network.get_submodule(end).register_forward_hook(make_hook(end)) for end in ends]
    try:
        with torch.inference_mode(), seeded(0):
            pixels = torch.randn(1, 3, image_size, image_size).to(device_of(network))
            penultimate = network(pixels)
    finally:
        for handle in handles:
            handle.remove()
    layers = [PENULTIMATE]
    for end in ends:
        output = outputs[end]
        if output.ndim == 3:
            layers += [f"{end}:cls"] if prefix_tokens(output) else []
            layers.append(f"{end}:mean")
        else:
            mean = pool(output, "")
            is_same = mean.shape == penultimate.shape and torch.allclose(mean, penultimate, rtol=1e-4, atol=1e-5)
            layers += [] if is_same else [end]
        layers += [f"{end}:{kind}" for kind in ("max", "std", "grid")] if all_pools else []
    return layers


def check_layer(network: nn.Module, name: str, layer: str) -> None:
    """Raise BackboneError if the network `name` has no such module."""
    module, _ = parse_layer(layer)
    if module not in dict(network.named_modules()) or not module:
        parts = ", ".join(child for child, _ in network.named_children())
        raise BackboneError(
            f"{name} has no layer {module!r}; its parts are {parts}. "
            f"`--layers {STAGES}` selects the ends of its stages."
        )
