"""`LIVE_PIPELINES`: the pipelines of training by the name of their modality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featcache.core.registry import Registry
from featcache.data.manifest import Manifest
from featcache.errors import BackboneError
from featcache.extraction.pipelines.registry import refuse_options, select_pipeline
from featcache.finetuning.pipelines.base import LivePipeline

LIVE_PIPELINES: Registry[LivePipeline] = Registry(
    "modality", "featcache.finetuning.pipelines", "featcache.live_modalities", BackboneError
)


def select_live_pipeline(manifest: Manifest, backbone: Any, options: Mapping[str, Any]) -> tuple[LivePipeline, str]:
    """The pipeline of the samples, and the name of the default network.

    Raises
    ------
    DataLayoutError
        The network, or an option that is set, is for samples of another modality.
    """
    extraction = select_pipeline(manifest, backbone, dict(options))
    owned = {modality: LIVE_PIPELINES.get(modality).options for modality in LIVE_PIPELINES.registered()}
    refuse_options(manifest, options, owned)
    return LIVE_PIPELINES.get(extraction.modality.name), extraction.default_backbone
