"""From signals to features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from featcache._utils.monitor import Monitor
from featcache._utils.timing import PhaseTimer
from featcache.core.options import CompleteArguments, ExtractArguments, RuntimeOptions
from featcache.core.specs import ExtractSpec
from featcache.data.manifest import Manifest
from featcache.errors import BackboneError
from featcache.extraction.pipelines.base import LoadOptions, spec_keywords
from featcache.extraction.plan import ExtractionPlan
from toysignals.data import SIGNALS
from toysignals.encoder import SignalEncoder
from toysignals.loader import SignalLoader
from toysignals.views import SignalSpec


@dataclass(frozen=True)
class SignalPlan(ExtractionPlan):
    def open_loader(self, manifest: Manifest, timer: PhaseTimer | None = None) -> SignalLoader:
        return SignalLoader(manifest, self.spec.view_of(SignalSpec))

    def run_once(self) -> None:
        pass


class SignalPipeline:
    """See `Pipeline`."""

    modality = SIGNALS
    default_backbone = "signal-statistics"
    network = "a network for signals"
    options: tuple[str, ...] = ()

    def owns(self, backbone: Any, /) -> bool:
        return backbone == self.default_backbone or isinstance(backbone, SignalEncoder)

    def check_name(self, name: str, /) -> None:
        if name != self.default_backbone:
            raise BackboneError(f"there is no network {name}")

    def complete(
        self, backbone: Any, options: ExtractArguments, out: Path | None, manifest: Manifest, monitor: Monitor, /
    ) -> CompleteArguments:
        return {**options, "joins_columns": False}

    def load(self, backbone: Any, options: CompleteArguments, /) -> tuple[SignalEncoder, ExtractSpec]:
        encoder = SignalEncoder() if isinstance(backbone, str) else backbone
        keywords = spec_keywords(options, SIGNALS.name)
        view = SignalSpec(augment=keywords.pop("augment"), seed=keywords.pop("seed"))
        return encoder, ExtractSpec(encoder.name, encoder.weights_sha256, view, layers=encoder.layers, **keywords)

    def load_of(self, spec: ExtractSpec, path: Path, backbone: Any, /, **options: Unpack[LoadOptions]) -> SignalEncoder:
        return SignalEncoder(options["layers"])

    def plan(self, encoder: Any, spec: ExtractSpec, runtime: RuntimeOptions, match_engine: str = "", /) -> SignalPlan:
        return SignalPlan(encoder, spec, runtime, match_engine)


SIGNAL_PIPELINE = SignalPipeline()
