"""`BackboneMetadata`: cached facts of a network, so that its cached OpenVINO model runs without building the network.

Building a network takes seconds: it imports PyTorch and a library of networks, and reads and hashes the weights.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
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
from featcache.backbones.sources.base import BackboneSource
from featcache.backbones.sources.registry import find_source
from featcache.backbones.text_sources.base import TextSource
from featcache.backbones.weights.location import RANDOM, is_file, locate
from featcache.core.view_specs.image import MOST_PIXELS, Interpolation
from featcache.errors import FeatcacheError

_SUBPACKAGES = ("backbones", "core")
"""Sub-packages of featcache whose code decides what a network computes."""

_PACKAGES = ("featcache", "torch", "openvino")
_PREPROCESSING = {"image_size", "resize_size", "interpolation", "mean", "std"}


@dataclass(frozen=True)
class BackboneMetadata:
    """Cached metadata of a network.

    Attributes
    ----------
    weights_sha256 : hash of the weights.
    dims : width d of each layer.
    preprocessing : image_size, resize_size, interpolation, mean and std that belong to the weights.
    note : how a weights file was changed to fit.
    fixed_size : whether another image size needs another network.
    """

    weights_sha256: str
    dims: dict[str, int]
    preprocessing: dict[str, Any]
    note: str = ""
    fixed_size: bool = False


def is_cacheable(name: str) -> bool:
    """Whether name and weights decide what a network computes; not so for a folder whose files may change."""
    source = find_source(name)
    return source is None or source.is_reproducible(name)


def cache_path(suffix: str, source: BackboneSource | TextSource | None, *identity: object) -> Path | None:
    """File in the cache folder for a network, by `identity`, its source, the code and the installed versions.

    None if there is no cache folder, or if the code of the source is in no file, as in a notebook: it may change there.

    Parameters
    ----------
    source : of the network; None if it has none.
    identity : the name of the network, and what else decides the content of the file.
    """
    try:
        folder = cache_folder() / "networks"
    except FeatcacheError:
        return None
    versions = _versions(source)
    if versions is None:
        return None
    digest = hashlib.sha256(repr((identity, code_sha256(), versions)).encode()).hexdigest()
    return folder / f"{digest[:32]}{suffix}"


def metadata_path(
    name: str, weights: str, layers: Sequence[str], seed: int, image_size: int | None = None
) -> Path | None:
    """File of a network's metadata; None if its weights cannot be read, or may change under the same name.

    image_size : of a network that was built for it.
    """
    origin: object = weights
    if not is_cacheable(name):
        return None
    if weights == RANDOM:
        origin = (seed, platform.machine())
    elif is_file(weights):
        try:
            located = locate(weights, name)
            with open_regular(located.path) as file:
                origin = hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, FeatcacheError):
            return None
        if located.key or located.card:
            origin = (origin, located.key, located.preprocessing)
    sized = (image_size,) if image_size else ()
    return cache_path(".json", find_source(name), name, origin, tuple(layers), *sized)


def load_metadata_for(
    image_size: int | None, name: str, weights: str, layers: Sequence[str], seed: int
) -> BackboneMetadata | None:
    """Cached metadata of a network that takes this image size; None if there is none."""
    metadata = load_metadata(metadata_path(name, weights, layers, seed, image_size))
    if metadata is None and image_size:
        metadata = load_metadata(metadata_path(name, weights, layers, seed))
        if metadata and metadata.fixed_size and metadata.preprocessing["image_size"] != image_size:
            return None
    return metadata


def load_metadata(path: Path | None) -> BackboneMetadata | None:
    """Metadata from a file; None if the file does not exist or is damaged."""
    if path is None:
        return None
    try:
        metadata = BackboneMetadata(**read_json(path))
    except (OSError, ValueError, TypeError):
        return None
    is_valid = (
        isinstance(metadata.weights_sha256, str)
        and len(metadata.weights_sha256) == 64
        and isinstance(metadata.dims, dict)
        and all(type(width) is int for width in metadata.dims.values())
        and isinstance(metadata.preprocessing, dict)
        and metadata.preprocessing.keys() == _PREPROCESSING
        and _is_preprocessing(**metadata.preprocessing)
        and isinstance(metadata.note, str)
        and isinstance(metadata.fixed_size, bool)
    )
    return metadata if is_valid else None


def _is_preprocessing(image_size: Any, resize_size: Any, interpolation: Any, mean: Any, std: Any) -> bool:
    sizes = all(type(size) is int and 0 < size <= MOST_PIXELS for size in (image_size, resize_size))
    channels = all(isinstance(values, list) and len(values) == 3 for values in (mean, std))
    return (
        sizes
        and interpolation in get_args(Interpolation)
        and channels
        and all(is_number(number) and math.isfinite(number) for number in (*mean, *std))
    )


def store_metadata(path: Path | None, metadata: BackboneMetadata) -> None:
    """Write metadata to a file. If the folder cannot be written, the next run builds the network again."""
    if path is None:
        return
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(asdict(metadata)).encode())


def code_files() -> list[Path]:
    """All modules of featcache that may decide what a network computes, sorted."""
    package = Path(__file__).parents[1]
    files = [path for subpackage in _SUBPACKAGES for path in (package / subpackage).rglob("*.py")]
    return sorted([*files, package / "data" / "tokens.py"])


@cache
def code_sha256() -> str:
    """Hash of `code_files`; 3 ms."""
    digest = hashlib.sha256()
    for path in code_files():
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@cache
def _versions(source: BackboneSource | TextSource | None) -> tuple[str, ...] | None:
    """Versions of the packages that compute a network, and the code of its source; None without its code. 20 ms."""
    versions = []
    if source:
        try:
            code = Path(inspect.getfile(type(source))).read_bytes()  # of another package, perhaps edited since
        except (TypeError, OSError):
            return None
        versions.append(hashlib.sha256(code).hexdigest())
    for package in (*_PACKAGES, *(source.packages if source else ())):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    return tuple(versions)
