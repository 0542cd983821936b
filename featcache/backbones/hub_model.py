"""What model cards say of a backbone: whether featcache builds it, and its repository on the Hugging Face Hub."""

from __future__ import annotations

from featcache.backbones.sources.registry import find_source
from featcache.backbones.text_sources.registry import find_text_source
from featcache.backbones.weights.location import PRETRAINED


def hub_model(name: str, weights: str) -> str:
    """The repository of the weights of a network.

    Parameters
    ----------
    name : str
        Of a network, or of a text encoder.
    weights : str
        Where its weights come from.

    Returns
    -------
    str
        Such as "timm/resnet18.a1_in1k"; "" if they are not from the Hub, or if that is not known.
    """
    if weights != PRETRAINED:
        return ""
    source = find_source(name) or find_text_source(name)
    return source.hub_model(name) if source else ""


def is_named(name: str) -> bool:
    """Whether featcache, or an installed package, builds a network or a text encoder of this name.

    Parameters
    ----------
    name : str
        Of a backbone.

    Returns
    -------
    bool
    """
    return find_source(name) is not None or find_text_source(name) is not None
