"""Forward passes of texts: sequences of similar length share one, so that little padding is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featcache.data.tokens import Tokens

if TYPE_CHECKING:
    from featcache.data.sample_loader import Inputs


def as_tokens(inputs: Inputs) -> Tokens:
    """The inputs of an encoder of texts. Raises TypeError for others."""
    if not isinstance(inputs, Tokens):
        raise TypeError(f"an encoder of texts takes Tokens, not {type(inputs).__name__}")
    return inputs


def cut_by_length(lengths: NDArray[np.int64], max_tokens: int) -> list[NDArray[np.int64]]:
    """Numbers of the sequences of each forward pass, the longest first.

    A pass has at most `max_tokens` tokens, padding included, or one sequence.
    """
    order = np.argsort(-lengths, kind="stable")
    parts, start = [], 0
    while start < len(order):
        size = max(1, max_tokens // max(1, int(lengths[order[start]])))
        parts.append(order[start : start + size])
        start += size
    return parts


def join_parts(
    parts: Sequence[NDArray[np.int64]], features: Sequence[Sequence[NDArray[np.float32]]]
) -> list[NDArray[np.float32]]:
    """Features (n, d) of each layer in the order of the sequences, from those of each pass; see `cut_by_length`."""
    order = np.argsort(np.concatenate(parts))
    return [np.concatenate(layer)[order] for layer in zip(*features, strict=True)]
