"""`load_state`: load weights into a network; `sha256_of`: the hash by which weights are compared."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from featcache.backbones.weights.adapt import adapt
from featcache.backbones.weights.checkpoint import StateDict, read_checkpoint, with_metadata
from featcache.backbones.weights.fitting import Convert, load_adapted


def sha256_of(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of a state dict, independent of its file format."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_state(path: Path) -> OrderedDict[str, Tensor]:
    """The most likely state dict of a file: the first of `read_checkpoint`."""
    return read_checkpoint(path)[0].tensors


def load_state(
    network: nn.Module,
    states: Mapping[str, Tensor] | Sequence[StateDict],
    classifiers: Sequence[str],
    source: object,
    *,
    key: str | None = None,
    conversions: Mapping[str, Convert] | None = None,
) -> str:
    """Load the first state dict that fits, without the classifiers, which featcache does not use.

    Parameters
    ----------
    Those of `adapt`.

    Returns
    -------
    note : str. How the state dict was changed to fit, one line; "" for no change.
    """
    if isinstance(states, Mapping):
        states = [StateDict("", with_metadata(states, getattr(states, "_metadata", None)))]
    adapted = adapt(network, states, classifiers, source, key=key, conversions=conversions)
    load_adapted(network, adapted, classifiers)
    return adapted.note
