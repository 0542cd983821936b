"""What an extraction computes: `ExtractionRequest` before its network is loaded, `ExtractionPlan` after."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache._utils.environment import package_versions
from featcache._utils.monitor import Monitor
from featcache._utils.timing import PhaseTimer
from featcache.backbones.backbone import Backbone
from featcache.backbones.encoder import Encoder
from featcache.backbones.load import load_backbone, load_backbone_of
from featcache.backbones.load_text import load_text_encoder
from featcache.backbones.text_encoder import TextEncoder
from featcache.backbones.text_sources.registry import EMBEDDED_TEXT, find_text_source
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.reuse import engine_of_unfinished
from featcache.core.options import ExtractArguments, RuntimeOptions, ViewOptions, select
from featcache.core.specs import EMBEDDED, ExtractSpec, ViewSpec, cached_augment
from featcache.data.manifest import Manifest
from featcache.data.modality import IMAGES, TEXTS
from featcache.data.sample_loader import SampleLoader
from featcache.errors import BackboneError, CacheMismatchError, DataLayoutError
from featcache.text.loader import TextLoader
from featcache.vision.device_views import support
from featcache.vision.loader import ViewLoader
from featcache.vision.value_range import choose_value_range, describe_value_range

if TYPE_CHECKING:
    from torch import nn

    from featcache.vision.device_views.device_views import DeviceViews


@dataclass(frozen=True)
class ExtractorInfo:
    """What an extractor computes, and where.

    Parameters
    ----------
    spec : ExtractSpec
        All that decides a feature.
    dims : dict
        Width d of each layer.
    provenance : dict
        Host, date, device, engine and versions; stored, not compared.
    device_name, precision, note : str
        See `Backbone`.
    tf32 : bool
        See `Backbone.allows_tf32`.
    counts_device_views : bool
        Whether a device may make views, so that the cache counts them.
    """

    spec: ExtractSpec
    dims: dict[str, int]
    provenance: dict[str, Any]
    device_name: str
    precision: str
    note: str
    tf32: bool
    counts_device_views: bool


@dataclass(frozen=True)
class ExtractionPlan:
    """A loaded network, and how to run it over images or texts.

    Parameters
    ----------
    backbone : Encoder
        The frozen network; its weights may be loaded on first use.
    spec : ExtractSpec
        All that decides a feature.
    runtime : RuntimeOptions
        Complete; what decides only the time.
    match_engine : str
        The engine that made the features that the new ones go with, see `Backbone.select_engine`. Empty: none.
    engine_selected : bool
        Whether `Backbone.select_engine` was called.
    device_views : DeviceViews, optional
        Makes the views on the device of the network; None: the CPU makes them. By default this depends on the device.
    """

    backbone: Encoder
    spec: ExtractSpec
    runtime: RuntimeOptions
    match_engine: str = ""
    engine_selected: bool = False
    device_views: DeviceViews | None = None

    def __post_init__(self) -> None:
        network, view = self.backbone, self.spec.view
        if isinstance(view, ViewSpec) and (self.device_views is None or self.device_views.spec != view):
            maker = support.open_device_views(network.device, view) if isinstance(network, Backbone) else None
            object.__setattr__(self, "device_views", maker)

    @property
    def batch_size(self) -> int:
        """Views in a forward pass."""
        return self.runtime["batch_size"] or self.backbone.batch_size

    @property
    def note(self) -> str:
        """Notes for the user on the network and on what makes the views, a line each."""
        return "\n".join(filter(None, [self.backbone.note, *(self.device_views.notes if self.device_views else [])]))

    def select_engine(self, views: int) -> ExtractionPlan:
        """The plan on the engine that suits this number of views; a Backbone of the user keeps its engine."""
        if not self.engine_selected:
            engine = self.runtime["engine"]
            view = self.spec.view
            size = view.image_size if isinstance(view, ViewSpec) else view.max_length
            self.backbone.select_engine(size, engine, views, self.match_engine)
        return replace(self, engine_selected=True)

    def open_loader(self, manifest: Manifest, timer: PhaseTimer | None = None) -> SampleLoader:
        """Threads that make the views of these samples. Close it in the end."""
        if isinstance(self.backbone, TextEncoder):
            return TextLoader(manifest, self.spec.text_view, self.backbone.tokenizer, timer=timer)
        return ViewLoader(
            manifest,
            self.spec.image_view,
            workers=self.runtime["workers"],
            max_pixels=self.runtime["max_pixels"],
            timer=timer,
            device_views=self.device_views,
        )

    def check_device_views(self) -> None:
        """Compile what makes views on the devices, in advance. If it does not work, the CPU makes them."""
        if self.device_views and isinstance(self.backbone, Backbone):
            import torch

            for device in self.backbone.devices:
                self.device_views.check(torch.device(device))

    def info(self) -> ExtractorInfo:
        """What it computes, and where. Complete once the engine is selected."""
        backbone = self.backbone
        provenance = {
            "weights": backbone.weights,
            "device": backbone.device_name,
            "engine": backbone.engine,
            "versions": package_versions(),
            "host": platform.node(),
            "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **({"deterministic": True} if self.runtime.get("deterministic") else {}),
        }
        return ExtractorInfo(
            self.spec,
            dict(backbone.dims),
            provenance,
            backbone.device_name,
            backbone.precision,
            self.note,
            backbone.allows_tf32,
            self.device_views is not None,
        )


@dataclass(frozen=True)
class ExtractionRequest:
    """What the user requests. It can be sent to another machine, which loads the network there.

    Parameters
    ----------
    backbone : str, Backbone or TextEncoder
        A network brings its own weights, layers, device, precision and engine. For texts, the embedded network of
        images stands for the embedded encoder of texts.
    options : ExtractArguments
        Complete, with the value range that is used.
    match_engine : str
        See `ExtractionPlan`.
    modality : {"image", "text"}
        What the samples are.
    """

    backbone: str | Backbone | TextEncoder
    options: ExtractArguments
    match_engine: str = ""
    modality: str = IMAGES.name

    @classmethod
    def for_data(
        cls,
        manifest: Manifest,
        out: Path,
        backbone: str | Backbone | TextEncoder,
        options: ExtractArguments,
        monitor: Monitor,
    ) -> ExtractionRequest:
        """The request with the value range of images and the engine of an unfinished cache `out`.

        Raises DataLayoutError for a network of another modality, and for options of images with texts.
        """
        check_modality(backbone, options, manifest)
        if manifest.modality is TEXTS:
            backbone = EMBEDDED_TEXT if backbone == EMBEDDED else backbone
            monitor.note(f"texts, encoded by {backbone if isinstance(backbone, str) else backbone.name}")
            return cls(backbone, options, engine_of_unfinished(out), TEXTS.name)
        value_range = choose_value_range(options["value_range"], out, manifest, options["max_pixels"])
        monitor.note(describe_value_range(value_range))
        if side := options["decode_side"]:
            monitor.note(
                f"JPEG files are decoded at 1/2, 1/4 or 1/8 of their size if the short side then has {side} pixels"
            )
        options = {**options, "value_range": value_range}
        return cls(backbone, options, engine_of_unfinished(out))

    def load(self) -> ExtractionPlan:
        """Load the network.

        Raises
        ------
        BackboneError
        """
        options, backbone = self.options, self.backbone
        if self.modality == TEXTS.name:
            return self._load_for_texts()
        if isinstance(backbone, str):
            network = load_backbone(
                backbone,
                weights=options["weights"],
                layers=options["layers"],
                device=options["device"],
                precision=options["precision"],
                seed=options["seed"],
                image_size=options["image_size"],
                lazy=True,
            )
        elif isinstance(backbone, Backbone):
            network = backbone
        else:
            raise BackboneError(f"{backbone.name} is an encoder of texts, and the samples are images")
        view = select(ViewOptions, options)
        view["augment"] = cached_augment(options["augment"], options["views"])
        spec = network.extract_spec(
            views=options["views"],
            val_views=options["val_views"],
            dtype=options["dtype"],
            **view,
        )
        runtime = select(RuntimeOptions, options)
        return ExtractionPlan(network, spec, runtime, self.match_engine, engine_selected=network is backbone)

    def _load_for_texts(self) -> ExtractionPlan:
        options, backbone = self.options, self.backbone
        if isinstance(backbone, Backbone):
            raise BackboneError(f"{backbone.name} is a network for images, and the samples are texts")
        encoder = backbone
        if isinstance(encoder, str):
            encoder = load_text_encoder(
                encoder,
                weights=options["weights"],
                layers=options["layers"],
                device=options["device"],
                precision=options["precision"],
                seed=options["seed"],
            )
        spec = encoder.extract_spec(
            views=options["views"],
            val_views=options["val_views"],
            dtype=options["dtype"],
            augment=options["augment"] or "none",
            seed=options["seed"],
        )
        runtime = select(RuntimeOptions, options)
        return ExtractionPlan(encoder, spec, runtime, self.match_engine, engine_selected=encoder is backbone)


_OF_IMAGES = ("image_size", "interpolation", "value_range", "decode_side")


def check_modality(backbone: str | Backbone | TextEncoder, options: ExtractArguments, manifest: Manifest) -> None:
    """Raise DataLayoutError for a network of another modality than the data, and for options of images with texts."""
    name, plural = manifest.source.name, manifest.modality.plural
    is_text_encoder = isinstance(backbone, TextEncoder) or (
        isinstance(backbone, str) and find_text_source(backbone) is not None
    )
    if is_text_encoder != (manifest.modality is TEXTS) and backbone != EMBEDDED:
        network = backbone if isinstance(backbone, str) else backbone.name
        other = "an encoder of texts" if is_text_encoder else "a network for images"
        raise DataLayoutError(f"{name} holds {plural}, and {network} is {other}. Leave out the network, or the data.")
    given = [option for option in _OF_IMAGES if manifest.modality is TEXTS and options.get(option) is not None]
    if given:
        raise DataLayoutError(f"{name} holds texts, and {', '.join(given)} is for images. Leave it out.")


def load_cache_backbone(
    cache: FeatureCache, weights: str | None, device: str, backbone: Backbone | nn.Module | None = None
) -> Backbone:
    """Load the network that made a cache.

    Parameters
    ----------
    cache : FeatureCache
    weights : str or None
        Where its weights are now; None: where they were.
    device : str
    backbone : Backbone, nn.Module or None
        The network itself, where featcache cannot load it by name.

    Raises
    ------
    BackboneError
    CacheMismatchError
        Its weights have changed.
    """
    spec = cache.spec
    network = load_backbone_of(
        spec,
        cache.path,
        backbone=backbone,
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
