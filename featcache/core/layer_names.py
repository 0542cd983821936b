"""Names of layers: which module's output is kept, and how it becomes features.

A layer is `penultimate`, the input of the network's last linear layer, or `MODULE[:POOL]`: what a module gives, pooled
over its places. Several layers are written as one text, joined by commas; heads see them side by side.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

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

_TEXT_LAYER = re.compile(r"layer\.(\d+)(?::|$)")  # of an encoder of texts, see `expand_text_layers`
_MAX_GRID = 64  # places along a side; larger values are rejected as invalid
_SIDES = {"grid": 2, **{f"grid{side}": side for side in range(1, _MAX_GRID + 1)}}


def join_layers(layers: Iterable[str]) -> str:
    """The reverse of `split_names`."""
    return ",".join(layers)


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
