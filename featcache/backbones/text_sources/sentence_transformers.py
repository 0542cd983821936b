"""Encoders in the format of sentence-transformers, `sentence-transformers/<name or folder>`, without that package."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast, get_args

from featcache._utils.regular_files import read_json
from featcache.backbones.text_sources.base import BuiltTextEncoder, TextSource
from featcache.backbones.text_sources.folders import (
    build_from_folder,
    find_folder,
    folder_files,
    read_mapping,
    repository_of,
)
from featcache.backbones.text_sources.registry import TEXT_SOURCES
from featcache.core.specs import TextPooling
from featcache.errors import BackboneError, first_line

_PREFIX = "sentence-transformers/"
_OLD = "pooling_mode_"
_OLD_POOLINGS = {f"{_OLD}mean_tokens": "mean", f"{_OLD}cls_token": "cls", f"{_OLD}max_tokens": "max"}
_MODULES = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])


class SentenceTransformersSource(TextSource):
    """Encoders with the pooling and normalization of their configuration files. See `TextSource`.

    A name without a slash is that of a repository of the user sentence-transformers.
    """

    hint = f"{_PREFIX}<name or folder>"

    def owns(self, name: str) -> bool:
        return name.startswith(_PREFIX)

    def files(self, name: str, weights: str) -> list[Path]:
        return folder_files(_find(name), name, weights)

    def hub_model(self, name: str) -> str:
        return repository_of(_place(name))

    def build(self, name: str, weights: str, max_length: int | None, prefix: str | None) -> BuiltTextEncoder:
        return build_sentence_encoder(_find(name), name, weights, max_length, prefix)


def build_sentence_encoder(
    folder: Path, name: str, weights: str, max_length: int | None, prefix: str | None
) -> BuiltTextEncoder:
    """The encoder in a folder of sentence-transformers; for the parameters see `TextSource.build`.

    Raises
    ------
    BackboneError : it has other modules than a transformer, its pooling and normalization, or does not fit otherwise.
    """
    modules = _read_modules(folder, name)
    kinds = list(modules)
    if kinds not in _MODULES:
        raise BackboneError(
            f"{name} consists of {', '.join(kinds)}; featcache computes Transformer, Pooling and Normalize. Its "
            f"transformer with the mean over the tokens: transformers/{folder / modules.get('Transformer', '')}"
        )
    pooling_config = read_mapping(folder / modules["Pooling"] / "config.json")
    transformer = folder / modules["Transformer"]
    config = read_mapping(transformer / "sentence_bert_config.json", optional=True)
    length = config.get("max_seq_length")
    if prefix is None:
        prefix = _default_prompt(folder)
    if prefix and not pooling_config.get("include_prompt", True):
        raise BackboneError(f"{name} leaves the tokens of the prefix out of its pooling, which featcache does not")
    return build_from_folder(
        transformer,
        name,
        weights,
        max_length=max_length,
        prefix=prefix,
        usual_length=length if type(length) is int and length > 0 else None,
        lower_case=bool(config.get("do_lower_case")),
        pooling=_pooling(pooling_config, name),
        normalize="Normalize" in kinds,
    )


def _place(name: str) -> str:
    """A folder, or the name of a repository."""
    place = name.removeprefix(_PREFIX)
    return place if "/" in place or Path(place).is_dir() else name


def _find(name: str) -> Path:
    return find_folder(name, _place(name))


def _read_modules(folder: Path, name: str) -> dict[str, str]:
    """Kind of each module to its folder, in order. Raises BackboneError."""
    path = folder / "modules.json"
    try:
        return {str(module["type"]).rpartition(".")[2]: _inside(str(module["path"])) for module in read_json(path)}
    except FileNotFoundError as error:
        raise BackboneError(
            f"{folder} has no {path.name}, so it is no encoder of sentence-transformers. Its mean over the tokens: "
            f"transformers/{name.removeprefix(_PREFIX)}"
        ) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BackboneError(f"{path} is not a list of modules: {first_line(error)}") from error


def _inside(path: str) -> str:
    """The path of a module, which is a folder in that of the encoder. Raises ValueError."""
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise ValueError(f"the path {path!r} leaves the folder")
    return path


def _pooling(config: dict[str, Any], name: str) -> TextPooling:
    """The only pool of a configuration, in which newer versions name it and older ones switch it on."""
    value = config.get("pooling_mode")
    if value is None:
        on = [key for key, is_on in config.items() if key.startswith(_OLD) and is_on]
        value = [_OLD_POOLINGS.get(key, key.removeprefix(_OLD)) for key in on]
    pools = [value] if isinstance(value, str) else list(value) if isinstance(value, list) else []
    if len(pools) != 1 or pools[0] not in get_args(TextPooling):
        used, known = ", ".join(map(str, pools)) or "nothing", ", ".join(get_args(TextPooling))
        raise BackboneError(f"{name} pools by {used}; featcache has {known}")
    return cast(TextPooling, pools[0])


def _default_prompt(folder: Path) -> str:
    """What the encoder's configuration puts before every text; "" for nothing."""
    config = read_mapping(folder / "config_sentence_transformers.json", optional=True)
    prompts, name = config.get("prompts"), config.get("default_prompt_name")
    prompt = prompts.get(name) if isinstance(prompts, dict) and isinstance(name, str) else None
    return prompt if isinstance(prompt, str) else ""


TEXT_SOURCES.register("sentence-transformers", SentenceTransformersSource())
