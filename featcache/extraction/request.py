"""`ExtractionRequest`: what an extraction computes, before its network is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from featcache._utils.monitor import Monitor
from featcache.backbones.encoder import Encoder
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.reuse import engine_of_unfinished
from featcache.core.options import CompleteArguments, ExtractArguments, RuntimeOptions, select
from featcache.core.specs import ExtractSpec
from featcache.data.manifest import Manifest
from featcache.data.modality import IMAGES
from featcache.errors import CacheMismatchError
from featcache.extraction.pipelines.registry import PIPELINES, select_pipeline
from featcache.extraction.plan import ExtractionPlan


@dataclass(frozen=True)
class ExtractionRequest:
    """What the user requests. It can be sent to another machine, which loads the network there.

    Parameters
    ----------
    backbone : str, Backbone or TextEncoder
        A network brings its own weights, layers, device, precision and engine.
    options : CompleteArguments
        With the values that depend on the data.
    match_engine : str
        See `ExtractionPlan`.
    modality : str, default "image"
        What the samples are.
    """

    backbone: str | Encoder
    options: CompleteArguments
    match_engine: str = ""
    modality: str = IMAGES.name

    @classmethod
    def for_data(
        cls,
        manifest: Manifest,
        out: Path | None,
        backbone: str | Encoder | None,
        options: ExtractArguments,
        monitor: Monitor,
    ) -> ExtractionRequest:
        """The request for these samples.

        Parameters
        ----------
        out : Path or None
            The cache to write: an unfinished one decides the engine. None: there is none.
        backbone : str, Backbone, TextEncoder or None
            None: the default network of the modality.

        Raises
        ------
        DataLayoutError
            The network, or an option, is for samples of another modality.
        """
        pipeline = select_pipeline(manifest, backbone, {**options})
        if backbone is None:
            backbone = pipeline.default_backbone
        complete = pipeline.complete(backbone, options, out, manifest, monitor)
        return cls(backbone, complete, engine_of_unfinished(out) if out else "", pipeline.modality.name)

    def load(self) -> ExtractionPlan:
        """Load the network.

        Raises
        ------
        BackboneError
        """
        pipeline = PIPELINES.get(self.modality)
        encoder, spec = pipeline.load(self.backbone, self.options)
        plan = pipeline.plan(encoder, spec, select(RuntimeOptions, self.options), self.match_engine)
        return replace(plan, engine_selected=encoder is self.backbone)


def load_cache_backbone(cache: FeatureCache, weights: str | None, device: str, backbone: Any = None) -> Encoder:
    """Load the network that made a cache.

    Parameters
    ----------
    cache : FeatureCache
    weights : str or None
        Where its weights are now; None: where they were.
    device : str
    backbone : Backbone, TextEncoder, nn.Module or None
        The network itself, where featcache cannot load it by name.

    Raises
    ------
    BackboneError
    CacheMismatchError
        Its weights have changed.
    """
    spec = cache.spec
    network = PIPELINES.get(spec.modality).load_of(
        spec,
        cache.path,
        backbone,
        weights=weights or cache.provenance.get("weights", "pretrained"),
        layers=spec.layers,
        device=device,
        precision=spec.precision,
        lazy=True,
    )
    if network.weights_sha256 != spec.weights_sha256:
        source = "--backbone" if backbone is not None else network.weights
        raise CacheMismatchError(
            f"{cache.path} was made with weights {spec.weights_sha256[:12]}..., those of {source} are "
            f"{network.weights_sha256[:12]}.... Give the right file with --weights, or extract again to another file."
        )
    return network


def plan_like(
    cache: FeatureCache,
    spec: ExtractSpec,
    runtime: RuntimeOptions,
    views: int,
    *,
    weights: str | None = None,
    backbone: Any = None,
) -> ExtractionPlan:
    """The network that made a cache, on the engine that suits this number of views, for features of `spec`.

    The other parameters are those of `load_cache_backbone`.
    """
    network = load_cache_backbone(cache, weights, runtime["device"], backbone)
    plan = PIPELINES.get(spec.modality).plan(network, spec, runtime, str(cache.provenance.get("engine", "")))
    return plan.select_engine(views)
