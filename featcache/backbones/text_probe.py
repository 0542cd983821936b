"""Checks of an encoder of texts by short texts: its hidden states, and whether padding changes features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from featcache.errors import BackboneError, first_line

if TYPE_CHECKING:
    from torch import Tensor, nn

    from featcache.backbones.text_features import TextFeatures
    from featcache.backbones.text_tokenizer import Tokenizer

_SENTENCE = "The film is not good, but it is short."
_SHORT, _LONG = "a", "a " * 32
_MAX_DIFFERENCE, _MAX_DIFFERENCE_16_BIT = 1e-4, 0.05
"""Largest relative difference that rounding explains, for weights in float32 and in 16 bits."""


class HiddenStates(NamedTuple):
    """What a network returns.

    depth : number of its layers, without the embeddings.
    one_vector : numbers of the hidden states that have the same vector at each token, so that their pools are equal.
    """

    depth: int
    one_vector: frozenset[int]


def measure_hidden_states(module: nn.Module, tokenizer: Tokenizer, name: str) -> HiddenStates:
    """The hidden states of a network, from a short text.

    Raises
    ------
    BackboneError : the module fails, or returns something else than hidden states.
    """
    import torch

    from featcache.backbones.stages import device_of

    ids = tokenizer([_SENTENCE]).tokens.to(device_of(module))
    with torch.inference_mode(), _failures_named(name):
        hidden: Sequence[Tensor] = module.eval()(ids, torch.ones_like(ids, dtype=torch.bool))
        shapes = [tuple(state.shape) for state in hidden]
    if len(shapes) < 2 or not all(len(shape) == 3 and shape[:2] == tuple(ids.shape) for shape in shapes):
        raise BackboneError(
            f"{name} returns tensors of shapes {shapes} for tokens {tuple(ids.shape)}, expected the hidden states "
            "(b, t, d) of the embeddings and of each layer"
        )
    one_vector = [number for number, state in enumerate(hidden) if torch.equal(state, state[:, :1].expand_as(state))]
    return HiddenStates(len(shapes) - 1, frozenset() if 0 in one_vector else frozenset(one_vector))


def check_padding(features: TextFeatures, tokenizer: Tokenizer) -> None:
    """Raise BackboneError if features of a text are other ones beside a longer text, whose length it is padded to.

    The comparison is in fp32, whatever the precision, because the rounding of bf16 hides a small influence of padding.
    """
    import torch

    tokens = tokenizer([_SHORT, _LONG]).tokens
    with _failures_named(features.name):
        alone, together = (features.embed(part, "fp32") for part in (tokens[:1], tokens))
    in_float32 = all(one.dtype == torch.float32 for one in features.parameters() if one.is_floating_point())
    most = _MAX_DIFFERENCE if in_float32 else _MAX_DIFFERENCE_16_BIT
    for layer, one, other in zip(features.layers, alone, together, strict=True):
        length = max(float(np.linalg.norm(one[0])), float(np.finfo(np.float32).tiny))
        difference = float(np.linalg.norm(other[0] - one[0])) / length
        if not difference <= most:
            raise BackboneError(
                f"{features.name} gives a text other features in a batch with longer texts: {layer} of a text of "
                f"{tokens.lengths[0]} tokens changes by {difference:.2%} when it is padded to {tokens.lengths[1]} "
                f"tokens (rounding: at most {most:.2%}). This network does not leave padding out, so its features "
                "depend on the batch. Use another encoder."
            )


@contextmanager
def _failures_named(name: str) -> Iterator[None]:
    """Raise BackboneError with the reason if a network does not take tokens."""
    import torch

    try:
        yield
    except (BackboneError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of the network's own code
        raise BackboneError(
            f"{name} is not an encoder of texts that featcache can use: for a short text it raises "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
