"""`PIPELINES`: the pipelines by the name of their modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featcache.core.options import LoaderOptions, with_defaults
from featcache.core.registry import Registry
from featcache.data.manifest import Manifest
from featcache.data.modality import IMAGES
from featcache.errors import BackboneError, DataLayoutError
from featcache.extraction.pipelines.base import Pipeline

PIPELINES: Registry[Pipeline] = Registry(
    "modality", "featcache.extraction.pipelines", "featcache.modalities", BackboneError
)


def pipeline_of(backbone: Any) -> Pipeline | None:
    """The pipeline of a network or of its name; None for the name of a network of the user."""
    own = PIPELINES.registered()
    for pipeline in map(PIPELINES.get, own):
        if pipeline.owns(backbone):
            return pipeline
    added = (PIPELINES.get(name) for name in PIPELINES.names() if name not in own)
    return next((pipeline for pipeline in added if pipeline.owns(backbone)), None)


_DEFAULTS: Mapping[str, Any] = {**with_defaults(LoaderOptions, {})}  # of options that are not None if nobody sets them


def check_backbone(backbone: Any) -> None:
    """Raise BackboneError, with close names, for the name of a network that certainly does not exist.

    A name that no modality owns may be that of a network of the user, which the pipeline of images knows.
    """
    if isinstance(backbone, str):
        (pipeline_of(backbone) or PIPELINES.get(IMAGES.name)).check_name(backbone)


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
    refuse_foreign_options(manifest, options)
    return pipeline


def refuse_foreign_options(manifest: Manifest, options: Mapping[str, Any]) -> None:
    """Raise DataLayoutError for an option of an extraction that is set and belongs to another modality."""
    refuse_options(manifest, options, {other: PIPELINES.get(other).options for other in PIPELINES.registered()})


def refuse_options(manifest: Manifest, options: Mapping[str, Any], owned: Mapping[str, Sequence[str]]) -> None:
    """Raise DataLayoutError for an option that is set and belongs to another modality.

    Parameters
    ----------
    manifest : Manifest
    options : mapping
        Those of the call.
    owned : mapping
        Name of a modality to the options that no other modality has.
    """
    for modality, names in owned.items():
        given = [option for option in names if options.get(option) not in (None, _DEFAULTS.get(option))]
        if modality != manifest.modality.name and given:
            raise DataLayoutError(
                f"{manifest.source.name} holds {manifest.modality.plural}, and {' and '.join(given)} "
                f"{'is' if len(given) == 1 else 'are'} for {modality}s. Leave it out."
            )
