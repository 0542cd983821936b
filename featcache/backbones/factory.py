"""Networks of the user's own: `MODULE:FUNCTION` names a function that returns one."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from featcache.backbones.backbone import Backbone
from featcache.backbones.devices import resolve_device, resolve_precision
from featcache.backbones.text_encoder import TextEncoder
from featcache.core.specs import PENULTIMATE
from featcache.errors import BackboneError, FeatcacheError, first_line

if TYPE_CHECKING:
    from torch import nn

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_factory(name: str) -> bool:
    """Whether a name has the form `package.module:function`."""
    return bool(_FACTORY.fullmatch(name))


def call_factory(name: str) -> Backbone | TextEncoder | nn.Module:
    """The network that `package.module:function` returns.

    This imports and runs code: call it with a name that the user typed, never with one from a file.

    Returns
    -------
    network : Backbone, or a module from pixels (b, 3, s, s) to features (b, d); for texts TextEncoder.

    Raises
    ------
    BackboneError : the factory cannot be imported, fails, or returns something else.
    """
    module, _, attribute = name.partition(":")
    try:
        factory: Any = importlib.import_module(module)
        for part in attribute.split("."):
            factory = getattr(factory, part)
        network = factory()
    except Exception as error:  # the user's code
        raise BackboneError(f"the factory {name} failed: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(network, (Backbone, TextEncoder)) and not hasattr(network, "state_dict"):
        raise BackboneError(
            f"{name} returns a {type(network).__name__}; a factory must return an nn.Module or a featcache.Backbone, "
            "for texts a featcache.TextEncoder"
        )
    return network


def from_factory(
    name: str, *, layers: str | Sequence[str] = (PENULTIMATE,), device: str = "auto", precision: str = "auto"
) -> Backbone | TextEncoder:
    """The network of a factory with these settings, see `load_backbone` and `load_text_encoder`.

    A plain module is one of images, with ImageNet's mean and std, and 224 pixels.

    Raises
    ------
    BackboneError : see `call_factory`.
    """
    network = call_factory(name)
    device = resolve_device(device)
    settings: dict[str, Any] = {"layers": layers, "device": device, "precision": resolve_precision(precision, device)}
    if isinstance(network, TextEncoder):
        return network.with_settings(**settings)
    if not isinstance(network, Backbone):
        return _of_images(network, name, settings)
    return Backbone(
        network.module,
        name=network.name,
        weights=network.weights,
        image_size=network.image_size,
        resize_size=network.resize_size,
        interpolation=network.interpolation,
        mean=network.mean,
        std=network.std,
        **settings,
    )


def _of_images(network: nn.Module, name: str, settings: dict[str, Any]) -> Backbone:
    """A plain module as a Backbone. Raises BackboneError with a hint if it does not take images."""
    import torch

    try:
        return Backbone(network, name=name, **settings)
    except (FeatcacheError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of the network's own code
        raise BackboneError(
            f"the network of {name} does not take images: {type(error).__name__}: {first_line(error)}. A factory for "
            "texts returns a featcache.TextEncoder."
        ) from error
