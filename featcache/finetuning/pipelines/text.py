"""The pipeline of texts: `TextEncoder` on tokens that `TextLoader` makes in every epoch."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from featcache._utils.progress_bar import Progress
from featcache._utils.timing import PhaseTimer
from featcache.backbones.load_text import load_text_encoder
from featcache.backbones.text_encoder import TextEncoder
from featcache.core.specs import ExtractSpec, live_augment
from featcache.data.manifest import Manifest
from featcache.data.modality import TEXTS
from featcache.finetuning.pipelines.base import LiveData
from featcache.finetuning.pipelines.registry import LIVE_PIPELINES
from featcache.finetuning.strategy import Mode
from featcache.finetuning.text_defaults import TEXT_DEFAULTS, TEXT_HEAD_DEFAULTS, TEXT_LP_FT_DEFAULTS
from featcache.text.loader import TextLoader


class TextLivePipeline:
    """See `LivePipeline`."""

    options: tuple[str, ...] = ()
    size_option = "--max-length"
    trains_from_scratch = False  # some thousand texts teach no encoder a language

    def default_config(self, mode: Mode, has_init_head: bool, /) -> dict[str, Any]:
        """See `LivePipeline`."""
        if mode == "head":
            return TEXT_HEAD_DEFAULTS
        return TEXT_LP_FT_DEFAULTS if has_init_head else TEXT_DEFAULTS

    def load(self, name: str, options: dict[str, Any], /, *, weights: str, device: str, precision: str) -> TextEncoder:
        """See `LivePipeline`."""
        return load_text_encoder(
            name,
            weights=weights,
            device=device,
            precision=precision,
            max_length=options["max_length"],
            prefix=options["prefix"],
            seed=options["seed"],
        )

    def spec(
        self, network: TextEncoder, options: dict[str, Any], manifest: Manifest, init_head: str | None, /
    ) -> ExtractSpec:
        """See `LivePipeline`."""
        augment = live_augment(options["augment"], TEXTS.name)
        joins_columns = manifest.source.joins_columns
        return network.extract_spec(
            views=0, dtype="float32", augment=augment, seed=options["seed"], joins_columns=joins_columns
        )

    def describe(self, spec: ExtractSpec, /) -> str:
        """See `LivePipeline`."""
        return f"text of at most {spec.text_view.max_length} tokens"

    def open_data(
        self,
        stack: ExitStack,
        network: TextEncoder,
        spec: ExtractSpec,
        manifest: Manifest,
        options: dict[str, Any],
        /,
        *,
        image_cache: Path | None,
        timer: PhaseTimer,
        progress: Progress | None,
    ) -> LiveData:
        """See `LivePipeline`."""
        loader = TextLoader(manifest, spec.text_view, network.tokenizer, timer=timer)
        return LiveData(stack.enter_context(closing(loader)))


LIVE_PIPELINES.register(TEXTS.name, TextLivePipeline())
