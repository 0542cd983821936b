"""A network of the user's own: taken from a factory that the user names, and again for what was made with it."""

from __future__ import annotations

import copy
import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.backbones.backbone import Backbone, load_backbone
from featcache.core.specs import PENULTIMATE, ExtractSpec, is_arrays
from featcache.errors import BackboneError, first_line

if TYPE_CHECKING:
    from torch import nn

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_factory(name: str) -> bool:
    """Whether a name is a dotted path to a factory, as in `package.module:function`."""
    return bool(_FACTORY.fullmatch(name))


def call_factory(name: str) -> Backbone | nn.Module:
    """What `package.module:function` returns.

    This imports and runs code: call it with what the user has typed, never with what a file says.

    Returns
    -------
    network : a Backbone; or a module from pixels (b, 3, s, s) to features (b, d).

    Raises
    ------
    BackboneError : it cannot be imported, fails, or returns something else.
    """
    module, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        network = found()
    except Exception as error:  # the user's code
        raise BackboneError(f"{name} gives no network: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(network, Backbone) and not hasattr(network, "state_dict"):
        raise BackboneError(
            f"{name} returns a {type(network).__name__}; a factory returns an nn.Module or a featcache.Backbone"
        )
    return network


def from_factory(
    name: str, *, layers: Sequence[str] = (PENULTIMATE,), device: str = "auto", precision: str = "fp32"
) -> Backbone:
    """A Backbone of a factory's network. A plain module gets ImageNet's mean and std, and 224 pixels.

    Parameters
    ----------
    Those of `load_backbone`.
    """
    network = call_factory(name)
    if not isinstance(network, Backbone):
        return Backbone(network, name=name, **_settings(layers, device, precision))
    return Backbone(
        network.module,
        name=network.name,
        weights=network.weights,
        image_size=network.image_size,
        resize_size=network.resize_size,
        interpolation=network.interpolation,
        mean=network.mean,
        std=network.std,
        **_settings(layers, device, precision),
    )


def network_for(
    spec: ExtractSpec,
    holder: Path,
    *,
    weights: str,
    layers: Sequence[str],
    device: str,
    precision: str,
    backbone: Backbone | nn.Module | None = None,
    lazy: bool = False,
) -> Backbone:
    """The network of a spec: loaded by its name, or the user's own, given again, with the preprocessing of the spec.

    Its weights are not compared: the caller says what a difference means.

    Parameters
    ----------
    holder : the file or folder that was made with it, for the message. Others : see `load_backbone`.

    Raises
    ------
    BackboneError : a name that `load_backbone` does not take, and no `backbone`.
    """
    view = spec.view
    if backbone is not None:
        module = copy.deepcopy(backbone.module if isinstance(backbone, Backbone) else backbone)
        return Backbone(
            module,
            name=spec.backbone,
            weights=backbone.weights if isinstance(backbone, Backbone) else "none",
            image_size=view.image_size,
            resize_size=view.resize_size,
            interpolation=view.interpolation,
            mean=spec.mean,
            std=spec.std,
            **_settings(layers, device, precision),
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
            mean=spec.mean,
            std=spec.std,
            interpolation=view.interpolation,
            lazy=lazy,
        )
    except BackboneError:
        from featcache.backbones.sources.registry import is_named  # seconds of imports

        if is_arrays(spec.backbone) or is_named(spec.backbone):
            raise
    factory = spec.backbone if is_factory(spec.backbone) else "MODULE:FACTORY"
    raise BackboneError(
        f"{holder} was made with a network of your own, {spec.backbone!r}, of which it holds the name alone. Give it "
        f"again: --backbone {factory}, or backbone=... in Python."
    )


def _settings(layers: Sequence[str], device: str, precision: str) -> dict[str, Any]:
    from featcache.backbones.devices import resolve_device, resolve_precision

    device = resolve_device(device)
    return {"layers": tuple(layers), "device": device, "precision": resolve_precision(precision, device)}
