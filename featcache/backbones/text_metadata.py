"""`TextMetadata`: cached facts of a text encoder, so that its cached OpenVINO model runs without building the network.

Building an encoder takes seconds: it imports PyTorch and transformers, and reads, hashes and checks the weights.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from featcache._utils.files import write_file
from featcache._utils.regular_files import open_regular, read_json
from featcache.backbones.metadata_cache import cache_path
from featcache.backbones.text_sources.registry import get_text_source
from featcache.backbones.text_tokenizer import TextTokenizer, TokenizerSettings
from featcache.backbones.weights.location import RANDOM
from featcache.core.specs import TextPooling
from featcache.errors import FeatcacheError

if TYPE_CHECKING:
    from featcache.backbones.text_encoder import TextEncoder


@dataclass(frozen=True)
class TextMetadata:
    """Cached metadata of a text encoder.

    Attributes
    ----------
    weights_sha256 : hash of the weights and the architecture.
    dims : width d of each layer.
    architecture, pooling, normalize : see `TextEncoder`.
    tokenizer : of the encoder.
    """

    weights_sha256: str
    dims: dict[str, int]
    architecture: str
    pooling: TextPooling
    normalize: bool
    tokenizer: TokenizerSettings


def metadata_path(
    name: str, weights: str, layers: Sequence[str], seed: int, max_length: int | None, prefix: str | None
) -> Path | None:
    """File of an encoder's metadata, by the content of the files that decide it; None if these are not known.

    The parameters are those of `load_text_encoder`. Raises as `TextSource.files` does.
    """
    source = get_text_source(name)
    files = source.files(name, weights)
    if not files:
        return None
    digests = []
    try:
        for file in files:
            with open_regular(file) as content:
                digests.append((file.name, hashlib.file_digest(content, "sha256").hexdigest()))
    except (OSError, FeatcacheError):
        return None
    origin = (weights, seed, platform.machine()) if weights == RANDOM else (weights,)
    return cache_path(".json", source, "text", name, origin, digests, tuple(layers), max_length, prefix)


def load_metadata(path: Path | None) -> TextMetadata | None:
    """Metadata from a file; None if the file does not exist or is damaged."""
    if path is None:
        return None
    try:
        fields = read_json(path)
        metadata = TextMetadata(**{**fields, "tokenizer": TokenizerSettings(**fields["tokenizer"])})
        TextTokenizer.from_settings(metadata.tokenizer)
    except (OSError, ValueError, TypeError, KeyError, FeatcacheError):
        return None
    is_valid = (
        isinstance(metadata.weights_sha256, str)
        and len(metadata.weights_sha256) == 64
        and isinstance(metadata.dims, dict)
        and bool(metadata.dims)
        and all(type(width) is int for width in metadata.dims.values())
        and isinstance(metadata.architecture, str)
        and metadata.pooling in get_args(TextPooling)
        and isinstance(metadata.normalize, bool)
    )
    return metadata if is_valid else None


def store_metadata(path: Path | None, encoder: TextEncoder) -> None:
    """Write the metadata of an encoder. If the folder cannot be written, the next run builds the encoder again."""
    if path is None or not isinstance(encoder.tokenizer, TextTokenizer):
        return
    metadata = TextMetadata(
        encoder.weights_sha256,
        encoder.dims,
        encoder.architecture,
        encoder.pooling,
        encoder.normalize,
        encoder.tokenizer.settings,
    )
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(asdict(metadata)).encode())
