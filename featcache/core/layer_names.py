"""Names of layers: which module's output is kept, and how it becomes features.

A layer is `penultimate`, the input of the network's last linear layer, or `MODULE[:POOL]`: what a module gives, pooled
over its places. Several layers are written as one text, joined by commas; heads see them side by side.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from featcache._utils.formatting import split_names
from featcache.core.specs import PENULTIMATE
from featcache.errors import SpecError

LAST, STAGES, ALL = "last", "stages", "all"
"""Sets of layers: the penultimate one; the mean of each stage besides; and all that is pooled of each stage."""

POOLS = ("mean", "max", "std", "grid", "cls")
"""Over the places of a feature map: mean, maximum, standard deviation, the means of a 2 x 2 grid ("grid7": 7 x 7), or
the class token. Prefix tokens are not places. Without a pool, the mean is over all tokens."""

STAGE_POOLS = ("", "mean", "cls")
"""Of the layers that "stages" selects: one vector of each channel."""

_CACHE_END = "/"  # no module of PyTorch has it in its name
_NO_NAME = re.compile(r"[/:,=`\"'\s]+")
_TEXT_LAYER = re.compile(r"layer\.(\d+)(?::|$)")  # of an encoder of texts, see `expand_text_layers`
_MAX_GRID = 64  # places along a side; larger values are rejected as invalid
_MOST_LISTED = 4  # layers that are listed one by one
_SIDES = {"grid": 2, **{f"grid{side}": side for side in range(1, _MAX_GRID + 1)}}


def join_layers(layers: Iterable[str]) -> str:
    """The reverse of `split_names`."""
    return ",".join(layers)


def cache_names(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """A name for each of several caches, for the layers of all of them: that of the file, made unique by a number.

    Examples
    --------
    >>> cache_names(["small.h5", "large/photos.h5", "small/photos.h5"])
    ['small', 'photos', 'photos-2']
    """
    names: list[str] = []
    for path in paths:
        stem = _NO_NAME.sub("-", Path(path).name.removesuffix(".partial").removesuffix(".h5")) or "cache"
        numbered = (stem if number == 1 else f"{stem}-{number}" for number in itertools.count(1))
        names.append(next(name for name in numbered if name not in names))
    return names


def join_layer(cache: str, layer: str) -> str:
    """The name of a layer of one of several caches: "small/penultimate"."""
    return f"{cache}{_CACHE_END}{layer}"


def split_layer(name: str) -> tuple[str, str]:
    """The reverse of `join_layer`; "" for the cache if there is none."""
    cache, _, layer = name.rpartition(_CACHE_END)
    return cache, layer


def parse_layer(layer: str) -> tuple[str, str]:
    """The module and the pool, "" where none is named. Raises SpecError."""
    module, colon, pool = layer.partition(":")
    if colon and pool not in POOLS and not grid_side(pool):
        raise SpecError(
            f"layer {layer!r} is pooled by {pool!r}; it must be one of {', '.join(POOLS)}, or grid1 to grid{_MAX_GRID}"
        )
    return module, pool


def grid_side(pool: str) -> int:
    """The side of a grid's pool, 2 of "grid", 7 of "grid7"; 0 of other pools."""
    return _SIDES.get(pool, 0)


def choose_layers(requested: str, existing: Sequence[str]) -> tuple[str, ...]:
    """The existing layers that a text selects.

    A text names layers, or "last", "stages" (layers without a pool, or with the mean or the class token; of an encoder
    of texts the means of the upper half of the layers) or "all" (all layers without finer grids), joined by commas.
    Raises SpecError for others.
    """
    chosen: list[str] = []
    for name in split_names(requested):
        if name in existing:
            chosen.append(name)
        elif name == LAST and PENULTIMATE in existing:
            chosen.append(PENULTIMATE)
        elif name in (STAGES, ALL):
            whole = [layer for layer in existing if parse_layer(layer)[1] in ("", *POOLS)]
            layers = _stages(existing) if name == STAGES else whole
            if name == STAGES and set(layers) <= {PENULTIMATE}:
                raise SpecError(f"there are no stages; the layers are {', '.join(existing)}")
            chosen += layers
        else:
            raise SpecError(f"there is no layer {name!r}; the layers are {', '.join(existing)}")
    if not chosen:
        raise SpecError(f"{requested!r} names no layer; there are {', '.join(existing)}")
    return tuple(dict.fromkeys(chosen))


def _stages(existing: Sequence[str]) -> list[str]:
    """The layers of the set "stages" among the existing ones."""
    layers = [layer for layer in existing if parse_layer(layer)[1] in STAGE_POOLS]
    numbers = {layer: int(number[1]) for layer in existing if (number := _TEXT_LAYER.match(layer))}
    if not numbers:
        return layers
    half = max(numbers.values()) // 2
    return [name for name in layers if name not in numbers or (numbers[name] > half and parse_layer(name)[1] != "cls")]


def describe_layers(widths: Mapping[str, int]) -> str:
    """Layers with their widths, for people. Of more than four, the pools of a module stand together, and so do modules
    in a row that have the same pools and widths.

    Examples
    --------
    >>> describe_layers({"penultimate": 384, "layer.6:max": 384})
    'penultimate (width 384), layer.6:max (width 384)'
    >>> pools = {f"layer.{number}:{pool}": 384 for number in range(1, 7) for pool in ("cls", "mean")}
    >>> describe_layers({"penultimate": 384, **pools})
    '13 layers: penultimate (width 384); layer.1 to layer.6: cls, mean (width 768 each)'
    """
    if len(widths) <= _MOST_LISTED:
        return ", ".join(f"{layer} (width {width})" for layer, width in widths.items())
    modules: dict[str, dict[str, int]] = {}
    for layer, width in widths.items():
        module, _, pool = layer.partition(":")
        modules.setdefault(module, {})[pool] = width
    runs: list[list[str]] = []
    for module, pools in modules.items():
        if runs and modules[runs[-1][-1]] == pools:
            runs[-1].append(module)
        else:
            runs.append([module])
    parts = []
    for run in runs:
        pools = modules[run[0]]
        name = run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}"
        named = f": {', '.join(pool or 'mean' for pool in pools)}" if [*pools] != [""] else ""
        parts.append(f"{name}{named} (width {sum(pools.values())}{' each' if len(run) > 1 else ''})")
    return f"{len(widths)} layers: {'; '.join(parts)}"
