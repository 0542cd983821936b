"""`TrainableText`: an encoder of texts with its pooling as a module with gradients, for training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from featcache.backbones.text_features import pool_tokens
from featcache.core.specs import TextPooling
from featcache.data.tokens import Tokens

PADDING = -1
"""Stands for padding in the input of `TrainableText`, so that one tensor holds ids and mask."""


class TrainableText(nn.Module):
    """From ids (b, t), int64, with -1 at padding, to the penultimate features (b, d), float32, as `TextFeatures` gives.

    Parameters
    ----------
    network : from ids and mask to hidden states, see `TextEncoder`.
    pooling, normalize : how the last hidden state becomes the features.
    pad_id : of the tokenizer.
    """

    def __init__(self, network: nn.Module, pooling: TextPooling, normalize: bool, pad_id: int) -> None:
        super().__init__()
        self.network, self.pooling, self.normalize, self.pad_id = network, pooling, normalize, pad_id

    def forward(self, ids: Tensor) -> Tensor:
        mask = ids != PADDING
        hidden = self.network(ids.masked_fill(~mask, self.pad_id), mask)
        features = pool_tokens(hidden[-1], mask, self.pooling)
        return nn.functional.normalize(features) if self.normalize else features


def padded_ids(tokens: Tokens, device: torch.device) -> Tensor:
    """The input of `TrainableText`, on the device."""
    return Tokens(tokens.ids, PADDING).to(device)


def find_layers(network: nn.Module) -> list[str]:
    """Names of the layers of a transformer, in order: the members of its longest list of blocks of one type.

    A list of single layers, such as convolutions side by side, is none.
    """
    lists = {
        name: part for name, part in network.named_modules() if isinstance(part, nn.ModuleList) and _is_stack(part)
    }
    longest = max(lists, key=lambda name: len(lists[name]), default=None)
    return [] if longest is None else [f"{longest}.{number}" for number in range(len(lists[longest]))]


def _is_stack(modules: nn.ModuleList) -> bool:
    return len({type(module) for module in modules}) == 1 and all(list(module.children()) for module in modules)
