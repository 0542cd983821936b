"""`SavedModel`: what `fit_head` or `finetune` wrote, loaded and held against what it says of itself."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.backbones.backbone import Backbone
from featcache.backbones.devices import resolve_device, resolve_precision
from featcache.backbones.load import load_backbone_of
from featcache.core.layer_names import split_layers
from featcache.core.model_card import ModelCard
from featcache.core.model_folder import locate, reading
from featcache.core.specs import PENULTIMATE
from featcache.errors import BackboneError, HeadError
from featcache.heads import registry
from featcache.heads.io import load_head

if TYPE_CHECKING:
    from torch import nn

    from featcache.training.network import BackboneWithHead


@dataclass(frozen=True)
class SavedModel:
    """A model's card, its backbone, and what stands on it.

    model : a fitted classifier on the backbone's features; or the whole `BackboneWithHead`, with the trained copy of
        the backbone's module in it.
    """

    card: ModelCard
    backbone: Backbone
    model: Any


def open_model(
    path: str | os.PathLike[str],
    *,
    weights: str | None = None,
    device: str = "auto",
    precision: str | None = None,
    lazy: bool = True,
    backbone: Backbone | nn.Module | None = None,
) -> SavedModel:
    """Load a folder that `fit_head` or `finetune` wrote; executes no code from its files.

    Parameters
    ----------
    weights : where the backbone's weights lie now, if they have moved.
    precision : in what the backbone computes; None takes that of the cache, or the best that the device has.
    lazy : see `load_backbone`. backbone : the network, where it is the user's own, see `load_backbone_of`.

    Raises
    ------
    HeadError : not a model, or one that is refused. BackboneError : its backbone's weights are not to be had,
        or are others than those that the head was fitted on.
    """
    folder = Path(path)
    with reading(folder):
        return _open(folder, weights, device, precision, lazy, backbone)


def _open(
    folder: Path,
    weights: str | None,
    device: str,
    precision: str | None,
    lazy: bool,
    backbone: Backbone | nn.Module | None,
) -> SavedModel:
    card = ModelCard.read(folder)
    if not locate(folder, card.file).is_file():  # a pipe would make us wait
        raise HeadError(f"{folder} is damaged: it has no {card.file}. Fit or train it again.")
    spec, device = card.spec, resolve_device(device)
    whole = card.kind == "network"
    network = load_backbone_of(
        spec,
        folder,
        backbone=backbone,
        weights="none" if whole else weights or card.weights,
        layers=(PENULTIMATE,) if whole else split_layers(card.layer),
        device=device,
        precision=precision or _precision(spec.precision, device),
        lazy=lazy and not whole,
    )
    if whole:
        return SavedModel(card, network, _load_network(folder, card, network))
    if network.weights_sha256 != spec.weights_sha256:
        own = f"--backbone has {network.weights_sha256[:12]}.... Give the network with the weights it had then."
        named = f"{weights or card.weights} has {network.weights_sha256[:12]}.... Give the right file with --weights."
        raise BackboneError(
            f"{folder} was fitted on weights {spec.weights_sha256[:12]}... of {spec.backbone}, but "
            f"{named if backbone is None else own}"
        )
    return SavedModel(card, network, _load_head(folder, card, network))


def _load_network(folder: Path, card: ModelCard, backbone: Backbone) -> BackboneWithHead:
    from featcache.training.loop import linear_layer
    from featcache.training.network import BackboneWithHead

    network = BackboneWithHead(backbone.module, linear_layer(backbone.dim, len(card.classes), 0))
    network.load(locate(folder, card.file))
    network.to(backbone.device).eval()
    return network


def _load_head(folder: Path, card: ModelCard, backbone: Backbone) -> Any:
    estimator = load_head(locate(folder, card.file))
    if registry.is_multilabel(estimator) != card.multilabel:
        raise HeadError(f"{folder} is damaged: its head and model.json do not agree on how many labels an image has.")
    wrong = len(estimator.classes_) != len(card.classes) if card.multilabel else False
    width = sum(backbone.dims.values())
    if wrong or estimator.n_features_in_ != width or np.max(estimator.classes_) >= len(card.classes):
        raise HeadError(
            f"{folder} is damaged: its head has {estimator.n_features_in_} features and "
            f"{len(estimator.classes_)} classes, the backbone gives {width} and model.json names "
            f"{len(card.classes)}."
        )
    if card.multilabel:
        registry.set_thresholds(estimator, None if card.thresholds is None else np.array(card.thresholds))
    return estimator


def _precision(precision: str, device: str) -> str:
    """The precision of the cache, or the best that this device has."""
    try:
        return resolve_precision(precision, device)
    except BackboneError:
        return "auto"
