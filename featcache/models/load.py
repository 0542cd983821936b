"""`open_model`: load what `fit_head` or `finetune` wrote, and check it against its card."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache._utils.formatting import split_names
from featcache.backbones.devices import resolve_device, resolve_precision
from featcache.core.model_card import ModelCard
from featcache.core.model_folder import locate, reading
from featcache.core.specs import PENULTIMATE, ExtractSpec
from featcache.errors import BackboneError, HeadError
from featcache.extraction.pipelines.registry import PIPELINES
from featcache.heads.estimators import is_multilabel, set_thresholds
from featcache.heads.io import load_head

if TYPE_CHECKING:
    from torch import nn

    from featcache.backbones.encoder import Encoder
    from featcache.backbones.trainable import TrainableNetwork
    from featcache.training.network import BackboneWithHead


@dataclass(frozen=True)
class SavedModel:
    """A loaded model.

    Attributes
    ----------
    card : ModelCard
    backbone : Backbone, TextEncoder or JoinedNetwork
    model : estimator or BackboneWithHead
        A fitted classifier on the backbone's features, or the whole fine-tuned network, which includes its own copy of
        the backbone's module.
    """

    card: ModelCard
    backbone: Any
    model: Any


def open_model(
    path: str | os.PathLike[str],
    *,
    weights: str | None = None,
    device: str = "auto",
    precision: str | None = None,
    lazy: bool = True,
    backbone: Encoder | nn.Module | None = None,
    several: bool = False,
) -> SavedModel:
    """Load a folder that `fit_head` or `finetune` wrote. It runs no code from the files.

    Parameters
    ----------
    path : path
        The folder.
    weights : str, optional
        Where the backbone's weights are now, if they were moved; of several networks NAME=PATH,...
    device : str
        "auto", "cpu", "cuda", "cuda:1", "cuda:all" or "mps". Default: "auto".
    precision : str, optional
        In which the backbone computes. Default: that of the cache, or the best of the device.
    lazy : bool
        See `load_backbone`. Default: True.
    backbone : Backbone, TextEncoder or torch.nn.Module, optional
        The network, if it is the user's own, see `Pipeline.load_of`.
    several : bool
        Whether the model may have several networks; `backbone` is then a `JoinedNetwork`. Default: False.

    Raises
    ------
    HeadError
        The folder holds no model, or a damaged one, or a model of several networks.
    BackboneError
        The backbone's weights cannot be loaded, or differ from those that the head was fitted on.
    """
    folder = Path(path)
    with reading(folder):
        card = _read_card(folder)
        if not card.networks:
            return _open(folder, card, weights, device, precision, lazy, backbone)
        if not several or backbone is not None:
            what = "--backbone gives one network" if several else "this is for heads on one network"
            networks = ", ".join(f"{network.name}: {network.spec.backbone}" for network in card.networks)
            raise HeadError(
                f"{folder} uses features of several networks ({networks}), and {what}. Fit a head to one of the caches."
            )
        return _open_several(folder, card, weights, device)


def _open(
    folder: Path,
    card: ModelCard,
    weights: str | None,
    device: str,
    precision: str | None,
    lazy: bool,
    backbone: Encoder | nn.Module | None,
) -> SavedModel:
    spec, device = card.spec, resolve_device(device)
    is_network = card.kind == "network"
    network: Any = PIPELINES.get(spec.modality).load_of(
        spec,
        folder,
        backbone,
        weights="none" if is_network else weights or card.weights,
        layers=(PENULTIMATE,) if is_network else layers_of(spec, card.layer),
        device=device,
        precision=precision or _precision(spec.precision, device),
        lazy=lazy and not is_network,
    )
    if not is_network:
        network.keep_layers(split_names(card.layer))
    if is_network:
        return SavedModel(card, network, _load_network(folder, card, network))
    _check_weights(folder, card.spec, network, weights or card.weights, backbone is not None)
    head = _load_head(folder, card)
    check_width(folder, card, head, sum(network.dims.values()), "the backbone")
    return SavedModel(card, network, head)


def _open_several(folder: Path, card: ModelCard, weights: str | None, device: str) -> SavedModel:
    """A head on several networks."""
    from featcache.models.joined_network import JoinedNetwork

    device, moved = resolve_device(device), _moved_weights(folder, card, weights)
    networks = []
    for network_card in card.networks:
        spec, path = network_card.spec, moved.get(network_card.name, network_card.weights)
        network: Any = PIPELINES.get(spec.modality).load_of(
            spec,
            folder,
            None,
            weights=path,
            layers=layers_of(spec, network_card.layer),
            device=device,
            precision=_precision(spec.precision, device),
            lazy=True,
        )
        network.keep_layers(split_names(network_card.layer))
        _check_weights(folder, spec, network, path, False)
        networks.append(network)
    head = _load_head(folder, card)
    check_width(folder, card, head, sum(sum(network.dims.values()) for network in networks), "the networks together")
    return SavedModel(card, JoinedNetwork(tuple(networks), card.networks), head)


def _moved_weights(folder: Path, card: ModelCard, weights: str | None) -> dict[str, str]:
    """The paths of NAME=PATH,... by name. Raises HeadError."""
    moved = {}
    for text in split_names(weights) if weights else ():
        name, _, path = text.partition("=")
        if not path or name not in {network.name for network in card.networks}:
            names = ", ".join(f"{network.name}=PATH" for network in card.networks)
            raise HeadError(f"{folder} uses several networks: say which of them {text!r} is for, as in {names}")
        moved[name] = path
    return moved


def _check_weights(folder: Path, spec: ExtractSpec, network: Any, weights: str, is_own: bool) -> None:
    """Raise BackboneError if a network has other weights than the one that made the features."""
    if network.weights_sha256 != spec.weights_sha256:
        own_network = f"--backbone has {network.weights_sha256[:12]}.... Give the network with the weights it had then."
        named_network = f"{weights} has {network.weights_sha256[:12]}.... Give the right file with --weights."
        raise BackboneError(
            f"{folder} was fitted on weights {spec.weights_sha256[:12]}... of {spec.backbone}, but "
            f"{own_network if is_own else named_network}"
        )


def layers_of(spec: ExtractSpec, layer: str) -> tuple[str, ...]:
    """All layers of the cache, whose network may be converted already; those of a head if the cache lacks them."""
    names = split_names(layer)
    return spec.layers if set(names) <= set(spec.layers) else names


def _load_network(folder: Path, card: ModelCard, backbone: TrainableNetwork) -> BackboneWithHead:
    from featcache.training.loop import linear_layer
    from featcache.training.network import BackboneWithHead

    network = BackboneWithHead(backbone.frozen_module(), linear_layer(backbone.dim, len(card.classes), 0))
    network.load(locate(folder, card.file))
    network.to(backbone.device).eval()
    return network


def open_head(path: str | os.PathLike[str]) -> tuple[ModelCard, Any]:
    """Load the head that `fit_head` wrote, without its network: for features that are there already.

    Parameters
    ----------
    path : path
        The folder.

    Returns
    -------
    card : ModelCard
    estimator : estimator
        A fitted classifier.

    Raises
    ------
    HeadError
        The folder holds no model, a damaged one, or a fine-tuned network, whose features no cache has.
    """
    folder = Path(path)
    with reading(folder):
        card = _read_card(folder)
        if card.kind == "network":
            raise network_error(str(folder), card)
        return card, _load_head(folder, card)


def network_error(name: str, card: ModelCard) -> HeadError:
    """The error of a fine-tuned network that is to predict a cache. name : of the model."""
    return HeadError(
        f"{name} is a fine-tuned network, whose features no cache has. Give the {card.spec.modality}s themselves, or a "
        "head of `featcache fit-head`."
    )


def check_width(path: str | os.PathLike[str], card: ModelCard, estimator: Any, width: int, source: str) -> None:
    """Raise HeadError if a head has not as many features as its layers give.

    Parameters
    ----------
    path : path
        The folder of the head.
    card : ModelCard
    estimator : estimator
        A fitted classifier.
    width : int
        Of all its layers together.
    source : str
        What gives the features, for the message: "the backbone".
    """
    if estimator.n_features_in_ != width or np.max(estimator.classes_) >= len(card.classes):
        raise HeadError(
            f"{path} is damaged: its head has {estimator.n_features_in_} features and "
            f"{len(estimator.classes_)} classes, {source} gives {width} and model.json names "
            f"{len(card.classes)}."
        )


def _read_card(folder: Path) -> ModelCard:
    card = ModelCard.read(folder)
    if not locate(folder, card.file).is_file():  # reading a pipe would wait
        raise HeadError(f"{folder} is damaged: it has no {card.file}. Fit or train it again.")
    return card


def _load_head(folder: Path, card: ModelCard) -> Any:
    estimator = load_head(locate(folder, card.file))
    if is_multilabel(estimator) != card.multilabel:
        raise HeadError(
            f"{folder} is damaged: its head and model.json disagree on whether samples have several labels."
        )
    if card.multilabel and len(estimator.classes_) != len(card.classes):
        raise HeadError(
            f"{folder} is damaged: its head has {len(estimator.classes_)} labels, and model.json names "
            f"{len(card.classes)}."
        )
    if card.multilabel:
        set_thresholds(estimator, None if card.thresholds is None else np.array(card.thresholds))
    return estimator


def _precision(precision: str, device: str) -> str:
    """The precision of the cache, or the best of this device."""
    try:
        return resolve_precision(precision, device)
    except BackboneError:
        return "auto"
