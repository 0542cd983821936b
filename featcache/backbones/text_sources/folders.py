"""Folders with the files of a text encoder, as the Hugging Face hub has them, and the encoder that they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache._utils.regular_files import read_json
from featcache._utils.telemetry import decline_usage_data
from featcache.backbones.text_sources.base import BuiltTextEncoder
from featcache.backbones.text_tokenizer import TextTokenizer, read_tokenizer
from featcache.backbones.weights.location import RANDOM, is_file, locate
from featcache.core.specs import TextPooling
from featcache.errors import BackboneError, first_line

if TYPE_CHECKING:
    from torch import Tensor, nn

_CONFIG = "config.json"
_SETTINGS = (".json", ".model", ".txt")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_LONGEST = 512
"""Most tokens of a text where the files of an encoder allow more, or say nothing."""


def repository_of(place: str) -> str:
    """The repository of an encoder on the Hugging Face Hub; "" for a folder. place : see `find_folder`."""
    return "" if Path(place).expanduser().is_dir() else place


def find_folder(name: str, place: str) -> Path:
    """The folder of an encoder: `place` itself, or a repository in the Hugging Face cache. Nothing is downloaded.

    Parameters
    ----------
    name : of the encoder, for messages.
    place : a folder, or the name of a repository.

    Raises
    ------
    BackboneError : there is no such folder, or it is not in the cache.
    """
    folder = Path(place).expanduser()
    if folder.is_dir():
        if not (folder / _CONFIG).is_file():
            raise BackboneError(f"{folder} has no {_CONFIG}: {name} takes a folder as the Hugging Face hub has them")
        return folder.resolve()
    decline_usage_data()
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        found = huggingface_hub.try_to_load_from_cache(place, _CONFIG)
    except HFValidationError as error:
        raise BackboneError(f"{name}: {place} is neither a folder nor the name of a repository") from error
    if isinstance(found, str):
        return Path(found).parent
    raise BackboneError(
        f"{name}: there is no folder {place}, and no repository of this name in the Hugging Face cache of this "
        f"machine. featcache downloads no text encoders: type `hf download {place}` once, or give a folder."
    )


def build_from_folder(
    folder: Path,
    name: str,
    weights: str,
    *,
    max_length: int | None,
    prefix: str,
    usual_length: int | None = None,
    lower_case: bool = False,
    pooling: TextPooling = "mean",
    normalize: bool = False,
) -> BuiltTextEncoder:
    """The encoder in a folder.

    Parameters
    ----------
    weights : "pretrained", "none" or the path of a file.
    max_length : most tokens of a text; None is `usual_length`.
    usual_length : by the encoder's configuration; None: what its positions allow, at most 512.
    prefix, lower_case, pooling, normalize : see `TextTokenizer` and `TextEncoder`.

    Raises
    ------
    BackboneError : files are missing or damaged, or the encoder does not take texts of this length.
    MissingExtraError : a package is not installed.
    """
    from featcache.backbones.text_sources.transformers import build_module, load_slow_tokenizer, most_tokens
    from featcache.backbones.text_sources.transformers_config import architecture_of

    state = _read_weights(folder, name, weights)
    module, config = build_module(folder, name, state)
    most = most_tokens(module, config)
    if max_length is not None and most is not None and max_length > most:
        raise BackboneError(f"max_length is {max_length}; {name} takes at most {most} tokens")
    usual = min(usual_length or _LONGEST, most or _LONGEST)
    file = folder / "tokenizer.json"
    if file.is_file():
        backend, sha256 = read_tokenizer(file)
    else:
        backend = load_slow_tokenizer(folder, name)
        backend.no_padding()
        backend.no_truncation()
        sha256 = hashlib.sha256(backend.to_str().encode()).hexdigest()
    tokenizer = TextTokenizer(
        backend,
        sha256=sha256,
        max_length=usual if max_length is None else max_length,
        prefix=prefix,
        lower_case=lower_case,
        pad_id=getattr(config, "pad_token_id", None) or 0,
    )
    _check_vocabulary(name, tokenizer, backend, module)
    return BuiltTextEncoder(module, tokenizer, pooling, normalize, architecture_of(config))


def read_mapping(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """A JSON object of a file; an optional file that does not exist is empty. Raises BackboneError."""
    if optional and not path.is_file():
        return {}
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise BackboneError(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise BackboneError(f"{path} holds a {type(content).__name__}, expected an object of JSON")
    return content


def folder_files(folder: Path, name: str, weights: str) -> list[Path]:
    """The files in a folder that decide an encoder: its weights, its tokenizer and its configuration.

    Parameters
    ----------
    name, weights : see `build_from_folder`.

    Raises
    ------
    BackboneError : the weights are missing.
    """
    settings = sorted(path for path in folder.rglob("*") if path.suffix in _SETTINGS and path.is_file())
    return [*settings, *_weights_files(folder, name, weights)]


def _weights_files(folder: Path, name: str, weights: str) -> list[Path]:
    """The files of the weights; none for random ones. Raises BackboneError if there are none in the folder."""
    if weights == RANDOM:
        return []
    if is_file(weights):
        return [locate(weights, name).path]
    for file_name in _WEIGHTS:
        if (folder / file_name).is_file():
            return [folder / file_name]
        if (index := folder / f"{file_name}.index.json").is_file():
            parts = read_mapping(index).get("weight_map")
            names = {Path(str(part)).name for part in parts.values()} if isinstance(parts, dict) else set()
            return [folder / part for part in sorted(names)]
    raise BackboneError(f"{folder} has no weights of {name}: neither {' nor '.join(_WEIGHTS)}. Pass --weights PATH.")


def _read_weights(folder: Path, name: str, weights: str) -> Mapping[str, Tensor] | None:
    """The tensors of the weights; None for random ones. Pickles are read without the execution of their code."""
    from featcache.backbones.weights.checkpoint import read_checkpoint
    from featcache.backbones.weights.load import read_state

    files = _weights_files(folder, name, weights)
    if not is_file(weights):
        return {key: value for file in files for key, value in read_state(file).items()} if files else None
    states, key = read_checkpoint(files[0]), locate(weights, name).key
    if key is None:
        return states[0].tensors
    found = [state.tensors for state in states if state.key == key]
    if not found:
        raise BackboneError(f"{files[0]} has no state dict {key!r}; it has {[one.key for one in states]}")
    return found[0]


def _check_vocabulary(name: str, tokenizer: TextTokenizer, backend: Any, module: nn.Module) -> None:
    """Raise BackboneError if the tokenizer has ids for which the network has no vector."""
    vocabulary = backend.get_vocab_size(with_added_tokens=True)
    embedding: Any = module.network.get_input_embeddings()  # type: ignore[operator, union-attr]
    if vocabulary > embedding.num_embeddings:
        raise BackboneError(
            f"{name} has a tokenizer of {vocabulary:,} tokens, but its network has vectors for "
            f"{embedding.num_embeddings:,}: the files do not belong together"
        )
