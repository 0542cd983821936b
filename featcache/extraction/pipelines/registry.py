"""`PIPELINES`: the pipelines by the name of their modality."""

from __future__ import annotations

from typing import Any

from featcache.backbones.sources.registry import check_name
from featcache.core.registry import Registry
from featcache.data.manifest import Manifest
from featcache.errors import BackboneError, DataLayoutError
from featcache.extraction.pipelines.base import Pipeline

PIPELINES: Registry[Pipeline] = Registry(
    "modality", "featcache.extraction.pipelines", "featcache.modalities", BackboneError
)


def pipeline_of(backbone: Any) -> Pipeline | None:
    """The pipeline of a network or of its name; None for the name of a network of the user."""
    pipelines = (PIPELINES.get(name) for name in PIPELINES.registered())
    return next((pipeline for pipeline in pipelines if pipeline.owns(backbone)), None)


def check_backbone(backbone: Any) -> None:
    """Raise BackboneError, with close names, for the name of a network that certainly does not exist."""
    if isinstance(backbone, str) and pipeline_of(backbone) in (None, PIPELINES.get("image")):
        check_name(backbone)


def select_pipeline(manifest: Manifest, backbone: Any, options: dict[str, Any]) -> Pipeline:
    """The pipeline of the samples.

    Parameters
    ----------
    manifest : Manifest
    backbone : str, network or None
        What the user requests; None for the default network.
    options : dict
        Those of the call.

    Raises
    ------
    DataLayoutError
        The network, or an option that is set, is for samples of another modality.
    """
    pipeline = PIPELINES.get(manifest.modality.name)
    name, plural = manifest.source.name, manifest.modality.plural
    owner = pipeline if backbone is None else pipeline_of(backbone)
    if owner is not None and owner is not pipeline:
        network = backbone if isinstance(backbone, str) else backbone.name
        raise DataLayoutError(
            f"{name} holds {plural}, and {network} is {owner.network}. Name another network, or none "
            f"({pipeline.default_backbone} is the default), or give other data."
        )
    for other in map(PIPELINES.get, PIPELINES.registered()):
        given = [option for option in other.options if options.get(option) is not None]
        if other is not pipeline and given:
            raise DataLayoutError(
                f"{name} holds {plural}, and {' and '.join(given)} {'is' if len(given) == 1 else 'are'} for "
                f"{other.modality.plural}. Leave it out."
            )
    return pipeline
