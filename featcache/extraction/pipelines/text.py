"""The pipeline of texts: `TextEncoder` on tokens that `TextLoader` makes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from featcache._utils.monitor import Monitor
from featcache._utils.timing import PhaseTimer
from featcache.backbones.load_text import load_text_encoder, load_text_encoder_of
from featcache.backbones.text_encoder import TextEncoder
from featcache.backbones.text_sources.registry import find_text_source, get_text_source
from featcache.core.options import CompleteArguments, ExtractArguments, RuntimeOptions, TextOptions, select
from featcache.core.specs import EMBEDDED_TEXT, ExtractSpec
from featcache.data.manifest import Manifest
from featcache.data.modality import TEXTS
from featcache.errors import BackboneError
from featcache.extraction.pipelines.base import LoadOptions, load_keywords, spec_keywords
from featcache.extraction.pipelines.registry import PIPELINES
from featcache.extraction.plan import ExtractionPlan
from featcache.text.loader import TextLoader


@dataclass(frozen=True)
class TextPlan(ExtractionPlan):
    """How to run a `TextEncoder` over texts; see `ExtractionPlan`."""

    backbone: TextEncoder

    def open_loader(self, manifest: Manifest, timer: PhaseTimer | None = None) -> TextLoader:
        """See `ExtractionPlan`."""
        return TextLoader(manifest, self.spec.text_view, self.backbone.tokenizer, timer=timer)

    def run_once(self) -> None:
        """See `ExtractionPlan`."""
        self.backbone.embed(["a"])


class TextPipeline:
    """The pipeline of texts; see `Pipeline`."""

    modality = TEXTS
    default_backbone = EMBEDDED_TEXT
    network = "an encoder of texts"
    options: tuple[str, ...] = ("max_length", "prefix")

    def owns(self, backbone: Any, /) -> bool:
        """See `Pipeline`."""
        if isinstance(backbone, str):
            return find_text_source(backbone) is not None
        return isinstance(backbone, TextEncoder)

    def check_name(self, name: str, /) -> None:
        """See `Pipeline`."""
        get_text_source(name)

    def complete(
        self, backbone: Any, options: ExtractArguments, out: Path | None, manifest: Manifest, monitor: Monitor, /
    ) -> CompleteArguments:
        """See `Pipeline`: whether the texts of several columns are joined."""
        monitor.note(f"texts, encoded by {backbone if isinstance(backbone, str) else backbone.name}")
        return {**options, "joins_columns": manifest.source.joins_columns}

    def load(self, backbone: Any, options: CompleteArguments, /) -> tuple[TextEncoder, ExtractSpec]:
        """See `Pipeline`."""
        encoder = backbone
        if isinstance(backbone, TextEncoder):
            for name in self.options:
                own = getattr(backbone.tokenizer, name)
                if options.get(name) not in (None, own):
                    raise BackboneError(f"{backbone.name} brings its own {name}, {own!r}: leave the option out")
        else:
            encoder = load_text_encoder(backbone, **select(TextOptions, options), **load_keywords(options))
        keywords = spec_keywords(options, TEXTS.name) | {"joins_columns": options["joins_columns"]}
        return encoder, encoder.extract_spec(**keywords)

    def load_of(self, spec: ExtractSpec, path: Path, backbone: Any, /, **options: Unpack[LoadOptions]) -> TextEncoder:
        """See `Pipeline`."""
        return load_text_encoder_of(spec, path, encoder=backbone, **options)

    def plan(self, encoder: Any, spec: ExtractSpec, runtime: RuntimeOptions, match_engine: str = "", /) -> TextPlan:
        """See `Pipeline`."""
        return TextPlan(encoder, spec, runtime, match_engine)


PIPELINES.register(TEXTS.name, TextPipeline())
