"""`load_backbone`: a `Backbone` by the name of its network; `load_backbone_of`: the one that made a cache or a head."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache._utils.formatting import split_names
from featcache.backbones.backbone import Backbone
from featcache.backbones.devices import resolve_device, resolve_precision
from featcache.backbones.factory import is_factory
from featcache.backbones.metadata_cache import (
    BackboneMetadata,
    is_cacheable,
    load_metadata_for,
    metadata_path,
    store_metadata,
)
from featcache.backbones.sources import registry
from featcache.backbones.weights.location import absolute
from featcache.core.specs import EMBEDDED, PENULTIMATE, ExtractSpec, Interpolation, is_arrays, no_network
from featcache.errors import BackboneError

if TYPE_CHECKING:
    from torch import nn

    from featcache.backbones.sources.base import BuiltNetwork


def load_backbone(
    name: str = EMBEDDED,
    *,
    weights: str = "pretrained",
    layers: str | Sequence[str] = (PENULTIMATE,),
    device: str = "auto",
    precision: str = "auto",
    seed: int = 0,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: Interpolation | None = None,
    lazy: bool = False,
) -> Backbone:
    """Load a network as a frozen feature extractor.

    Parameters
    ----------
    name : str, default "efficientnet_lite0"
        "efficientnet_lite0" (embedded, needs no download), a torchvision classification model such as "resnet18", or
        "timm/<model>", where the model may be "hf-hub:<user>/<repository>" or "local-dir:<folder>". Other packages add
        names by the entry point group "featcache.backbones", see `featcache.backbones.sources.base`.
    weights : str, default "pretrained"
        "pretrained", "none" (random weights drawn with `seed`), the path of a weights file, or the path of a folder
        that `finetune` wrote. "PATH#KEY" selects one of several state dicts in a file.
    layers : str or sequence of str, default ("penultimate",)
        "penultimate" (the input of the last linear layer), inner modules such as "layer3" or "layer3:max", or the sets
        "last", "stages" and "all"; see `featcache.core.layer_names`.
    device : str, default "auto"
        "auto", "cpu", "cuda", "cuda:1", "cuda:all" (all GPUs) or "mps".
    precision : {"auto", "fp32", "bf16", "fp16"}, default "auto"
        "auto" is bf16 if the device multiplies matrices in bf16, fp16 on older GPUs, and fp32 otherwise.
    seed : int, default 0
        Seed of random weights.
    image_size : int, optional
        Side of the views in pixels. A network for a fixed size is built for it, with interpolated positions. None is
        the usual size of the network.
    mean : sequence of 3 floats, optional
        Mean per channel of pixels scaled to 0..1. None is that of the weights.
    std : sequence of 3 floats, optional
        Standard deviation per channel of pixels scaled to 0..1. None is that of the weights.
    interpolation : {"bilinear", "bicubic"}, optional
        How images are resized. None is that of the weights.
    lazy : bool, default False
        Use metadata that an earlier run cached, and build the network when it is needed: a cached OpenVINO model does
        without it.

    Returns
    -------
    backbone : Backbone
        The network without its classifier.

    Raises
    ------
    BackboneError
        The name is unknown, or the weights are not available or do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from featcache import load_backbone
    >>> backbone = load_backbone(weights="none", device="cpu")
    >>> backbone.embed(np.zeros((2, 224, 224, 3), np.uint8)).shape
    (2, 1280)
    """
    if is_arrays(name):
        raise BackboneError(
            f"{name} is not a network: {no_network(name)}. Give the head features of the same kind: "
            "`fit_head(...).estimator.predict(features)`."
        )
    device, weights, layers = resolve_device(device), absolute(weights), split_names(layers)
    settings: dict[str, Any] = {
        "name": name,
        "weights": weights,
        "layers": layers,
        "device": device,
        "precision": resolve_precision(precision, device),
        "cache_conversion": is_cacheable(name),
    }
    requested = {"mean": mean, "std": std, "interpolation": interpolation}
    overrides = {key: value for key, value in requested.items() if value is not None}

    def build() -> BuiltNetwork:
        return registry.build(name, weights, seed, image_size)

    identity = (name, weights, layers, seed)
    metadata = load_metadata_for(image_size, *identity) if lazy else None
    if metadata:
        settings |= {"metadata": metadata, "weights_note": metadata.note, **metadata.preprocessing, **overrides}
        return Backbone(lambda: build().module, **settings)
    registry.check_name(name)
    built = build()
    note = f"{Path(weights).name}: {built.note}" if built.note else ""
    backbone = Backbone(built.module, weights_note=note, **settings, **{**built.preprocessing, **overrides})
    metadata = BackboneMetadata(backbone.weights_sha256, backbone.dims, built.preprocessing, note, built.fixed_size)
    for names in dict.fromkeys([layers, backbone.layers]):  # the second is what a cache stores
        path = metadata_path(name, weights, names, seed, image_size if built.fixed_size else None)
        store_metadata(path, metadata)
    return backbone


def load_backbone_of(
    spec: ExtractSpec,
    path: Path,
    *,
    weights: str,
    layers: Sequence[str],
    device: str,
    precision: str,
    backbone: Backbone | nn.Module | None = None,
    lazy: bool = False,
) -> Backbone:
    """Load the network of a spec, by its name or from the user's own network, with the preprocessing of the spec.

    The caller compares the weights with the spec's.

    Parameters
    ----------
    path : Path
        File or folder that was made with the network, for the message.
    backbone : Backbone or nn.Module, optional
        The user's network, of which a copy is used. None loads the network by its name.

    The other parameters are those of `load_backbone`.

    Raises
    ------
    BackboneError
        `load_backbone` cannot load the name, and `backbone` is None.
    """
    view = spec.image_view
    if backbone is not None:
        device = resolve_device(device)
        return Backbone(
            copy.deepcopy(backbone.module if isinstance(backbone, Backbone) else backbone),
            name=spec.backbone,
            weights=backbone.weights if isinstance(backbone, Backbone) else "none",
            image_size=view.image_size,
            resize_size=view.resize_size,
            interpolation=view.interpolation,
            mean=view.mean,
            std=view.std,
            layers=layers,
            device=device,
            precision=resolve_precision(precision, device),
        )
    try:
        return load_backbone(
            spec.backbone,
            weights=weights,
            layers=layers,
            device=device,
            precision=precision,
            seed=view.seed,
            image_size=view.image_size,
            mean=view.mean,
            std=view.std,
            interpolation=view.interpolation,
            lazy=lazy,
        )
    except BackboneError:
        if is_arrays(spec.backbone) or registry.is_named(spec.backbone):
            raise
    factory = spec.backbone if is_factory(spec.backbone) else "MODULE:FACTORY"
    raise BackboneError(
        f"{path} was made with your own network {spec.backbone!r}, and stores only its name. Pass the network: "
        f"--backbone {factory}, or backbone=... in Python."
    )


def preprocessing_of(spec: ExtractSpec, weights: str) -> dict[str, Any] | None:
    """The preprocessing of a spec's network, without loading its weights; None for a name that no source has.

    weights : "pretrained", "none" or a path.
    """
    if is_arrays(spec.backbone):
        return None
    metadata = load_metadata_for(spec.image_view.image_size, spec.backbone, weights, spec.layers, spec.image_view.seed)
    return metadata.preprocessing if metadata else registry.preprocessing(spec.backbone, weights)
