"""`TextFeatures`: an encoder of texts in PyTorch, from tokens to the features of each layer."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featcache.backbones.float32 import ieee_float32
from featcache.backbones.text_probe import HiddenStates
from featcache.core.layer_names import ALL, LAST, STAGES, parse_layer
from featcache.core.specs import PENULTIMATE, Precision, TextPooling
from featcache.data.tokens import Tokens
from featcache.errors import BackboneError, first_line

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_POOLS = ("cls", "mean", "max")
_LAYER = "layer."


class TextFeatures(nn.Module):
    """An encoder of texts with its pooling, in `eval()` mode, without gradients, on its device.

    Parameters
    ----------
    network : from ids (b, t), int64, and a mask (b, t), bool, which is True at real tokens, to the hidden states
        (b, t, d): the embeddings, and the output of each layer.
    pooling, normalize : how the last hidden state becomes the penultimate features.
    layers : that `forward` returns, see `expand_text_layers`.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        pooling: TextPooling,
        normalize: bool,
        layers: Sequence[str],
        device: str,
        precision: Precision,
    ) -> None:
        super().__init__()
        self.name, self.pooling, self.normalize = name, pooling, normalize
        self.layers, self.precision, self.device = tuple(layers), precision, torch.device(device)
        try:
            self.network = network.eval().requires_grad_(False).to(device)
        except torch.OutOfMemoryError as error:
            raise BackboneError(
                f"the weights of {name} do not fit into the free memory of {device} ({first_line(error)}). Stop other "
                "programs that use this memory, or give --device cpu or another encoder."
            ) from error

    def forward(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Features (b, d), float32, of each layer.

        Parameters
        ----------
        ids : Tensor, shape (b, t), int64. Sequences with padding behind them.
        lengths : Tensor, shape (b,), int64. Number of real tokens of each sequence, at least 1.
        """
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        hidden = self.network(ids, mask)
        return tuple(self._features(layer, hidden, mask) for layer in self.layers)

    def on_devices(self, devices: Sequence[str]) -> list[TextFeatures]:
        """This one, for the first device, and a copy on each of the others."""
        return [self, *map(self._copy_to, devices[1:])]

    def embed(self, tokens: Tokens, precision: Precision | None = None) -> list[NDArray[np.float32]]:
        """Features (b, d) of each layer from tokens, in one forward pass. precision : None is that of the network."""
        with torch.inference_mode(), self.autocast(precision):
            lengths = torch.from_numpy(tokens.lengths).to(self.device)
            return [values.cpu().numpy() for values in self(tokens.to(self.device), lengths)]

    @contextmanager
    def autocast(self, precision: Precision | None = None) -> Iterator[None]:
        """A context for forward passes in this precision; None is that of the network. fp32 is IEEE's, not TF32."""
        precision = precision or self.precision
        if precision == "fp32":
            with ieee_float32(), torch.autocast(self.device.type, enabled=False):
                yield
        else:
            with torch.autocast(self.device.type, _DTYPES[precision]):
                yield

    def exact(self) -> AbstractContextManager[None]:
        """A context in which fp32 is IEEE float32, not TF32, forward and backward; without effect otherwise."""
        return ieee_float32() if self.precision == "fp32" else nullcontext()

    def _features(self, layer: str, hidden: Sequence[Tensor], mask: Tensor) -> Tensor:
        if layer == PENULTIMATE:
            features = pool_tokens(hidden[-1], mask, self.pooling)
            return nn.functional.normalize(features) if self.normalize else features
        number, pool = _parse(layer)
        return pool_tokens(hidden[number], mask, pool)

    def _copy_to(self, device: str) -> TextFeatures:
        return TextFeatures(
            copy.deepcopy(self.network),
            name=self.name,
            pooling=self.pooling,
            normalize=self.normalize,
            layers=self.layers,
            device=device,
            precision=self.precision,
        )


def pool_tokens(hidden: Tensor, mask: Tensor, pool: str) -> Tensor:
    """Features (b, d), float32, from hidden states (b, t, d). Padding has no influence, whatever its values are.

    Parameters
    ----------
    mask : Tensor, shape (b, t), bool. True at real tokens.
    pool : "cls", the first token, or "mean" or "max" of the real tokens.
    """
    hidden = hidden.float()
    if pool == "cls":
        return hidden[:, 0]
    if pool == "max":
        return hidden.masked_fill(~mask[:, :, None], -torch.inf).amax(1)
    return hidden.masked_fill(~mask[:, :, None], 0).sum(1) / mask.sum(1, keepdim=True)


def expand_text_layers(
    name: str, requested: Sequence[str], states: HiddenStates, *, pooling: TextPooling, normalize: bool
) -> tuple[str, ...]:
    """Names of layers, with the sets "last", "stages" and "all" replaced by the layers of this encoder.

    Its layers are "penultimate" and "layer.N:POOL": N from 1 to the depth, or 0 for the embeddings; POOL is "cls",
    "mean" or "max" ("layer.N" is the mean). "stages" has the means of the upper half of the layers, "all" all pools of
    all layers. What equals the penultimate features is left out of both, and so are further pools of a hidden state
    with one vector for the whole text.

    Raises
    ------
    BackboneError : there is no such layer.
    """
    depth, names = states.depth, list[str]()
    pools_of = {number: ("mean",) if number in states.one_vector else _POOLS for number in range(1, depth + 1)}
    same = "" if normalize else f"{_LAYER}{depth}:{'mean' if depth in states.one_vector else pooling}"
    for layer in requested:
        if layer in (LAST, PENULTIMATE):
            names.append(PENULTIMATE)
        elif layer in (STAGES, ALL):
            first = depth // 2 + 1 if layer == STAGES else 1
            found = [
                f"{_LAYER}{number}:{pool}"
                for number in range(first, depth + 1)
                for pool in (("mean",) if layer == STAGES else pools_of[number])
            ]
            names += [PENULTIMATE, *(one for one in found if one != same)]
        else:
            number, pool = _parse(layer)
            if not 0 <= number <= depth or pool not in _POOLS:
                raise BackboneError(
                    f"{name} has no layer {layer!r}; its layers are {PENULTIMATE} and {_LAYER}0 (the embeddings) to "
                    f"{_LAYER}{depth}, each with :cls, :mean or :max, such as {_LAYER}{depth}:mean"
                )
            names.append(layer)
    return tuple(dict.fromkeys(names))


def _parse(layer: str) -> tuple[int, str]:
    """The number of the hidden state, -1 for a name of another form, and the pool."""
    module, pool = parse_layer(layer)
    number = module.removeprefix(_LAYER)
    is_number = module.startswith(_LAYER) and number.isascii() and number.isdecimal()
    return int(number) if is_number else -1, pool or "mean"
