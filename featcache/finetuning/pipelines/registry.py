"""`LIVE_PIPELINES`: the pipelines of training by the name of their modality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featcache.core.registry import Registry
from featcache.data.manifest import Manifest
from featcache.errors import BackboneError, DataLayoutError
from featcache.extraction.pipelines.registry import select_pipeline
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
    name = extraction.modality.name
    for other in LIVE_PIPELINES.registered():
        given = [option for option in LIVE_PIPELINES.get(other).options if options.get(option) is not None]
        if other != name and given:
            raise DataLayoutError(
                f"{manifest.source.name} holds {manifest.modality.plural}, and {' and '.join(given)} "
                f"{'is' if len(given) == 1 else 'are'} for {other}s. Leave it out."
            )
    return LIVE_PIPELINES.get(name), extraction.default_backbone
